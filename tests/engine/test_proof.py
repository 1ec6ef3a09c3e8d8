"""Reading the builder's list of layers, and what it proves."""

from __future__ import annotations

import dataclasses
import json

import pytest

from deblur_deploy.core.errors import BuildError
from deblur_deploy.engine.proof import (
    EngineLayer,
    LayerTensor,
    PrecisionProof,
    parse_layers,
    prove_from_list,
    prove_precision,
    require_precision,
)
from deblur_deploy.graph.node_costs import ComputeNode


def tensor_text(shape: str, kind: str) -> str:
    return f"{{ Name: /a, b/c_0, Dimensions: [{shape}], Strides: [1], Datatype: {kind}, Format: (NHWC) Channel major }}"


def layer_text(name: str, kind: str, inputs: str, constants: str, nodes: str) -> str:
    output = tensor_text("1,8,4,4", "Half")
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {inputs}], Constants: [{constants}], Outputs: [ {output}], "
        f"TacticName: t_0x1, StreamId: 0, Metadata: {nodes}"
    )


def layer(
    weight: str, *inputs: str, shape: tuple[int, ...] = (8, 8, 3, 3), nodes: tuple[str, ...] = ("c",)
) -> EngineLayer:
    activations = tuple(LayerTensor((1, 8, 4, 4), kind) for kind in inputs)
    return EngineLayer("l", "correlation", activations, (LayerTensor(shape, weight),), nodes)


CONV = ComputeNode("c", (8, 6, 3, 3), 100)


def test_layer_list_is_read() -> None:
    half, single = tensor_text("1,8,4,4", "Half"), tensor_text("1,3,8,8", "Float")
    lines = [
        "Layers:",
        layer_text(
            "conv_myl0_1", "correlation", f"{half}, {single}", f" {tensor_text('8,8,3,3', 'Half')}", "[ONNX Layer: /c]"
        ),
        layer_text("glue_myl0_2", "kgen", single, "", "[ONNX Layer: /Add[0]]\x1f[ONNX Layer: /c]"),
        "",
        "I/O Tensors:",
        " Name: blurred, IOMode: Input, DataType: Float, Dimensions: [1,3,8,8]",
    ]
    first, second = parse_layers("\n".join(lines))
    activations = (LayerTensor((1, 8, 4, 4), "fp16"), LayerTensor((1, 3, 8, 8), "fp32"))
    weights = (LayerTensor((8, 8, 3, 3), "fp16"),)
    assert first == EngineLayer("conv_myl0_1", "correlation", activations, weights, ("/c",))
    assert second == EngineLayer("glue_myl0_2", "kgen", activations[1:], (), ("/Add[0]", "/c"))


FUSED = [ComputeNode("/c1/Conv", (8, 6, 3, 3), 200), ComputeNode("/c2/Conv", (8, 8, 3, 3), 100)]


def inspected(name: str, nodes: str, kind: str = "Half") -> dict[str, object]:
    """A layer as full TensorRT's inspector gives it: kernels of its own library first, Myelin's second."""
    tensor = {"Name": "x", "Location": "Device", "Dimensions": [1, 8, 4, 4], "Format/Datatype": f"NHWC8 {kind}"}
    weights = {"Type": kind, "Count": 8 * 8 * 3 * 3}
    facts = {"LayerType": "CaskConvActPool", "Inputs": [tensor], "Outputs": [tensor], "Weights": weights}
    return {"Name": name, **facts, "TacticName": "sm80_xmma_fprop", "StreamId": 0, "Metadata": nodes}


@pytest.mark.parametrize("separator", ["\x1e", "\x1f", ""])
@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "as it is"])
def test_fused_layers_prove_each_of_their_nodes(separator: str, escaped: bool) -> None:
    """Full TensorRT joins what it fused with U+001E; read as one name, a good engine counted as unproven."""
    nodes = [f"[ONNX Layer: /c{i}/Conv]{separator}[ONNX Layer: /c{i}/Relu[0]]" for i in (1, 2)]
    answer = json.dumps({"Layers": [inspected(f"/c{i}/Conv + /c{i}/Relu", text) for i, text in enumerate(nodes, 1)]})
    if not escaped:
        answer = answer.replace(json.dumps(separator)[1:-1], separator) if separator else answer
    proof, layers = prove_from_list(answer, FUSED)

    assert layers == 2
    assert proof.types == {"/c1/Conv": "fp16", "/c2/Conv": "fp16"}
    assert proof.reason == ""
    require_precision(proof, "fp16")


