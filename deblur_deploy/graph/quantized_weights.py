"""Store quantized weights as int8 or float8.

The exporter writes a fake-quantized weight as float initialiser, QuantizeLinear, DequantizeLinear, once per use. The
float copy is what quantization was meant to save: here the quantization is carried out, and the uses of one weight
share one initialiser of 8-bit codes and one DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deblur_deploy.graph.edit import drop_opset, remove_unused, set_nodes

_INT8_MIN, _INT8_MAX = -128, 127
_FP8_MAX = float(torch.finfo(torch.float8_e4m3fn).max)
_FP8_DOMAIN = "trt"
_FP8_ZERO = "float8_zero"


def write_standard_fp8(model: onnx.ModelProto) -> None:
    """Turn ModelOpt's private FP8 quantizers into ONNX QuantizeLinear and DequantizeLinear (opset 19), in place.

    A zero point of type FLOAT8E4M3FN marks the codes as float8.
    """
    nodes = [node for node in model.graph.node if node.domain == _FP8_DOMAIN]
    for node in nodes:
        node.domain, node.op_type = "", node.op_type.removeprefix("TRT_FP8")
        node.input.append(_FP8_ZERO)
    if nodes:
        model.graph.initializer.append(helper.make_tensor(_FP8_ZERO, TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True))
    drop_opset(model, _FP8_DOMAIN)


def fold_weight_quantizers(model: onnx.ModelProto) -> int:
    """Replace every QuantizeLinear of a weight by the initialiser of codes it computes, in place.

    Args:
        model: A model straight from the exporter, Constant nodes gathered by :func:`share_constants`.

    Returns:
        Number of weights folded.
    """
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    folded: dict[str, str] = {}  # float weight -> its dequantized value
    replaced: dict[str, str] = {}  # output of a dropped DequantizeLinear -> the one that stays
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        quantize = producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantize is None or quantize.op_type != "QuantizeLinear" or quantize.input[0] not in constants:
            kept.append(node)
        elif (weight := quantize.input[0]) in folded:
            replaced[node.output[0]] = folded[weight]
        else:
            folded[weight] = node.output[0]
            _store_codes(graph, node, weight, constants)
            kept.append(node)
    set_nodes(graph, kept, replaced)
    remove_unused(model)
    return len(folded)


def quantize_before_concat(model: onnx.ModelProto) -> None:
    """Quantize the inputs of a Concat to int8 instead of its output, in place.

    The numbers are the same, and the joined copy is a quarter of the bytes. OpenVINO 2026.4 needs this: there, a
    convolution after a quantizer after a Concat of floats comes out wrong, by as much as its largest value.
    """
    while _quantize_parts(model.graph):  # parts that are joined themselves are next
        remove_unused(model)


def _quantize_parts(graph: onnx.GraphProto) -> bool:
    """Move every int8 quantizer that follows a Concat before it; returns whether there was any."""
    makers = {node.output[0]: node for node in graph.node}
    int8 = {item.name for item in graph.initializer if item.data_type == TensorProto.INT8}
    kept: list[onnx.NodeProto] = []
    moved = False
    for node in graph.node:
        joint = makers.get(node.input[0]) if node.op_type == "QuantizeLinear" and node.input[2] in int8 else None
        if joint is None or joint.op_type != "Concat":
            kept.append(node)
            continue
        moved = True
        parts = [f"{node.output[0]}.{index}" for index in range(len(joint.input))]
        for source, part in zip(joint.input, parts, strict=True):
            kept.append(helper.make_node("QuantizeLinear", [source, *node.input[1:]], [part], name=part))
        joined = onnx.NodeProto.FromString(joint.SerializeToString())
        joined.input[:] = parts
        joined.output[:] = node.output
        kept.append(joined)
    set_nodes(graph, kept, {})
    return moved


def drop_idle_casts(model: onnx.ModelProto) -> None:
    """Remove casts to float of values that are float already, in place.

    ModelOpt's layers write one on every value that enters them. They change no number, but they stand between a
    quantizer and its neighbours, where runtimes look for the patterns that they fuse.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    floats = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    outputs = {value.name for value in model.graph.output}
    idle: dict[str, str] = {}
    for node in model.graph.node:
        if outputs.intersection(node.output):
            continue
        if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT and node.input[0] in floats:
            idle[node.output[0]] = idle.get(node.input[0], node.input[0])
    set_nodes(model.graph, [node for node in model.graph.node if node.output[0] not in idle], idle)


def _store_codes(
    graph: onnx.GraphProto, dequantize: onnx.NodeProto, weight: str, constants: Mapping[str, onnx.TensorProto]
) -> None:
    """Point a DequantizeLinear at new initialisers of codes, scale and zero point that carry the weight's name."""
    scale = numpy_helper.to_array(constants[dequantize.input[1]]).astype(np.float32)
    zero = constants.get(dequantize.input[2])
    axis = next((attribute.i for attribute in dequantize.attribute if attribute.name == "axis"), 1)
    values = numpy_helper.to_array(constants[weight]).astype(np.float32)
    shape = [1] * values.ndim
    if scale.ndim:
        shape[axis] = scale.size
    scaled = values / scale.reshape(shape)
    if zero is not None and zero.data_type == TensorProto.FLOAT8E4M3FN:
        stored = [_float8(f"{weight}.fp8", scaled), numpy_helper.from_array(scale, f"{weight}.scale"), zero]
    else:
        codes = np.clip(np.rint(scaled), _INT8_MIN, _INT8_MAX).astype(np.int8)
        arrays = {"int8": codes, "scale": scale, "zero": np.zeros(scale.shape, np.int8)}
        stored = [numpy_helper.from_array(array, f"{weight}.{kind}") for kind, array in arrays.items()]
    for index, tensor in enumerate(stored):
        if tensor is not zero:
            graph.initializer.append(tensor)
        dequantize.input[index] = tensor.name


def _float8(name: str, values: NDArray[np.float32]) -> TensorProto:
    """Values as E4M3, rounded to nearest and cut off at the largest."""
    codes = torch.from_numpy(np.clip(values, -_FP8_MAX, _FP8_MAX)).to(torch.float8_e4m3fn).view(torch.uint8)
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, values.shape, codes.numpy().tobytes(), raw=True)
