"""Convolutions whose gradients a processor gets wrong in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_BLOCK = 16
"""Channels that oneDNN takes together."""


@contextmanager
def dilated_in_float32(net: nn.Module) -> Iterator[None]:
    """Let some dilated convolutions compute in float32 although autocast asks for bfloat16.

    oneDNN, as PyTorch 2.13 has it, gives wrong, infinite or NaN weight gradients in bfloat16 where a convolution is
    dilated, its input channels are more than 16 and not a multiple of 16, and the picture is wider than some 40 pixels.
    Pruned networks have such layers: 24, 40 or 88 channels. Undilated ones, and multiples of 16, are right.

    Args:
        net: Its layers are changed in place, and are as before afterwards.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and _is_wrong_in_bfloat16(layer)]
    for layer in layers:
        layer._conv_forward = _in_float32(layer)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for layer in layers:
            del layer._conv_forward


def _is_wrong_in_bfloat16(layer: nn.Conv2d) -> bool:
    channels = layer.in_channels // layer.groups
    return max(layer.dilation) > 1 and channels > _BLOCK and channels % _BLOCK != 0


def _in_float32(layer: nn.Conv2d) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            result: Tensor = type(layer)._conv_forward(layer, inputs.float(), weight, bias)
        return result

    return forward
