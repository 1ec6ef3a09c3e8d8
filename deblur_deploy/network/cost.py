"""What a network costs: parameters, and multiply-accumulates for one frame."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from deblur_deploy.core.images import Resolution
from deblur_deploy.network import deform_conv  # noqa: F401 - defines the operator that is counted below
from deblur_deploy.network.plain_attention import plain_attention
from deblur_deploy.network.users_code import CODE_ERRORS

REFERENCE_RESOLUTION = Resolution(640, 360)
"""The size for which GMACs are quoted unless another is named."""


def measure_cost(net: nn.Module, resolution: Resolution = REFERENCE_RESOLUTION) -> dict[str, float]:
    """Count parameters and multiply-accumulates without computing anything.

    Args:
        net: A float network that maps (1, 3, H, W) to the same shape.
        resolution: Size of the frame.

    Returns:
        ``params`` and ``gmacs`` (10**9 multiply-accumulates).
    """
    return {
        "params": sum(parameter.numel() for parameter in net.parameters()),
        "gmacs": round(count_macs(net, resolution)[""] / 1e9, 4),
    }


def count_macs(net: nn.Module, resolution: Resolution = REFERENCE_RESOLUTION) -> dict[str, int]:
    """Multiply-accumulates by module name, each with those of the modules inside it; the network itself is ``""``.

    The forward pass runs on torch's meta device under its FLOP counter, or where its code cannot do that, for real; a
    multiply-accumulate is two FLOPs. Only convolutions and matrix products are counted, as is usual.
    """
    try:
        counter = _count_flops(copy.deepcopy(net).to("meta"), resolution)
    except CODE_ERRORS:  # such as code that looks at numbers, which are not there
        counter = _count_flops(net, resolution)
    # The counter calls the network itself by its class.
    found = {name.partition(".")[2]: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    return {**found, "": counter.get_total_flops() // 2}


def _count_flops(net: nn.Module, resolution: Resolution) -> FlopCounterMode:
    """The counter after one pass of a frame, on the network's device."""
    device = next((parameter.device for parameter in net.parameters()), None)
    frame = torch.zeros(1, 3, resolution.height, resolution.width, device=device)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), plain_attention():
        net(frame)
    return counter


@register_flop_formula(torch.ops.deblur.deform_conv2d)
def _deform_conv_flops(
    input_shape: Any, offset_shape: Any, weight_shape: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    """FLOPs of the contraction; sampling, like any interpolation, is not counted."""
    batch, _, out_height, out_width = offset_shape
    out_channels, group_channels, kernel_height, kernel_width = weight_shape
    macs = batch * out_height * out_width * out_channels * group_channels * kernel_height * kernel_width
    return 2 * int(macs)
