"""Store quantized weights as int8.

The exporter writes a fake-quantized weight as float initialiser, QuantizeLinear, DequantizeLinear, once per use. The
float copy is what the file was meant to lose: here the quantization is carried out, and the uses of one weight share
one int8 initialiser and one DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

_INT8_MIN, _INT8_MAX = -128, 127


def fold_weight_quantizers(model: onnx.ModelProto) -> int:
    """Replace every QuantizeLinear of a weight by the int8 initialiser it computes, in place.

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
            _store_int8(graph, node, weight, constants)
            kept.append(node)
    _set_nodes(graph, kept, replaced)
    remove_unused(model)
    return len(folded)


def drop_idle_casts(model: onnx.ModelProto) -> None:
    """Remove casts to float of values that are float already, in place.

    ModelOpt's layers write one on every value that enters them. They change no number, but they stand between a
    quantizer and its neighbours, where runtimes look for the patterns that they fuse.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    floats = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    idle: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT and node.input[0] in floats:
            idle[node.output[0]] = idle.get(node.input[0], node.input[0])
    _set_nodes(model.graph, [node for node in model.graph.node if node.output[0] not in idle], idle)


def share_constants(model: onnx.ModelProto) -> None:
    """Turn Constant nodes and aliases of initialisers into initialisers, equal ones into one, in place."""
    graph = model.graph
    by_content: dict[bytes, str] = {}
    replaced: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    names = {item.name for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.ClearField("name")
            content = tensor.SerializeToString(deterministic=True)
            tensor.name = node.output[0]
            if content not in by_content:
                by_content[content] = tensor.name
                graph.initializer.append(tensor)
            replaced[node.output[0]] = by_content[content]
        elif node.op_type == "Identity" and node.input[0] in names:
            replaced[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    _set_nodes(graph, kept, replaced)


def remove_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and initialisers that the outputs do not need, in place."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    _set_nodes(graph, kept[::-1], {})
    initializers = [onnx.TensorProto.FromString(i.SerializeToString()) for i in graph.initializer if i.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(initializers)


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], renamed: dict[str, str]) -> None:
    """Make these the graph's nodes, with some of their inputs renamed."""
    # Clearing the list frees its nodes, so what stays is copied first.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    for node in copies:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    del graph.node[:]
    graph.node.extend(copies)


def _store_int8(
    graph: onnx.GraphProto, dequantize: onnx.NodeProto, weight: str, constants: Mapping[str, onnx.TensorProto]
) -> None:
    """Point a DequantizeLinear at new int8, scale and zero-point initialisers that carry the weight's name."""
    scale = numpy_helper.to_array(constants[dequantize.input[1]]).astype(np.float32)
    axis = next((attribute.i for attribute in dequantize.attribute if attribute.name == "axis"), 1)
    values = numpy_helper.to_array(constants[weight]).astype(np.float32)
    shape = [1] * values.ndim
    if scale.ndim:
        shape[axis] = scale.size
    codes = np.clip(np.rint(values / scale.reshape(shape)), _INT8_MIN, _INT8_MAX).astype(np.int8)
    for index, (suffix, array) in enumerate(
        [("int8", codes), ("scale", scale), ("zero", np.zeros(scale.shape, np.int8))]
    ):
        name = f"{weight}.{suffix}"
        graph.initializer.append(numpy_helper.from_array(array, name))
        dequantize.input[index] = name
