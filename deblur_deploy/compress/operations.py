"""Which operations between layers leave every channel in its place, so that pruning can follow it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from deblur_deploy.core.errors import ConfigError

_FOLLOWED = frozenset(
    {
        *("Convolution", "NativeBatchNorm", "PreluKernel"),
        *("Add", "Sub", "Rsub", "Mul", "Div", "Neg", "Abs", "Pow", "Sqrt", "Exp", "Clamp", "Maximum", "Minimum"),
        *("Relu", "LeakyRelu", "Elu", "Gelu", "Silu", "Mish", "Softplus"),
        *("Sigmoid", "Tanh", "Hardtanh", "Hardswish", "Hardsigmoid"),
        *("AvgPool2D", "MaxPool2DWithIndices", "AdaptiveAvgPool2D", "Mean"),
        *("UpsampleNearest2D", "UpsampleBilinear2D", "UpsampleBicubic2D"),
        *("ReplicationPad2D", "ReflectionPad2D", "ConstantPadNd", "Slice", "Cat", "Clone", "ToCopy", "NativeDropout"),
    }
)
"""Autograd's names of operations that work on every channel alike, or whose channels Torch-Pruning follows itself."""

_JOINS = ("Cat",)
"""Operations along an axis that may be the channels'."""

_CHANNELS = 1
_DIMENSIONS = 4


def outputs_of(result: Any) -> list[Tensor]:
    """The pictures of a pass, whether it gives one or a list of them."""
    return [result] if isinstance(result, Tensor) else list(result)


def check_operations(outputs: Sequence[Tensor], made_by: Mapping[Any, str]) -> None:
    """Refuse operations that move or mix channels in ways that are not followed.

    Args:
        outputs: What a pass with gradients gave.
        made_by: Names of the modules whose outputs the autograd nodes are.

    Raises:
        ConfigError: Such an operation; the message names it and the nearest layers behind it.
    """
    waiting = [output.grad_fn for output in outputs]
    seen = set()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        before = [following for following, _ in node.next_functions if following is not None]
        if reason := _reason_refused(node, before):
            raise ConfigError(
                f"the network has the operation {_name(node)} (after {_origin(before, made_by)}), {reason}",
                hint="prune a network without it, or put it where only the picture's own channels pass",
            )
        waiting += before


def _reason_refused(node: Any, before: Sequence[Any]) -> str | None:
    """Why channels cannot be followed through a node of the autograd graph, or None."""
    name = _name(node)
    if not before or all(_is_parameter(following) for following in before):
        return None  # a parameter, or one in another shape
    if name not in _FOLLOWED:
        return "through which pruning cannot follow channels"
    if name not in _JOINS and _CHANNELS in _axes(node):
        return "which works along the channels"
    if name in _JOINS and _axes(node) != {_CHANNELS}:
        return "which does not join channels"
    return None


def _axes(node: Any) -> set[int]:
    """Axes of (N, C, H, W) that a node works along, where it has any."""
    saved = getattr(node, "_saved_dim", ())
    axes = saved if isinstance(saved, (tuple, list)) else (saved,)
    # Autograd keeps negative axes as unsigned 64-bit numbers.
    return {(axis - 2**64 if axis >= 2**63 else axis) % _DIMENSIONS for axis in axes}


def _name(node: Any) -> str:
    return re.sub(r"Backward\d*$", "", str(node.name()))


def _is_parameter(node: Any) -> bool:
    return str(node.name()).endswith("AccumulateGrad")


def _origin(before: Sequence[Any], made_by: Mapping[Any, str]) -> str:
    """The nearest named layer that a node's input comes from."""
    waiting, seen = list(before), set()
    while waiting:
        node = waiting.pop(0)
        if made_by.get(node):
            return made_by[node]
        if node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions if following is not None]
    return "the input"
