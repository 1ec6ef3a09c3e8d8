"""What OpenVINO is given instead of the file: the deformable convolution as its own operator, biases of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deblur_deploy.graph.for_openvino import give_own_biases, read_for_openvino

Tensors = dict[str, NDArray[np.float32]]

INPUTS = ("X", "W", "offset", "B", "mask")


def draw_deform_conv(seed: int, *, bias: bool = False, mask: bool = False) -> tuple[dict[str, Any], Tensors]:
    """Attributes of an ONNX DeformConv with unequal axes, and tensors with offsets up to far outside the picture."""
    rng = np.random.default_rng(seed)
    kernel, strides, dilations = (rng.integers(1, high, 2, endpoint=True) for high in (4, 3, 2))
    pads = rng.integers(0, 3, 4)
    group, offset_group = (int(n) for n in rng.choice([1, 2], 2))
    size = rng.integers(11, 20, 2)
    out = (size + pads[:2] + pads[2:] - dilations * (kernel - 1) - 1) // strides + 1
    taps = offset_group * int(np.prod(kernel))
    tensors = {
        "X": rng.standard_normal((2, 8, *size)),
        "W": rng.standard_normal((6, 8 // group, *kernel)) / 4,
        "offset": rng.choice([0.5, 3.0, 30.0]) * rng.standard_normal((2, 2 * taps, *out)),
        "B": rng.standard_normal(6) if bias else None,
        "mask": rng.random((2, taps, *out)) if mask else None,
    }
    if rng.random() < 0.25:  # exactly on pixels, where a wrong border rule shows
        tensors["offset"] = tensors["offset"].round()
    lists = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    attributes = {name: [int(n) for n in values] for name, values in lists.items()}
    given = {name: value.astype(np.float32) for name, value in tensors.items() if value is not None}
    return attributes | {"group": group, "offset_group": offset_group}, given


def write_node(path: Path, attributes: dict[str, Any], tensors: Tensors, domain: str = "") -> Path:
    """A file of one deformable convolution with constant weights, for frames of any size."""
    kind = "DeformConv2d" if domain else "DeformConv"
    names = [name if name in tensors else "" for name in INPUTS[: 3 if domain else 5]]
    node = helper.make_node(kind, names, ["Y"], domain=domain, **attributes)
    free = [name for name in tensors if name not in ("W", "B")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in (*free, "Y")]
    constants = [numpy_helper.from_array(tensors[name], name) for name in ("W", "B") if name in tensors]
    graph = helper.make_graph([node], "one", values[:-1], values[-1:], constants)
    opsets = [helper.make_opsetid("", 19)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def run_openvino(path: Path, tensors: Tensors) -> NDArray[np.float32]:
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16 where it has AMX
    compiled = core.compile_model(read_for_openvino(core, path), "CPU", settings)
    feeds = {value.get_any_name(): tensors[value.get_any_name()] for value in compiled.inputs}
    return np.asarray(compiled(feeds)[0])


def run_onnxruntime(path: Path, tensors: Tensors) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {value.name: tensors[value.name] for value in session.get_inputs()})[0])


@pytest.mark.parametrize("seed", range(24))
def test_the_deformable_convolution_is_onnxruntimes(tmp_path: Path, seed: int) -> None:
    attributes, tensors = draw_deform_conv(seed, bias=seed % 2 == 1, mask=seed % 4 > 1)
    path = write_node(tmp_path / "standard.onnx", attributes, tensors)
    expected = run_onnxruntime(path, tensors)
    ours = run_openvino(path, tensors)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_the_projects_own_node_is_the_same_operator(tmp_path: Path) -> None:
    attributes, tensors = draw_deform_conv(3)
    expected = run_onnxruntime(write_node(tmp_path / "standard.onnx", attributes, tensors), tensors)
    ours = run_openvino(write_node(tmp_path / "plugin.onnx", attributes, tensors, domain="deblur"), tensors)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_openvino_computes_it_with_one_operator(tmp_path: Path) -> None:
    attributes, tensors = draw_deform_conv(0)
    path = write_node(tmp_path / "plugin.onnx", attributes, tensors, domain="deblur")
    kinds = [op.get_type_name() for op in read_for_openvino(openvino.Core(), path).get_ordered_ops()]
    assert kinds.count("DeformableConvolution") == 1
    assert "GridSample" not in kinds


def shared_bias_model() -> onnx.ModelProto:
    """One convolution applied twice, with a ReLU between."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["first"]),
        helper.make_node("Relu", ["first"], ["bent"]),
        helper.make_node("Conv", ["bent", "w", "b"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1), "w"),
        numpy_helper.from_array(np.arange(4, dtype=np.float32) - 1, "b"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "twice", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_a_bias_used_twice_is_copied_and_changes_nothing(tmp_path: Path) -> None:
    model = shared_bias_model()
    onnx.save(model, tmp_path / "shared.onnx")
    assert give_own_biases(model.graph) == 1
    onnx.checker.check_model(model, full_check=True)
    assert len({node.input[2] for node in model.graph.node if node.op_type == "Conv"}) == 2
    onnx.save(model, tmp_path / "own.onnx")
    x = {"x": np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)}
    expected = run_onnxruntime(tmp_path / "shared.onnx", x)
    assert np.array_equal(run_onnxruntime(tmp_path / "own.onnx", x), expected)
    assert np.array_equal(run_openvino(tmp_path / "shared.onnx", x), expected)


def test_openvino_joins_every_bias_and_activation_to_its_convolution(tmp_path: Path) -> None:
    path = tmp_path / "shared.onnx"
    onnx.save(shared_bias_model(), path)
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16 where it has AMX
    compiled = core.compile_model(read_for_openvino(core, path), "CPU", settings)
    layers = [op.get_rt_info()["layerType"].astype(str) for op in compiled.get_runtime_model().get_ordered_ops()]
    assert layers.count("Convolution") == 2
    assert not {"Subgraph", "Eltwise", "Add", "Relu"} & set(layers)
