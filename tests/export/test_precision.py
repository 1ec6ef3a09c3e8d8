"""Typed float16: what becomes float16, what stays float32, and that the picture stays the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

from deblur_deploy.config import PrecisionConfig
from deblur_deploy.core.artifact import Artifact, Draft, NetworkSpec, load_artifact, new_step, write_artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError, ExportError
from deblur_deploy.core.images import ImageSpec, Resolution, to_batch
from deblur_deploy.export.precision import lower_precision
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.graph.dequantize import drop_quantization
from deblur_deploy.graph.retype import convert_to_fp16
from deblur_deploy.network.srn import SRN, SRNConfig

FP32, FP16 = TensorProto.FLOAT, TensorProto.FLOAT16
SIZE = Resolution(60, 44)  # no multiple of 16: the graph pads and crops


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    torch.manual_seed(0)
    net = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval()
    torch.nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.05)
    torch.nn.init.normal_(net.head.weight, std=0.05)
    return network_to_onnx(net, SIZE)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    values = (*graph.input, *graph.value_info, *graph.output)
    return types | {value.name: value.type.tensor_type.elem_type for value in values}


def run(model: onnx.ModelProto, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def conv_graph(body: str, **weights: NDArray) -> onnx.ModelProto:
    """A network on x (1, 2, 4, 4) that gives y (1, 2, 4, 4)."""
    head = '<ir_version: 9, opset_import: ["": 19]> g (float[1,2,4,4] x) => (float[1,2,4,4] y)'
    model = parser.parse_model(f"{head} {{ {body} }}")
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def test_picture_stays_the_same(network: onnx.ModelProto, photo: NDArray[np.uint8]) -> None:
    batch = to_batch(photo[:44, :60])
    exact, typed = run(network, batch), run(convert_to_fp16(network), batch)
    assert typed.dtype == np.float32
    assert np.abs(exact - batch).max() > 0.05  # the network does something
    assert np.abs(typed - exact).max() <= 2e-3


def test_convolutions_are_float16_and_the_image_path_is_float32(network: onnx.ModelProto) -> None:
    typed = convert_to_fp16(network)
    types = element_types(typed)
    operands: dict[str, list[set[int]]] = {}
    for node in typed.graph.node:
        names = {*node.input[:2], node.output[0]} & types.keys()
        floats = {types[name] for name in names} & {FP32, FP16}
        operands.setdefault(node.op_type, []).append(floats)

    assert all(kinds == {FP16} for kind in ("Conv", "ConvTranspose", "DeformConv2d") for kinds in operands[kind])
    assert all(kinds == {FP32} for kind in ("Pad", "AveragePool", "Slice") for kinds in operands[kind])
    # Two resizes carry the estimate, two the recurrent state; one global residual per scale.
    resized = [types[node.input[0]] for node in typed.graph.node if node.op_type == "Resize"]
    assert sorted(resized) == sorted([FP32, FP16] * 2)
    assert operands["Add"].count({FP32}) == 3
    assert types["blurred"] == types["restored"] == FP32


def test_tensors_are_cast_once(network: onnx.ModelProto) -> None:
    casts = [(n.input[0], n.attribute[0].i) for n in convert_to_fp16(network).graph.node if n.op_type == "Cast"]
    # Into the first convolution of each scale, and from the last to the residual.
    assert len(casts) == len(set(casts)) == 6


def test_conversion_leaves_its_source_and_is_reproducible(network: onnx.ModelProto) -> None:
    before = network.SerializeToString(deterministic=True)
    first, second = (convert_to_fp16(network).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert network.SerializeToString(deterministic=True) == before


def test_kept_nodes_stay_float32(network: onnx.ModelProto) -> None:
    typed = convert_to_fp16(network, ["/head*/Conv"])
    types = element_types(typed)
    kinds = {n.name: types[n.input[1]] for n in typed.graph.node if n.op_type == "Conv"}
    assert [name for name, kind in kinds.items() if kind == FP32] == ["/head/Conv", "/head_1/Conv", "/head_2/Conv"]


def test_pattern_without_a_node_is_refused(network: onnx.ModelProto) -> None:
    with pytest.raises(ConfigError, match=r"tail"):
        convert_to_fp16(network, ["/tail/*"])


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weight_that_is_not_finite_is_named(value: float) -> None:
    weight = np.zeros((2, 2, 1, 1), np.float32)
    weight[1, 0] = value
    with pytest.raises(ExportError, match=r"'big'.*NaN or infinite"):
        convert_to_fp16(conv_graph("y = Conv(x, big)", big=weight))


@pytest.mark.parametrize("value", [70_000.0, -1e30, 1e-20])
def test_layers_whose_weights_float16_does_not_hold_stay_float32(value: float) -> None:
    weight = np.zeros((2, 2, 1, 1), np.float32)
    weight[1, 0] = value
    typed = convert_to_fp16(conv_graph("y = Conv(x, big)", big=weight))
    assert element_types(typed)["big"] == FP32
    batch = np.full((1, 2, 4, 4), 0.5, np.float32)
    assert np.array_equal(run(typed, batch), run(conv_graph("y = Conv(x, big)", big=weight), batch))


def test_output_keeps_name_and_type_where_a_float16_node_makes_it() -> None:
    weight = np.full((2, 2, 1, 1), 0.5, np.float32)
    # y is an output and read again: the second reader must not need another cast.
    model = conv_graph("y = Conv(x, w) z = Relu(y)", w=weight)
    model.graph.output.append(helper.make_tensor_value_info("z", FP32, [1, 2, 4, 4]))
    typed = convert_to_fp16(model)
    assert [node.op_type for node in typed.graph.node] == ["Cast", "Conv", "Cast", "Relu", "Cast"]
    assert run(typed, np.ones((1, 2, 4, 4), np.float32)).dtype == np.float32


def test_shared_constant_has_a_copy_per_type() -> None:
    weight = np.ones((2, 2, 1, 1), np.float32)
    model = conv_graph("a = Mul(x, c) b = Conv(a, w) d = Mul(b, c) y = Add(x, d)", w=weight, c=np.float32([0.5]))
    types = element_types(convert_to_fp16(model))
    assert (types["c"], types["c_fp16"]) == (FP32, FP16)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)", "quantizer"),
        ("y = com.example.Blur <gain = 1.0> (x)", "com.example::Blur"),
    ],
)
def test_what_cannot_be_retyped_is_named(body: str, named: str) -> None:
    model = conv_graph(body, s=np.float32(0.1))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ExportError, match=named):
        convert_to_fp16(model)


def quantized_graph() -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """Two convolutions that share one int8 weight, per output channel, and the weight that they stand for."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (2, 2, 1, 1)).astype(np.int8)
    scales, zeros = np.float32([0.01, 0.02]), np.int8([0, 3])
    body = """
        q = QuantizeLinear(x, s, z)   a = DequantizeLinear(q, s, z)
        w1 = DequantizeLinear <axis = 0> (codes, scales, zeros)
        w2 = DequantizeLinear <axis = 0> (codes, scales, zeros)
        b = Conv(a, w1)
        r = QuantizeLinear(b, s, z)   c = DequantizeLinear(r, s, z)
        y = Conv(c, w2)
    """
    model = conv_graph(body, codes=codes, scales=scales, zeros=zeros, s=np.float32(0.05), z=np.int8(0))
    weight = (codes.astype(np.float32) - zeros.reshape(2, 1, 1, 1)) * scales.reshape(2, 1, 1, 1)
    return model, weight


