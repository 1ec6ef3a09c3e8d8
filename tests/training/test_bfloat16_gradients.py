"""Gradients in bfloat16 are those of float32, also for the widths that pruning leaves."""

from __future__ import annotations

import copy
from itertools import repeat

import pytest
import torch
from torch import Tensor, nn

from deblur_deploy.config import FitConfig
from deblur_deploy.training.devices import dilated_in_float32
from deblur_deploy.training.loop import fit


class Dilated(nn.Module):
    """A residual of two convolutions, the second dilated, on as many channels as asked for."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, channels, 3, padding=1)
        self.middle = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.leave = nn.Conv2d(channels, 3, 3, padding=1)

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        return [blurred + self.leave(torch.relu(self.middle(torch.relu(self.enter(blurred)))))]


def gradients(net: Dilated, picture: Tensor, wanted: Tensor, bfloat16: bool) -> dict[str, Tensor]:
    net = copy.deepcopy(net).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16), dilated_in_float32(net):
        (restored,) = net.forward_scales(picture)
        (restored.float() - wanted).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("channels", [16, 20, 24, 40, 88])
def test_gradients_of_pruned_widths_are_right(channels: int, dilation: int) -> None:
    torch.manual_seed(0)
    net = Dilated(channels, dilation)
    picture, wanted = torch.rand(2, 1, 3, 96, 96).unbind()
    exact, rounded = (gradients(net, picture, wanted, bfloat16) for bfloat16 in (False, True))
    for name, gradient in exact.items():
        error = (rounded[name] - gradient).norm() / gradient.norm()
        assert float(error) < 0.05, name  # NaN is not below it


def test_a_pruned_width_trains_in_bfloat16_as_in_float32() -> None:
    torch.manual_seed(0)
    start = Dilated(24, 2)
    pair = torch.rand(1, 3, 96, 96), torch.rand(1, 3, 96, 96)
    losses = [
        fit(copy.deepcopy(start), repeat(pair), FitConfig(steps=3, batch=1, crop=96, lr=1e-3, precision=precision)).loss
        for precision in ("float32", "bfloat16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_layers_are_as_before_afterwards() -> None:
    net = Dilated(24, 2)
    with dilated_in_float32(net):
        assert "_conv_forward" in vars(net.middle)
        assert "_conv_forward" not in vars(net.enter)
    assert "_conv_forward" not in vars(net.middle)