@pytest.mark.parametrize("separator", ["\x1e", "\x1f"])
def test_fused_layers_are_read_from_the_builders_text_too(separator: str) -> None:
    """Its lines must not be broken at the separator, which ``str.splitlines`` takes for the end of a line."""
    nodes = f"[ONNX Layer: /c1/Conv]{separator}[ONNX Layer: /Relu]{separator}[ONNX Layer: /c2/Conv]"
    half = tensor_text("1,8,4,4", "Half")
    lines = ["Layers:", layer_text("l", "correlation", half, f" {tensor_text('8,8,3,3', 'Half')}", nodes)]

    (layer_read,) = parse_layers("\n".join(lines))
    assert layer_read.nodes == ("/c1/Conv", "/Relu", "/c2/Conv")
    assert prove_precision([layer_read], FUSED).types == {"/c1/Conv": "fp16", "/c2/Conv": "fp16"}


def test_the_text_of_the_full_tensorrt_is_read() -> None:
    """It describes types and formats together, and gives the number of weights."""
    described = "{ Name: x, Location: Device, Dimensions: [1,8,4,4], Format/Datatype: Channel major FP16 format }"
    line = (
        f"Name: /c1/Conv + /c1/Relu, LayerType: CaskConvolution, Inputs: [ {described}], Outputs: [ {described}], "
        'ParameterType: Convolution, Kernel: [3,3], Weights: {"Type": "Half", "Count": 576}, '
        'Bias: {"Type": "Half", "Count": 8}, TacticName: sm75_h1688, StreamId: 0, '
        "Metadata: [ONNX Layer: /c1/Conv]\x1e[ONNX Layer: /c1/Relu]"
    )
    (found,) = parse_layers(f"Layers:\n{line}")

    assert found.inputs == (LayerTensor((1, 8, 4, 4), "fp16"),)
    assert found.constants == (LayerTensor((576,), "fp16"),)
    assert prove_precision([found], FUSED[:1]).types == {"/c1/Conv": "fp16"}


@pytest.mark.parametrize("text", ["", "Layers:", "Layers:\nsome other form\nName: x"])
def test_another_form_has_no_layers(text: str) -> None:
    assert parse_layers(text) == ()


@pytest.mark.parametrize(
    ("found", "proven"),
    [
        ([layer("fp16", "fp16")], "fp16"),
        ([layer("fp32", "fp32")], "fp32"),
        ([layer("fp16", "fp32", "fp16")], "fp16"),  # a float32 residual is fused in
        ([layer("fp16", "fp32")], "unproven"),  # the layer converts one of the two, and does not say which
        ([layer("fp16", "fp16", nodes=("other",))], "unproven"),
        ([layer("fp16", "fp16", shape=(1, 2, 640, 360))], "unproven"),  # padding, not the weights
        ([layer("fp32", "fp32", shape=(1, 8)), layer("fp16", "fp16")], "fp16"),  # glue first
        ([], "unproven"),
    ],
)
def test_layer_with_the_weights_decides(found: list[EngineLayer], proven: str) -> None:
    assert prove_precision(found, [CONV]).types == {"c": proven}


def test_weights_that_an_earlier_layer_dequantized_are_an_input() -> None:
    weights, activations = LayerTensor((8, 8, 3, 3), "fp32"), LayerTensor((1, 8, 4, 4), "fp32")
    computing = EngineLayer("l", "correlation", (activations, weights), (LayerTensor((1,), "fp32"),), ("c",))
    dequantizing = EngineLayer("d", "kgen", (), (LayerTensor((8, 8, 3, 3), "int8"),), ("c",))
    assert prove_precision([dequantizing, computing], [CONV]).types == {"c": "fp32"}
    mixed = EngineLayer("l", "correlation", (LayerTensor((1, 8, 4, 4), "int8"), weights), (), ("c",))
    assert prove_precision([mixed], [CONV]).types == {"c": "unproven"}


