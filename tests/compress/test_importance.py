"""Strength of channels: magnitudes and Taylor expansion against figures worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deblur_deploy.compress.groups import find_groups
from deblur_deploy.compress.importance import channel_strength, magnitude_scores, taylor_scores
from deblur_deploy.config import FitConfig
from deblur_deploy.core.errors import ConfigError, DeblurDeployError
from deblur_deploy.core.images import Resolution

SIZE = Resolution(32, 32)
FIT = FitConfig(coarse_weight=0.5)


class Chain(nn.Module):
    """Two 1x1 convolutions with four channels in between and no bias: everything can be counted on fingers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1, bias=False)
        self.last = nn.Conv2d(4, 3, 1, bias=False)

    def forward(self, x):
        return self.last(self.first(x))


@pytest.fixture
def chain() -> Chain:
    net = Chain()
    with torch.no_grad():
        net.first.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 6.0]).view(4, 1, 1, 1).expand(4, 3, 1, 1))
        net.last.weight.copy_(torch.tensor([4.0, 4.0, -2.0, 2.0]).view(1, 4, 1, 1).expand(3, 4, 1, 1))
    return net


def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, 32, 32, generator=generator), torch.rand(1, 3, 32, 32, generator=generator)


@pytest.mark.parametrize(
    ("power", "made", "read"), [(1, [1, 2, 3, 6], [4, 4, 2, 2]), (2, [1, 4, 9, 36], [16, 16, 4, 4])]
)
def test_magnitudes_are_means_per_layer_scaled_to_one(chain, power, made, read):
    (group,) = find_groups(chain, SIZE)
    wanted = [torch.tensor(values, dtype=torch.float64) for values in (made, read)]

    strength = channel_strength(group, magnitude_scores(chain, power))

    assert torch.allclose(strength, sum(values / values.mean() for values in wanted) / 2)
    assert float(strength.mean()) == pytest.approx(1)


def test_scaling_a_layer_scales_no_strength(unet):
    groups = find_groups(unet, SIZE)
    before = [channel_strength(group, magnitude_scores(unet, 2)) for group in groups]
    with torch.no_grad():
        unet.fuse.weight.mul_(1e-8)
        unet.up.weight.mul_(1e8)

    after = [channel_strength(group, magnitude_scores(unet, 2)) for group in groups]

    assert all(torch.allclose(one, other) for one, other in zip(before, after, strict=True))


def test_a_layer_of_zeros_says_nothing(chain):
    (group,) = find_groups(chain, SIZE)
    nn.init.zeros_(chain.last.weight)

    strength = channel_strength(group, magnitude_scores(chain, 1))

    assert torch.allclose(strength, torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64) / 6)


def test_taylor_scores_are_squares_of_weight_times_gradient(chain):
    pairs = [pair(1), pair(2)]
    wanted = torch.zeros_like(chain.last.weight)
    for blurred, sharp in pairs:
        gradient = torch.autograd.grad((chain(blurred) - sharp).abs().mean(), chain.last.weight)[0]
        wanted += (chain.last.weight * gradient).detach() ** 2 / 2

    scores = taylor_scores(chain, pairs, FIT)

    assert torch.allclose(scores["last.weight"], wanted.double(), rtol=1e-4)
    assert all(parameter.grad is None for parameter in chain.parameters())


def test_taylor_finds_the_channel_that_the_loss_does_not_see(net):
    """A channel of great weights whose readers are zero stands for nothing."""
    group = next(group for group in find_groups(net) if group.layers == ("levels.0.blocks.0.conv1",))
    with torch.no_grad():
        net.levels[0].blocks[0].conv1.weight[7] *= 100
        net.levels[0].blocks[0].conv2.weight[:, 7] = 0

    taylor = channel_strength(group, taylor_scores(net, [pair(3)], FIT))

    assert taylor[7] == 0 < taylor.max()
    assert int(channel_strength(group, magnitude_scores(net, 2)).argmax()) == 7


def test_taylor_works_on_any_network_and_leaves_it_as_it_was(any_net):
    any_net.train()
    for parameter in any_net.parameters():
        parameter.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in any_net.state_dict().items()}

    with torch.no_grad():
        scores = taylor_scores(any_net, [pair(1)], FIT)

    assert all(torch.isfinite(score).all() and score.sum() > 0 for score in scores.values())
    assert any_net.training
    assert not any(parameter.requires_grad for parameter in any_net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in any_net.state_dict().items())


def test_an_activation_that_is_nan_is_named(net):
    with torch.no_grad():
        net.deform.deform.weight[0, 0, 0, 0] = float("nan")

    with pytest.raises(DeblurDeployError, match=r"the output of deform\.deform is NaN or infinite on a calibration"):
        taylor_scores(net, [pair(1)], FIT)
    assert not any(module._forward_hooks for module in net.modules())


def test_a_crop_with_nan_is_refused(chain):
    blurred, sharp = pair(1)
    blurred[0, 0, 0, 0] = float("nan")

    with pytest.raises(DeblurDeployError, match="the output of first is NaN"):
        taylor_scores(chain, [(blurred, sharp)], FIT)


def test_taylor_without_crops_is_refused(chain):
    with pytest.raises(ConfigError, match="no crops to look at"):
        taylor_scores(chain, [], FIT)
