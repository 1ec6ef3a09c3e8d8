"""A network with free sizes, fixed at one: the same graph as one that was written for that size."""

from __future__ import annotations

import onnx
import pytest

from deblur_deploy.core.errors import ConfigError, ExportError
from deblur_deploy.graph.node_costs import compute_nodes
from deblur_deploy.graph.sizes import fix_sizes, fix_to_shape, free_dimensions


def graph(side: str) -> onnx.ModelProto:
    """A convolution behind padding to a multiple of 4 that is computed from the shape."""
    return onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 19]>
        g (float[batch,3,{side},width] x) => (float[batch,5,rows,columns] y)
        <int64[2] three = {{3, 3}}, int64[2] four = {{4, 4}}, int64[6] none = {{0, 0, 0, 0, 0, 0}}>
        {{
            size = Shape <start = 2> (x)   raised = Add(size, three)   count = Div(raised, four)
            padded_size = Mul(count, four)   rest = Sub(padded_size, size)   pads = Concat <axis = 0> (none, rest)
            padded = Pad <mode = "edge"> (x, pads)   y = Conv(padded, w)
        }}""")


@pytest.fixture
def model() -> onnx.ModelProto:
    free = graph("height")
    free.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [5, 3, 1, 1], [0.5] * 15))
    return free


def test_free_dimensions_are_found_by_name(model):
    assert free_dimensions(model) == ("batch", "height", "width")


def test_arithmetic_is_counted_for_the_size_that_is_asked_for(model):
    with pytest.raises(ExportError, match="not fixed"):
        compute_nodes(model)
    (node,) = compute_nodes(fix_sizes(model, {"batch": 2, "height": 5, "width": 8}))
    assert node.macs == 2 * 5 * 3 * 8 * 8  # padded to 8x8
    assert free_dimensions(model) == ("batch", "height", "width")  # the model itself is as it was


def test_a_dimension_without_a_value_is_named(model):
    with pytest.raises(ExportError, match="'height' is not fixed") as caught:
        fix_sizes(model, {"batch": 1, "width": 8})
    assert "export the file again" in caught.value.hint


def relu(shape: str, output: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 19]> g (float[{shape}] x) => (float[{output}] y) {{ y = Relu(x) }}'
    )


@pytest.mark.parametrize("output", ["batch,3,height,width", "a,b,c,d"])
@pytest.mark.parametrize("is_named", [True, False])
def test_a_network_is_fixed_to_a_shape(output, is_named):
    free = relu("batch,3,height,width", output)
    for dim in [] if is_named else free.graph.input[0].type.tensor_type.shape.dim:
        if dim.dim_param:
            dim.ClearField("dim_param")
    fixed = onnx.shape_inference.infer_shapes(fix_to_shape(free, "x", (2, 3, 48, 64)))

    for value in (*fixed.graph.input, *fixed.graph.output):
        assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == [2, 3, 48, 64]


def test_one_name_for_two_sizes_is_one_size():
    with pytest.raises(ConfigError, match="are one, 'S'"):
        fix_to_shape(relu("1,3,S,S", "1,3,S,S"), "x", (1, 3, 48, 64))
