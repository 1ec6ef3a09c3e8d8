"""Whether every sample that a network gives comes from a neighbourhood of the picture, and not from all of it."""

from __future__ import annotations

import onnx

from deblur_deploy.graph.operators import DOMAIN, OP_TYPE

_LARGEST_WINDOW = 16
"""Samples on a side of the largest window of one operator: a larger one may be a mean over the picture."""

_BY_SAMPLE = frozenset(
    [
        "Abs",
        "Add",
        "And",
        "Cast",
        "Ceil",
        "Clip",
        "Div",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "Greater",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Less",
        "Log",
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "PRelu",
        "Pow",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Softplus",
        "Sqrt",
        "Sub",
        "Tanh",
        "Where",
        "BatchNormalization",
        "QuantizeLinear",
        "DequantizeLinear",
    ]
)
_MOVING = frozenset(
    ["Concat", "Constant", "DepthToSpace", "Pad", "Reshape", "Slice", "SpaceToDepth", "Split", "Transpose", "Unsqueeze"]
)
_WINDOWED = frozenset(["AveragePool", "Conv", "ConvTranspose", "DeformConv", "GridSample", "MaxPool", "Resize"])
_LOCAL = _BY_SAMPLE | _MOVING | _WINDOWED


def is_local(model: onnx.ModelProto) -> bool:
    """Whether no operator of a network takes the whole picture into account, as means, norms and attention do.

    Such a network does on a part of a picture what it would do on that part alone, away from its borders. What is not
    known for certain counts as no.

    Args:
        model: A network. Of local functions, that of ``deblur::DeformConv2d`` is known.
    """
    return all(_is_local(node) for node in model.graph.node)


def _is_local(node: onnx.NodeProto) -> bool:
    if node.domain:
        return (node.domain, node.op_type) == (DOMAIN, OP_TYPE)
    windows = (attribute.ints for attribute in node.attribute if attribute.name == "kernel_shape")
    return node.op_type in _LOCAL and all(max(window) <= _LARGEST_WINDOW for window in windows)
