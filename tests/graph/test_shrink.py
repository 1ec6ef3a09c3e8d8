"""What shrinking leaves out changes no number, and the report adds up."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from onnxruntime import InferenceSession

from deblur_deploy.core.images import Resolution
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.graph.dequantize import drop_quantization
from deblur_deploy.graph.shrink import (
    bytes_by_category,
    halve_float_weights,
    merge_duplicates,
    restore_float_weights,
    shorten,
)
from deblur_deploy.network.srn import SRN, SRNConfig


def network(body: str, **constants: object) -> onnx.ModelProto:
    """A graph from x (1, 2, 4, 4) to y."""
    head = '<ir_version: 9, opset_import: ["": 19]> long_graph_name (float[1,2,4,4] x) => (float[N,C,H,W] y)'
    model = parser.parse_model(f"{head} {{ {body} }}")
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), k) for k, v in constants.items())
    for number, node in enumerate(model.graph.node):
        node.name = f"/a/long/path/{node.op_type}_{number}"
    return model


def result(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4), dtype=np.float32)
    return session.run(None, {"x": x})[0]


WEIGHT = np.random.default_rng(1).standard_normal((2, 2, 3, 3), dtype=np.float32)


def test_equal_constants_and_quantizers_become_one():
    pair = "q{0} = QuantizeLinear(x, s{0}, z{0}) d{0} = DequantizeLinear(q{0}, s{0}, z{0})"
    scales = {"s1": np.float32(0.1), "s2": np.float32(0.1), "s3": np.float32(0.2)}
    zeros = {f"z{number}": np.int8(0) for number in (1, 2, 3)}
    body = f"{pair.format(1)} {pair.format(2)} {pair.format(3)} t = Add(d1, d2) y = Add(t, d3)"
    model = network(body, **scales, **zeros)
    before = result(model)

    merge_duplicates(model)

    assert [node.op_type for node in model.graph.node].count("QuantizeLinear") == 2
    assert len(model.graph.initializer) == 3  # two scales and one zero point
    assert np.array_equal(result(model), before)


def test_constants_of_another_shape_stay_apart():
    constants = {"a": np.float32(0), "b": np.float32([0]), "c": np.float32([0, 0, 0, 0])}
    model = network("t = Add(x, a) u = Add(t, b) y = Add(u, c)", **constants)

    merge_duplicates(model)

    assert len(model.graph.initializer) == 3


def test_float_weights_become_float16_with_one_cast_and_come_back():
    body = "t = Conv<pads = [1, 1, 1, 1]>(x, w, b) y = Conv<pads = [1, 1, 1, 1]>(t, w, b)"
    model = network(body, w=WEIGHT, b=np.float32([0.1, 0.2]))
    exact = result(model)

    assert halve_float_weights(model) == 1

    assert [node.op_type for node in model.graph.node] == ["Cast", "Conv", "Conv"]
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    assert sorted(kinds.values()) == [TensorProto.FLOAT, TensorProto.FLOAT16]
    assert kinds["b"] == TensorProto.FLOAT
    halved = result(model)
    assert 0 < np.abs(halved - exact).max() < 0.02
    restore_float_weights(model)
    assert [node.op_type for node in model.graph.node] == ["Conv", "Conv"]
    assert np.array_equal(result(model), halved)


def test_a_weight_beyond_float16_stays_float32():
    model = network("y = Conv<pads = [1, 1, 1, 1]>(x, w)", w=WEIGHT * 1e6)

    assert halve_float_weights(model) == 0
    assert [item.data_type for item in model.graph.initializer] == [TensorProto.FLOAT]


def test_names_get_short_and_only_layers_keep_theirs():
    attributes = "<strides = [1, 1], dilations = [1, 1], group = 1, pads = [0, 0, 0, 0], kernel_shape = [3, 3]>"
    other = "<strides = [2, 1], dilations = [1, 1], group = 2, pads = [1, 1, 1, 1], kernel_shape = [3, 3]>"
    body = f"intermediate = Conv{other}(x, weight, bias) r = Relu(intermediate) y = Relu(r)"
    model = network(body, weight=WEIGHT[:, :1], bias=np.float32([1, 2]))
    before = result(model)

    shorten(model)

    assert [node.name for node in model.graph.node] == ["/a/long/path/Conv_0", "Relu_1", "Relu_2"]
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["x", "y"]
    assert {len(name) for node in model.graph.node for name in (*node.input, *node.output)} == {1}
    kept = {attribute.name for attribute in model.graph.node[0].attribute}
    assert kept == {"strides", "group", "pads", "kernel_shape"}
    assert np.array_equal(result(model), before)
    plain = network(f"y = Conv{attributes}(x, weight)", weight=WEIGHT)
    shorten(plain)
    assert [attribute.name for attribute in plain.graph.node[0].attribute] == ["kernel_shape"]


def test_names_stay_apart_where_there_are_many():
    chain = " ".join(f"v{number + 1} = Relu(v{number})" for number in range(120))
    model = network(f"v0 = Relu(x) {chain} y = Relu(v120)")
    shorten(model)
    outputs = [node.output[0] for node in model.graph.node]
    assert len(set(outputs)) == len(outputs) == 122
    assert "x" not in outputs
    result(model)


def test_the_report_adds_up_to_the_file():
    model = network("y = Conv<pads = [1, 1, 1, 1]>(x, w, b)", w=WEIGHT, b=np.float32([0.1, 0.2]))
    model.graph.initializer.append(helper.make_tensor("codes", TensorProto.INT8, [3], [1, 2, 3]))

    sizes = bytes_by_category(model)

    assert sum(sizes.values()) == len(model.SerializeToString())
    assert sizes["float32"] > WEIGHT.nbytes
    assert sizes["quantized weights"] < 20


@pytest.mark.parametrize("quantized", [False, True])
def test_an_exported_network_has_no_long_names_but_those_of_layers(quantized, tiny_config: SRNConfig):
    net = SRN(tiny_config).eval()
    if quantized:
        pytest.importorskip("modelopt", reason="quantizers come from ModelOpt")
        from deblur_deploy.compress.quantize import quantize_network

        quantize_network(net, {"exempt": ["head"]}, [np.random.default_rng(0).random((1, 3, 32, 32), np.float32)])
    model = network_to_onnx(net, Resolution(32, 32))

    names = {name for node in model.graph.node for name in (*node.input, *node.output)} - {"blurred", "restored"}
    assert max(map(len, names)) == 2
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "DeformConv2d")]
    assert len(set(layers)) == len(layers)
    assert "/head/Conv" in layers


def test_dropping_quantizers_gives_back_plain_float_weights(tiny_config: SRNConfig):
    from deblur_deploy.compress.quantize import quantize_network

    torch.manual_seed(0)
    net = SRN(tiny_config).eval()
    quantize_network(net, {"exempt": ["head"]}, [np.random.default_rng(0).random((1, 3, 32, 32), np.float32)])

    floats, _ = drop_quantization(network_to_onnx(net, Resolution(32, 32)))

    assert not any(node.op_type in ("Cast", "QuantizeLinear", "DequantizeLinear") for node in floats.graph.node)
    assert {item.data_type for item in floats.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