def test_quantizers_are_dropped_and_weights_kept() -> None:
    model, weight = quantized_graph()
    floats, pairs = drop_quantization(model)
    assert pairs == 4
    assert [node.op_type for node in floats.graph.node] == ["Conv", "Conv"]
    (kept,) = floats.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(kept), weight)
    onnx.checker.check_model(floats, full_check=True)

    batch = np.random.default_rng(1).random((1, 2, 4, 4), np.float32)
    once = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], batch)
    np.testing.assert_allclose(run(floats, batch), np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], once), atol=1e-5)


def test_dropping_from_a_float_network_changes_nothing(network: onnx.ModelProto) -> None:
    floats, pairs = drop_quantization(network)
    assert pairs == 0
    assert [n.name for n in floats.graph.node] == [n.name for n in network.graph.node]


def test_joined_integers_become_joined_floats() -> None:
    body = """
        q = QuantizeLinear(x, s, z)   r = Relu(x)   p = QuantizeLinear(r, s, z)
        j = Concat <axis = 1> (q, p)   y = DequantizeLinear(j, s, z)"""
    floats, pairs = drop_quantization(conv_graph(body, s=np.float32(0.05), z=np.int8(0)))
    assert pairs == 1
    assert [node.op_type for node in floats.graph.node] == ["Relu", "Concat", "Identity"]
    assert list(floats.graph.node[1].input) == ["x", "r"]


