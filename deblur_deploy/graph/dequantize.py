"""A quantized network as a float one, with the weights that it was fine-tuned to."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deblur_deploy.core.errors import ExportError
from deblur_deploy.graph.edit import replace_nodes
from deblur_deploy.graph.shrink import restore_float_weights


def drop_quantization(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Take QuantizeLinear and DequantizeLinear out of a network and keep the weights it was fine-tuned to.

    Args:
        model: A network, quantized or not. It is not changed.

    Returns:
        The float network, in which integer weights are replaced by the float32 values they stand for, and the number of
        DequantizeLinear nodes removed: one for each quantized activation and each quantized weight.

    Raises:
        ExportError: Something other than DequantizeLinear uses the integers.
    """
    floats = onnx.ModelProto()
    floats.CopyFrom(model)
    restore_float_weights(floats)
    graph = floats.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    quantized: dict[str, str] = {}  # an activation's integers -> the floats they were made from
    weights: dict[tuple[str, ...], str] = {}  # integers, scale, zero point, axis -> the floats they stand for
    replaced: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    pairs = 0
    for node in graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = replaced.get(name, name)
        if node.op_type == "QuantizeLinear":
            quantized[node.output[0]] = node.input[0]
        elif node.op_type == "Concat" and quantized.keys() >= set(node.input):
            node.input[:] = [quantized[name] for name in node.input]
            integers, node.output[0] = node.output[0], f"{node.output[0]}.float"
            quantized[integers] = node.output[0]
            nodes.append(node)
        elif node.op_type != "DequantizeLinear":
            nodes.append(node)
        else:
            pairs += 1
            key = (*node.input, str(_axis(node)))
            if node.input[0] not in quantized and key not in weights:
                graph.initializer.append(_dequantized(node, initializers))
                weights[key] = node.output[0]
            replaced[node.output[0]] = quantized.get(node.input[0]) or weights[key]
    _check_no_integers_left(nodes, quantized.keys())
    nodes += [helper.make_node("Identity", [replaced[o.name]], [o.name]) for o in graph.output if o.name in replaced]
    replace_nodes(floats, nodes)
    return floats, pairs


def _check_no_integers_left(nodes: Iterable[onnx.NodeProto], integers: Collection[str]) -> None:
    for node in nodes:
        if misused := set(integers) & set(node.input):
            raise ExportError(
                f"node {node.name!r} ({node.op_type}) uses {min(misused)!r} as integers",
                hint="export the float checkpoint instead: `deblur-deploy export-onnx SOURCE`",
            )


def _dequantized(node: onnx.NodeProto, initializers: dict[str, TensorProto]) -> TensorProto:
    """The float32 weights behind a DequantizeLinear with constant inputs (ONNX operator specification, opset 19)."""
    missing = [name for name in node.input if name and name not in initializers]
    if missing:
        raise ExportError(
            f"node {node.name!r} dequantizes {missing[0]!r}, which is neither a weight nor a quantized activation",
            hint="export the float checkpoint instead: `deblur-deploy export-onnx SOURCE`",
        )
    arrays: list[NDArray[Any]] = [numpy_helper.to_array(initializers[name]) for name in node.input if name]
    integers, scale = arrays[0].astype(np.float32), arrays[1].astype(np.float32)
    zero_point = arrays[2].astype(np.float32) if len(arrays) == 3 else np.float32(0)
    if scale.size > 1:
        shape = [1] * integers.ndim
        shape[_axis(node)] = scale.size
        scale, zero_point = scale.reshape(shape), np.broadcast_to(zero_point, scale.shape).reshape(shape)
    values: NDArray[np.float32] = (integers - zero_point) * scale
    return numpy_helper.from_array(values.astype(np.float32), node.output[0])


def _axis(node: onnx.NodeProto) -> int:
    """The axis of a DequantizeLinear's scales, 1 by default (ONNX operator specification)."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
