"""Operators that the exporter leaves in a form that not every runtime reads, written plainly.

``padding="same"`` of PyTorch comes out as ``auto_pad``, which is deprecated in ONNX; onnxruntime refuses it together
with a dilation. It becomes numbers.

Batch normalisation after a float convolution is folded into the weights by the exporter. After a quantized one it
stays, and half precision leaves it with a picture and statistics of two types, which OpenVINO does not read. It becomes
a multiplication and an addition, which every runtime reads and fuses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from deblur_deploy.graph.edit import remove_unused, set_nodes


def write_pads(model: onnx.ModelProto) -> int:
    """Replace ``auto_pad`` of convolutions of stride 1 by ``pads``, in place.

    The output has the input's size: a side takes ``dilation * (kernel - 1)`` pixels, half of them, rounded down, before
    it with SAME_UPPER and after it with SAME_LOWER (ONNX operator specification, Conv).

    Returns:
        How many were replaced.
    """
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    replaced = 0
    for node in model.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        way = attributes["auto_pad"].s.decode() if "auto_pad" in attributes else "NOTSET"
        if node.op_type != "Conv" or way == "NOTSET":
            continue
        strides = list(attributes["strides"].ints) if "strides" in attributes else []
        if "kernel_shape" in attributes:
            kernel = list(attributes["kernel_shape"].ints)
        else:
            kernel = list(shapes.get(node.input[1], ()))[2:]
        if any(stride != 1 for stride in strides) or not kernel:
            continue
        dilations = list(attributes["dilations"].ints) if "dilations" in attributes else [1] * len(kernel)
        pads = [0] * (2 * len(kernel))
        if way != "VALID":
            totals = [dilation * (side - 1) for dilation, side in zip(dilations, kernel, strict=True)]
            halves = [total // 2 for total in totals]
            rest = [total - half for total, half in zip(totals, halves, strict=True)]
            pads = [*halves, *rest] if way == "SAME_UPPER" else [*rest, *halves]
        kept = [attribute for name, attribute in attributes.items() if name not in ("auto_pad", "pads")]
        kept = [onnx.AttributeProto.FromString(attribute.SerializeToString()) for attribute in kept]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("pads", pads)])
        replaced += 1
    return replaced


_EPSILON = 1e-5
"""What ONNX adds to the variance where the node does not say."""


def replace_batch_norms(model: onnx.ModelProto) -> int:
    """Replace every BatchNormalization with constant statistics by Mul and Add, in place.

    ``y = g (x - mean) / sqrt(var + eps) + b`` is ``s x + (b - s mean)`` with ``s = g / sqrt(var + eps)`` (ONNX operator
    specification, BatchNormalization).

    Args:
        model: A graph, Constant nodes gathered by ``edit.share_constants``. What is normalised may have any number of
            axes, of which the second counts channels; where it is not known, the node is left as it is.

    Returns:
        How many were replaced.
    """
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    replaced = 0
    norms = any(node.op_type == "BatchNormalization" for node in graph.node)
    axes = _numbers_of_axes(model) if norms else {}
    for node in graph.node:
        known = node.input[0] in axes and constants.keys() >= set(node.input[1:]) if node.input else False
        if node.op_type != "BatchNormalization" or not known:
            nodes.append(node)
            continue
        weight, bias, mean, variance = (_per_channel(constants[name], axes[node.input[0]]) for name in node.input[1:])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), _EPSILON)
        scale = weight / np.sqrt(variance + epsilon)
        output = node.output[0]
        for name, values in ((f"{output}.scale", scale), (f"{output}.shift", bias - scale * mean)):
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        nodes.append(helper.make_node("Mul", [node.input[0], f"{output}.scale"], [f"{output}.scaled"], name=node.name))
        nodes.append(
            helper.make_node("Add", [f"{output}.scaled", f"{output}.shift"], [output], name=f"{node.name}/shift")
        )
        replaced += 1
    if replaced:
        set_nodes(graph, nodes, {})
        remove_unused(model)
    return replaced


def _numbers_of_axes(model: onnx.ModelProto) -> dict[str, int]:
    """How many axes the tensors have of which that is known."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values if _has_shape(value)}


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"))


def _per_channel(item: onnx.TensorProto, axes: int) -> NDArray[Any]:
    """(C,) as (1, C, 1, …) float64, of so many axes."""
    return numpy_helper.to_array(item).astype(np.float64).reshape(1, -1, *[1] * (axes - 2))