def test_quantized_output_becomes_float() -> None:
    floats, _ = drop_quantization(conv_graph("q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)", s=np.float32(0.1)))
    batch = np.random.default_rng(1).random((1, 2, 4, 4), np.float32)
    np.testing.assert_array_equal(run(floats, batch), batch)


def test_integer_arithmetic_cannot_be_dropped() -> None:
    model = conv_graph("q = QuantizeLinear(x, s) y = Cast <to = 1> (q)", s=np.float32(0.1))
    with pytest.raises(ExportError, match=r"'q'"):
        drop_quantization(model)


def onnx_artifact(out: Path, model: onnx.ModelProto) -> Artifact:
    step = new_step("export-onnx", {}, None, {})
    network, image = NetworkSpec("srn", {}, {"weights": "int8"}), ImageSpec(height=SIZE.height, width=SIZE.width)
    return write_artifact(out, Draft("onnx", "model.onnx", lambda path: onnx.save(model, path), network, image, step))


def test_stage_writes_a_float_artifact(network: onnx.ModelProto, tmp_path: Path) -> None:
    source = onnx_artifact(tmp_path / "source", network)
    lower_precision(source, PrecisionConfig(), tmp_path / "out")
    lowered = load_artifact(tmp_path / "out")
    assert (lowered.kind, lowered.stage, lowered.image) == ("onnx", "to-fp16", source.image)
    assert lowered.network.quantization is None
    assert lowered.figures["precision"] == {"fp16": 1.0}
    assert lowered.figures["dropped_qdq_pairs"] == 0
    assert lowered.history[-1].parent == source.sha256
    assert lowered.path.stat().st_size < 0.6 * source.path.stat().st_size


def test_stage_reports_what_was_kept_and_dropped(tmp_path: Path) -> None:
    model, _ = quantized_graph()
    model.graph.node[-1].name = "last"
    source = onnx_artifact(tmp_path / "source", model)
    lowered = lower_precision(source, PrecisionConfig(keep_fp32=("last",)), tmp_path / "out")
    assert lowered.figures["precision"] == {"fp16": 0.5, "fp32": 0.5}
    assert lowered.figures["dropped_qdq_pairs"] == 4


def test_open_sizes_are_converted_though_their_operations_cannot_be_counted(tmp_path: Path) -> None:
    model = conv_graph("y = Conv(x, w)", w=np.ones((2, 2, 1, 1), np.float32))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[2].dim_param = "H"
    typed = lower_precision(onnx_artifact(tmp_path / "source", model), PrecisionConfig(), tmp_path / "out")
    (weights,) = [item for item in onnx.load(typed.path).graph.initializer if item.dims]
    assert weights.data_type == onnx.TensorProto.FLOAT16
    assert typed.figures["precision"] is None


def test_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    weight = np.full((2, 2, 1, 1), np.inf, np.float32)
    source = onnx_artifact(tmp_path / "source", conv_graph("y = Conv(x, w)", w=weight))
    with pytest.raises(ExportError, match=r"'w'"):
        lower_precision(source, PrecisionConfig(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stage_wants_onnx(tmp_path: Path) -> None:
    step = new_step("import", {}, None, {})
    draft = Draft("checkpoint", "w", lambda path: path.write_bytes(b"w"), NetworkSpec("srn", {}), ImageSpec(), step)
    with pytest.raises(ArtifactError, match="checkpoint"):
        lower_precision(write_artifact(tmp_path / "source", draft), PrecisionConfig(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stage_refuses_a_file_that_is_not_onnx(tmp_path: Path) -> None:
    step = new_step("export-onnx", {}, None, {})
    draft = Draft("onnx", "m", lambda path: path.write_bytes(b"not onnx"), NetworkSpec("srn", {}), ImageSpec(), step)
    with pytest.raises(ArtifactError, match="not an ONNX file"):
        lower_precision(write_artifact(tmp_path / "source", draft), PrecisionConfig(), tmp_path / "out")
