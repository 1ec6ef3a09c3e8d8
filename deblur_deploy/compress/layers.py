"""Where a layer keeps its channels: the axis of every tensor, and the attributes that count them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from deblur_deploy.network.deform_conv import DeformConv2dPack

Side = Literal["out", "in"]
"""Whether channels are a layer's outputs or its inputs."""

WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, DeformConv2dPack)
"""Layers that make channels out of channels."""

_Axes = Mapping[str, Mapping[Side, int]]


@dataclass(frozen=True)
class Layout:
    """Channels of one layer.

    Args:
        axes: For every tensor of the layer, the axis of each side's channels.
        counts: For each side, the attributes that hold the number of channels.
    """

    axes: _Axes
    counts: Mapping[Side, tuple[str, ...]] = field(default_factory=dict)


_CONVOLUTION = Layout(
    {"weight": {"out": 0, "in": 1}, "bias": {"out": 0}}, {"out": ("out_channels",), "in": ("in_channels",)}
)
_TRANSPOSED = Layout({"weight": {"out": 1, "in": 0}, "bias": {"out": 0}}, _CONVOLUTION.counts)
_DEPTHWISE = Layout(
    {"weight": {"out": 0}, "bias": {"out": 0}}, {"out": ("out_channels", "in_channels", "groups"), "in": ()}
)
_NORM = Layout(
    {name: {"out": 0} for name in ("weight", "bias", "running_mean", "running_var")}, {"out": ("num_features",)}
)
_PRELU = Layout({"weight": {"out": 0}}, {"out": ("num_parameters",)})


def layout_of(layer: nn.Module) -> Layout | None:
    """The layout of a layer whose channels can be removed, or None.

    A layer between whose inputs and outputs channels keep their places (a depthwise convolution, a normalisation of
    every channel by itself) has outputs alone; one without anything per channel has nothing to remove. The convolution
    inside a :class:`DeformConv2dPack` that predicts offsets is a layer of its own.
    """
    if isinstance(layer, DeformConv2dPack):
        return _CONVOLUTION if layer.groups == 1 and layer.deform_groups == 1 else None
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        if layer.groups == 1:
            return _TRANSPOSED if isinstance(layer, nn.ConvTranspose2d) else _CONVOLUTION
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels
        return _DEPTHWISE if depthwise else None
    if isinstance(layer, (nn.BatchNorm2d, nn.InstanceNorm2d)):
        return _NORM if layer.affine or layer.track_running_stats else None
    return _PRELU if isinstance(layer, nn.PReLU) and layer.num_parameters > 1 else None


def channel_tensors(layer: nn.Module, side: Side) -> list[tuple[str, Tensor, int]]:
    """Name, tensor and axis of everything in a layer that has an entry per channel of one side."""
    layout = layout_of(layer)
    assert layout is not None
    return [
        (name, tensor, axes[side])
        for name, axes in layout.axes.items()
        if side in axes and (tensor := getattr(layer, name, None)) is not None
    ]


def keep_channels(layer: nn.Module, side: Side, kept: Sequence[int]) -> None:
    """Leave a layer only some channels of one side, in place and in the order given."""
    index = torch.tensor(kept)
    for name, tensor, axis in channel_tensors(layer, side):
        smaller = tensor.detach().index_select(axis, index.to(tensor.device)).contiguous()
        is_weight = isinstance(tensor, nn.Parameter)
        setattr(layer, name, nn.Parameter(smaller, tensor.requires_grad) if is_weight else smaller)
    layout = layout_of(layer)
    assert layout is not None
    for name in layout.counts[side]:
        setattr(layer, name, len(kept))
