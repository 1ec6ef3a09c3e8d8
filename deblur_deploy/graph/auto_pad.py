"""Paddings that a convolution leaves to the runtime, written as numbers.

``padding="same"`` of PyTorch comes out of the exporter as ``auto_pad``, which is deprecated in ONNX; onnxruntime
refuses it together with a dilation.
"""

from __future__ import annotations

import onnx
from onnx import helper

_WEIGHTED = frozenset({"Conv", "DeformConv"})


def write_pads(model: onnx.ModelProto) -> int:
    """Replace ``auto_pad`` of convolutions of stride 1 by ``pads``, in place.

    The output has the input's size: a side takes ``dilation * (kernel - 1)`` pixels, half of them, rounded down, before
    it with SAME_UPPER and behind it with SAME_LOWER (ONNX operator specification, Conv).

    Returns:
        How many were replaced.
    """
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    replaced = 0
    for node in model.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        way = attributes["auto_pad"].s.decode() if "auto_pad" in attributes else "NOTSET"
        if node.op_type not in _WEIGHTED or way == "NOTSET":
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
