"""The exported file: exact in onnxruntime, self-contained, small, and int8 where it says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from deblur_deploy.compress.quantize import quantize_network
from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import NetworkSpec, load_artifact, new_step
from deblur_deploy.core.errors import ArtifactError, ExportError
from deblur_deploy.core.images import Resolution, to_batch
from deblur_deploy.export.to_onnx import export_onnx, network_to_onnx
from deblur_deploy.graph.deform_op import add_deform_conv_functions, deform_conv_function
from deblur_deploy.graph.edit import remove_unused, share_constants
from deblur_deploy.graph.quantized_weights import drop_idle_casts, fold_weight_quantizers, quantize_before_concat
from deblur_deploy.network.checkpoint import build_network, save_network, spec_of
from deblur_deploy.network.deform_conv import deform_conv2d
from deblur_deploy.network.mimo_unet import MIMOUNetConfig
from deblur_deploy.network.srn import SRN, SRNConfig

EXEMPT = ("levels.0.enter", "deform.deform.conv_offset", "head")


@pytest.fixture
def net(tiny_config: SRNConfig, soften: Callable[[torch.nn.Module], None]) -> SRN:
    torch.manual_seed(4)
    net = SRN(tiny_config).eval()
    soften(net)
    torch.nn.init.normal_(net.head.weight, std=0.05)
    torch.nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.05)
    return net


def _run(model: onnx.ModelProto, frame: np.ndarray) -> np.ndarray:
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"blurred": frame})[0]


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (64, 48), (53, 31), (128, 16)])
def test_any_size_is_exact_in_onnxruntime(net, size):
    frame = np.random.default_rng(1).random((1, 3, size[1], size[0]), dtype=np.float32)

    restored = _run(network_to_onnx(net, Resolution(*size)), frame)

    with torch.no_grad():
        expected = net(torch.from_numpy(frame)).numpy()
    assert restored.shape == frame.shape
    assert np.abs(restored - expected).max() <= 1e-4


def test_a_network_of_another_multiple_is_padded_as_it_pads_itself():
    torch.manual_seed(2)
    mimo = build_network(NetworkSpec("mimo-unet", dataclasses.asdict(MIMOUNetConfig()))).eval()
    frame = np.random.default_rng(1).random((1, 3, 10, 22), dtype=np.float32)  # 12x24 inside, where SRN has 16x32
    restored = _run(network_to_onnx(mimo, Resolution(22, 10)), frame)
    with torch.no_grad():
        assert np.abs(restored - mimo(torch.from_numpy(frame)).numpy()).max() <= 1e-4


@pytest.mark.parametrize("training", [False, True])
def test_the_network_stays_in_its_mode(net, training):
    net.train(training)

    network_to_onnx(net, Resolution(16, 16))

    assert {layer.training for layer in net.modules()} == {training}


def test_the_file_carries_the_plugin_node_its_meaning_and_nothing_idle(net):
    model = network_to_onnx(net, Resolution(48, 32))

    nodes = [node for node in model.graph.node if node.op_type == "DeformConv2d"]
    assert len(nodes) == 3  # one for each scale
    assert {node.domain for node in nodes} == {"deblur"}
    assert {attribute.name for attribute in nodes[0].attribute} == {
        "strides",
        "pads",
        "dilations",
        "kernel_shape",
        "group",
        "offset_group",
    }
    assert [function.name for function in model.functions] == ["DeformConv2d"]
    assert {"": 19, "deblur": 1}.items() <= {item.domain: item.version for item in model.opset_import}.items()
    read = {name for node in model.graph.node for name in node.input}
    assert {item.name for item in model.graph.initializer} <= read
    assert not any(node.doc_string or node.op_type == "Constant" for node in model.graph.node)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, strict_mode=True)


def test_shared_weights_are_stored_once(net):
    model = network_to_onnx(net, Resolution(32, 32))

    floats = sum(
        numpy_helper.to_array(item).size for item in model.graph.initializer if item.data_type == TensorProto.FLOAT
    )
    parameters = sum(p.numel() for p in net.parameters())
    assert parameters <= floats <= parameters + 100


def _quantized(net: SRN, photo: np.ndarray) -> SRN:
    quantize_network(net, {"bits": 8, "exempt": list(EXEMPT)}, [to_batch(photo)])
    return net


def weight_behind(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """For every layer on every scale, the initialiser that its weight is stored in."""
    makers = {node.output[0]: node for node in model.graph.node}
    stored = {item.name: item for item in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "DeformConv2d"):
            name = node.input[1]
            found[node.name] = stored[makers[name].input[0] if name in makers else name]
    return found


def test_a_quantized_network_has_int8_weights_and_no_float_copies(net, photo):
    model = network_to_onnx(_quantized(net, photo), Resolution(48, 32))

    weights = weight_behind(model)
    assert {item.data_type for item in weights.values()} == {TensorProto.INT8, TensorProto.FLOAT16}
    halves = {name: item.name for name, item in weights.items() if item.data_type == TensorProto.FLOAT16}
    assert len(set(halves.values())) == len(EXEMPT)
    assert all(any(part in name for part in ("levels.0/enter", "conv_offset", "head")) for name in halves)
    left = [item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT]
    assert all(len(item.dims) <= 1 for item in left)  # scales, and biases: TensorRT-RTX refuses any that are not float
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(EXEMPT)  # one for each weight, not for each use


def test_a_quantized_file_computes_what_fake_quantization_computes(net, photo):
    frame = to_batch(photo[:64, :80])
    quantized = _quantized(net, photo)

    restored = _run(network_to_onnx(quantized, Resolution(80, 64)), frame)

    with torch.no_grad():
        expected = quantized(torch.from_numpy(frame)).numpy()
    codes = [np.rint(np.clip(image, 0, 1) * 255) for image in (restored, expected)]
    assert np.abs(codes[0] - codes[1]).max() <= 1
    assert (codes[0] != codes[1]).mean() < 0.1


def test_the_stage_writes_size_and_source_into_manifest_and_file(net, tmp_path):
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))

    export_onnx(source, ExportConfig(width=40, height=24), tmp_path / "onnx")

    artifact = load_artifact(tmp_path / "onnx")
    assert (artifact.image.width, artifact.image.height) == (40, 24)
    assert artifact.history[-1].parent == source.sha256
    properties = {item.key: item.value for item in onnx.load(artifact.path).metadata_props}
    assert properties["deblur_deploy.source_sha256"] == source.sha256


def test_the_same_checkpoint_gives_the_same_bytes(net):
    first, second = (network_to_onnx(net, Resolution(32, 32)).SerializeToString(deterministic=True) for _ in range(2))

    assert first == second


class TooLarge(torch.nn.Module):
    """Asks for more memory than any machine has."""

    def padded_size(self, height, width):
        return 48, 64

    def forward_scales(self, blurred):
        return [blurred + torch.empty(1 << 50).sum()]


class Exhausted(TooLarge):
    def forward_scales(self, blurred):
        raise MemoryError


@pytest.mark.parametrize(("net", "said"), [(TooLarge(), ".+"), (Exhausted(), "MemoryError")], ids=["torch", "python"])
def test_a_size_that_memory_cannot_hold_is_one_clear_error(net, said):
    with pytest.raises(ExportError, match=f"cannot be traced at 64x48: {said}") as caught:
        network_to_onnx(net, Resolution(50, 40))
    assert "--res" in caught.value.hint
    assert "\n" not in caught.value.message


def test_an_onnx_file_is_no_source(net, tmp_path):
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    exported = export_onnx(source, ExportConfig(32, 32), tmp_path / "onnx")

    with pytest.raises(ArtifactError, match="not a checkpoint"):
        export_onnx(exported, ExportConfig(32, 32), tmp_path / "again")


SWEEP = [
    # batch, channels in and out, kernel, stride, padding, dilation, groups, offset groups, height, width
    (2, 4, 6, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1, 9, 11),
    (2, 8, 6, (3, 5), (2, 1), (1, 2), (1, 2), 2, 4, 9, 12),
    (1, 8, 4, (1, 2), (2, 3), (0, 1), (2, 1), 4, 2, 30, 40),
    (3, 6, 3, (2, 2), (1, 1), (0, 0), (3, 2), 3, 6, 10, 7),
]


@pytest.mark.parametrize("case", SWEEP)
def test_the_local_function_holds_for_every_geometry(case):
    batch, channels, outputs, kernel, stride, padding, dilation, groups, offset_groups, height, width = case
    rng = np.random.default_rng(7)
    out = [
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, p, d, k, s in zip((height, width), padding, dilation, kernel, stride, strict=True)
    ]
    x = rng.standard_normal((batch, channels, height, width), dtype=np.float32)
    w = rng.standard_normal((outputs, channels // groups, *kernel), dtype=np.float32)
    offset = 4 * rng.standard_normal((batch, 2 * offset_groups * kernel[0] * kernel[1], *out), dtype=np.float32)
    geometry = {"strides": stride, "pads": padding * 2, "dilations": dilation, "kernel_shape": kernel}
    node = helper.make_node(
        "DeformConv2d",
        ["X", "W", "offset"],
        ["Y"],
        domain="deblur",
        group=groups,
        offset_group=offset_groups,
        **geometry,
    )
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape)
        for n, a in (("X", x), ("W", w), ("offset", offset))
    ]
    result = helper.make_tensor_value_info("Y", TensorProto.FLOAT, [batch, outputs, *out])
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("deblur", 1)]
    model = helper.make_model(
        helper.make_graph([node], "one", values, [result]),
        opset_imports=opsets,
        functions=[deform_conv_function(kernel, groups)],
        ir_version=9,
    )

    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"X": x, "W": w, "offset": offset})[0]

    tensors = (torch.from_numpy(value).double() for value in (x, offset, w))
    exact = deform_conv2d(*tensors, stride, padding, dilation, groups, offset_groups).numpy()
    assert np.abs(found - exact).max() <= 1e-4


def _doubled_constant_model() -> onnx.ModelProto:
    """Two equal constants, an alias of a weight, an idle cast, and a node that leads nowhere."""
    weight = numpy_helper.from_array(np.array([[2.0]], np.float32), "weight")
    one = numpy_helper.from_array(np.array(1.0, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["a"], value=one),
        helper.make_node("Constant", [], ["b"], value=one),
        helper.make_node("Identity", ["weight"], ["alias"]),
        helper.make_node("MatMul", ["x", "alias"], ["p"]),
        helper.make_node("Cast", ["p"], ["q"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["q", "a"], ["r"]),
        helper.make_node("Add", ["r", "b"], ["y"]),
        helper.make_node("Relu", ["r"], ["nowhere"]),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_clean_up_keeps_the_meaning_and_only_what_is_used():
    model = _doubled_constant_model()

    share_constants(model)
    drop_idle_casts(model)
    remove_unused(model)

    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add", "Add"]
    assert len(model.graph.initializer) == 2
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([[3.0]], np.float32)})[0] == 8.0


def test_a_weight_used_twice_is_folded_once():
    weight = numpy_helper.from_array(np.array([[0.5], [-1.27]], np.float32), "w")
    scale = numpy_helper.from_array(np.array(0.01, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    nodes = []
    for use in ("1", "2"):
        nodes += [
            helper.make_node("QuantizeLinear", ["w", "scale", "zero"], [f"q{use}"]),
            helper.make_node("DequantizeLinear", [f"q{use}", "scale", "zero"], [f"d{use}"]),
        ]
    nodes.append(helper.make_node("Add", ["d1", "d2"], ["y"]))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 1])
    graph = helper.make_graph(nodes, "g", [], [result], [weight, scale, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)

    assert fold_weight_quantizers(model) == 1

    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "Add"]
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    assert stored["w.int8"].dtype == np.int8
    assert stored["w.int8"].flatten().tolist() == [50, -127]


def test_values_are_quantized_before_they_are_joined():
    rng = np.random.default_rng(2)
    head = '<ir_version: 9, opset_import: ["": 19]> g (float[1,2,4,4] x) => (float[1,4,4,4] y, float[1,4,4,4] c)'
    body = "r = Relu(x) c = Concat <axis = 1> (x, r) q = QuantizeLinear(c, s, z) y = DequantizeLinear(q, s, z)"
    model = onnx.parser.parse_model(f"{head} {{ {body} }}")
    constants = {"s": np.float32(0.02), "z": np.int8(0)}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), k) for k, v in constants.items())
    x = rng.standard_normal((1, 2, 4, 4), dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    before = InferenceSession(model.SerializeToString(), options).run(None, {"x": x})

    quantize_before_concat(model)

    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["Relu", "Concat", "QuantizeLinear", "QuantizeLinear", "Concat", "DequantizeLinear"]
    onnx.checker.check_model(model, full_check=True)
    after = InferenceSession(model.SerializeToString(), options).run(None, {"x": x})
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_two_geometries_in_one_model_have_a_function_each():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 4, 8, 8), dtype=np.float32)
    weights = [rng.standard_normal((4, 4, k, k), dtype=np.float32) for k in (1, 3)]
    offsets = [rng.standard_normal((1, 2 * k * k, 8, 8), dtype=np.float32) for k in (1, 3)]
    names = ["x", "y1", "y3"]
    nodes = [
        helper.make_node(
            "DeformConv2d",
            [names[i], f"w{i}", f"o{i}"],
            [names[i + 1]],
            domain="deblur",
            kernel_shape=[k, k],
            strides=[1, 1],
            dilations=[1, 1],
            pads=[k // 2] * 4,
            group=1,
            offset_group=1,
        )
        for i, k in enumerate((1, 3))
    ]
    shape = [1, 4, 8, 8]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y3")]
    constants = [
        numpy_helper.from_array(a, f"{n}{i}") for n, s in (("w", weights), ("o", offsets)) for i, a in enumerate(s)
    ]
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("deblur", 1)]
    graph = helper.make_graph(nodes, "two", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)

    add_deform_conv_functions(model)

    assert sorted(function.overload for function in model.functions) == ["k1x1g1", "k3x3g1"]
    onnx.checker.check_model(model, full_check=True)
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x})[0]
    expected = torch.from_numpy(x)
    for k, weight, offset in zip((1, 3), weights, offsets, strict=True):
        expected = deform_conv2d(expected, torch.from_numpy(offset), torch.from_numpy(weight), padding=k // 2)
    assert np.abs(found - expected.numpy()).max() <= 1e-4


def test_joined_values_that_are_joined_again_are_quantized_before_both():
    head = '<ir_version: 9, opset_import: ["": 19]> g (float[1,2,4,4] x) => (float[1,6,4,4] y)'
    body = """
        r = Relu(x)   inner = Concat <axis = 1> (x, r)   n = Neg(x)   outer = Concat <axis = 1> (inner, n)
        q = QuantizeLinear(outer, s, z)   y = DequantizeLinear(q, s, z)"""
    model = onnx.parser.parse_model(f"{head} {{ {body} }}")
    constants = {"s": np.float32(0.02), "z": np.int8(0)}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), k) for k, v in constants.items())
    x = np.random.default_rng(2).standard_normal((1, 2, 4, 4), dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (before,) = InferenceSession(model.SerializeToString(), options).run(None, {"x": x})

    quantize_before_concat(model)

    makers = {node.output[0]: node.op_type for node in model.graph.node}
    joins = [node for node in model.graph.node if node.op_type == "Concat"]
    assert [[makers[name] for name in node.input] for node in joins] == [
        ["QuantizeLinear", "QuantizeLinear"],
        ["Concat", "QuantizeLinear"],
    ]
    onnx.checker.check_model(model, full_check=True)
    (after,) = InferenceSession(model.SerializeToString(), options).run(None, {"x": x})
    np.testing.assert_array_equal(before, after)