def test_profiles_that_differ_are_both_named() -> None:
    assert prove_precision([layer("fp16", "fp16"), layer("fp32", "fp32")], [CONV]).types == {"c": "fp16+fp32"}
    assert prove_precision([layer("fp16", "fp16"), layer("fp16", "fp32")], [CONV]).types == {"c": "unproven"}


@pytest.mark.parametrize(
    ("described", "proven"),
    [
        ("Half", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Row major linear FP32", "fp32"),
        ("Float", "fp32"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("BFloat16", "bf16"),
        ("FP8", "fp8"),
    ],
)
def test_the_inspectors_answer_is_read(described: str, proven: str) -> None:
    named = {"fp16": "Half", "fp32": "Float", "int8": "Int8", "bf16": "BFloat16", "fp8": "FP8"}[proven]
    tensor = {"Name": "x", "Location": "Device", "Dimensions": [1, 8, 4, 4], "Format/Datatype": described}
    told = {
        "Name": "c + relu",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor],
        "Outputs": [tensor],
        "Weights": {"Type": named, "Count": 8 * 6 * 3 * 3},
        "Bias": {"Type": "Float", "Count": 8},
        "Metadata": "[ONNX Layer: c]\x1f[ONNX Layer: relu]",
    }
    answer = {"Layers": [{"Name": "copy", "LayerType": "Reformat", "Inputs": [tensor], "Outputs": [tensor]}, told]}

    layers = parse_layers(json.dumps(answer))
    assert [found.nodes for found in layers] == [("copy",), ("c", "relu")]
    assert prove_precision(layers, [CONV]).types == {"c": proven}

    del told["Metadata"]  # older releases name the nodes in the layer's own name
    assert prove_precision(parse_layers(json.dumps(answer)), [CONV]).types == {"c": proven}
    told["Weights"]["Count"] = 8
    assert prove_precision(parse_layers(json.dumps(answer)), [CONV]).types == {"c": "unproven"}
    assert parse_layers('{"Layers": ["names", "only"]}') == parse_layers("{ damaged") == ()


def test_8_bits_are_asked_of_convolutions_alone() -> None:
    kinds = {"a": "convolution", "b": "convolution", "up": "deconvolution", "warp": "deformable"}
    macs = {"a": 95, "b": 5, "up": 50, "warp": 50}
    proof = PrecisionProof({"a": "int8", "b": "fp32", "up": "fp16", "warp": "fp16"}, macs, kinds)
    assert proof.kinds_present() == ("convolution", "deconvolution", "deformable")
    assert proof.shares("convolution") == {"int8": 0.95, "fp32": 0.05}
    assert proof.shares()["int8"] == 0.475
    require_precision(proof, "int8")

    macs |= {"b": 20}
    with pytest.raises(BuildError, match=r"only 82\.6% of the multiply-accumulates of the convolutions .* b \(fp32\)"):
        require_precision(proof, "int8")
    with pytest.raises(BuildError, match=r"fp8 was asked for, but only 0\.0%"):
        require_precision(proof, "fp8")


def test_shares_are_of_multiply_accumulates() -> None:
    proof = PrecisionProof({"a": "fp16", "b": "fp32", "c": "fp16"}, {"a": 60, "b": 10, "c": 30})
    assert proof.shares() == {"fp16": 0.9, "fp32": 0.1}
    require_precision(proof, "fp16")


def test_too_little_in_the_wanted_type_names_the_nodes() -> None:
    names = [f"conv{index}" for index in range(8)]
    proof = PrecisionProof(
        {name: "fp32" if name != "conv0" else "fp16" for name in names}, {name: int(name[4:]) for name in names}
    )
    with pytest.raises(
        BuildError, match=r"fp16 was asked for, but only 0\.0%.*conv7 \(fp32\), conv6 .* and 2 more"
    ) as caught:
        require_precision(proof, "fp16")
    assert "--fp16" in caught.value.hint
    require_precision(proof, "fp32")


def test_products_of_two_activations_are_proven_by_their_operands() -> None:
    node = ComputeNode("attention", (1, 2, 64, 8), 100, "fp16", "gemm")
    weights = ComputeNode("query", (16, 48), 50, "fp16", "gemm")
    joined = LayerTensor((2, 8, 64), "fp16"), LayerTensor((2, 64, 8), "fp16")
    layers = [
        EngineLayer("g", "gemm", joined, (LayerTensor((1,), "fp32"),), ("attention",)),
        EngineLayer("q", "gemm", (LayerTensor((64, 16), "fp16"),), (LayerTensor((1, 16, 48), "fp16"),), ("query",)),
    ]
    assert prove_precision(layers, [node, weights]).shares() == {"fp16": 1.0}
    mixed = dataclasses.replace(layers[0], inputs=(joined[0], LayerTensor((2, 64, 8), "fp32")))
    assert prove_precision([mixed], [node]).shares() == {"unproven": 1.0}
    other = dataclasses.replace(layers[0], inputs=(joined[0], LayerTensor((2, 64, 16), "fp16")))
    assert prove_precision([other], [node]).shares() == {"unproven": 1.0}


def test_layers_that_the_file_keeps_in_float32_do_not_count() -> None:
    nodes = [ComputeNode("a", (8, 8, 3, 3), 40, "fp16"), ComputeNode("b", (8, 8, 3, 3), 60, "fp32")]
    macs = {"a": 40, "b": 60}
    require_precision(PrecisionProof({"a": "fp16", "b": "fp32"}, macs), "fp16", nodes)
    with pytest.raises(BuildError, match=r"only 0\.0%"):
        require_precision(PrecisionProof({"a": "fp32", "b": "fp32"}, macs), "fp16", nodes)
    with pytest.raises(BuildError, match=r"only 40\.0%"):
        require_precision(PrecisionProof({"a": "int8", "b": "fp32"}, macs), "int8", nodes)


def test_partly_unproven_is_not_enough() -> None:
    with pytest.raises(BuildError, match=r"80\.0%.*b \(unproven\)"):
        require_precision(PrecisionProof({"a": "fp16", "b": "unproven"}, {"a": 80, "b": 20}), "fp16")


def test_nothing_known_is_said_and_not_refused() -> None:
    for proof in (PrecisionProof({"a": "unproven"}, {"a": 80}), PrecisionProof({}, {})):
        assert proof.shares() == {"unproven": 1.0}
        require_precision(proof, "fp16")


HALF, OTHER = tensor_text("1,8,4,4", "Half"), tensor_text("8,8,3,3", "Half")


@pytest.mark.parametrize(
    ("text", "layers", "reason"),
    [
        ("", 0, "the builder listed no layers"),
        ("Layers:\n  \n", 0, "it starts with ''"),
        ("Layers:\n#1 conv [c] f16 -> f16", 0, "format is not known; it starts with '#1 conv [c] f16 -> f16'"),
        ('{"Layers": ["names", "only"]}', 0, """starts with '{"Layers": ["names", "only"]}'"""),
        (
            "Layers:\n" + layer_text("other", "correlation", HALF, f" {OTHER}", "[ONNX Layer: d]"),
            1,
            "none names a node",
        ),
        ("Layers:\n" + layer_text("conv", "correlation", HALF, f" {OTHER}", "[ONNX Layer: c]"), 1, ""),
    ],
)
def test_why_nothing_is_proven_is_said(text: str, layers: int, reason: str) -> None:
    proof, count = prove_from_list(text, [CONV])
    assert count == layers
    assert proof.types == {"c": "unproven" if reason else "fp16"}
    assert reason in proof.reason
    assert bool(proof.reason) == bool(reason)
    require_precision(proof, "fp16")


def test_nodes_that_the_list_leaves_out_are_named() -> None:
    text = "Layers:\n" + layer_text("conv", "correlation", HALF, f" {OTHER}", "[ONNX Layer: c]")
    proof, _ = prove_from_list(text, [CONV, ComputeNode("d", (8, 8, 3, 3), 1)])
    assert proof.types == {"c": "fp16", "d": "unproven"}
    assert proof.reason == "no listed layer has the weights of d in one type with its input"
    assert prove_from_list(text, [])[0].reason == "the network has no node with weights"
