"""Networks that grow and go on computing what they computed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.network.widen import widen

UNEVEN = SRNConfig((8, 11, 13), ((5,), (7, 6), (9,)), 10, (6, 12, 7), (5, 8, 9))
"""As pruning may leave a network: no two widths belong together."""


def trained(config: SRNConfig) -> SRN:
    """A network in which no weight is zero, so that every path counts, the recurrence and the offsets too."""
    torch.manual_seed(3)
    net = SRN(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return net.eval()


def largest_difference(first: SRN, second: SRN) -> float:
    torch.manual_seed(4)
    picture = torch.rand(2, 3, 37, 50)
    with torch.no_grad():
        return float((first(picture) - second(picture)).abs().max())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SRNConfig.from_base(8, (1, 1, 1)), SRNConfig.from_base(12, (1, 1, 1))),
        (SRNConfig.from_base(8, (1, 1, 1)), SRNConfig.from_base(20, (3, 2, 1))),
        (SRNConfig.from_base(8, (1, 0, 1)), SRNConfig.from_base(8, (2, 1, 4))),
        (UNEVEN, SRNConfig.from_base(16, (1, 2, 2))),
    ],
    ids=["wider", "wider and deeper", "deeper", "pruned"],
)
def test_a_grown_network_computes_the_same(before: SRNConfig, after: SRNConfig) -> None:
    net = trained(before)
    wide = widen(net, after)
    assert wide.config == after
    assert not wide.training
    with torch.no_grad():
        moved = net(picture := torch.rand(1, 3, 32, 32)) - picture
    assert moved.abs().mean() > 0.01  # it does something that could be lost
    assert largest_difference(net, wide) <= 1e-5


@pytest.mark.parametrize("group", ["level_channels", "recurrent_channels", "pyramid_channels", "smooth_channels"])
def test_every_group_grows_on_its_own(group: str) -> None:
    size = getattr(UNEVEN, group)
    larger = size + 3 if isinstance(size, int) else tuple(part + index + 1 for index, part in enumerate(size))
    net = trained(UNEVEN)
    assert largest_difference(net, widen(net, dataclasses.replace(UNEVEN, **{group: larger}))) <= 1e-5


def test_the_same_size_is_the_same_network() -> None:
    net = trained(UNEVEN)
    again = widen(net, UNEVEN)
    assert again is not net
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_copies_do_not_stay_twins() -> None:
    """Adam ignores the scale of a gradient, so that of two copies must differ in direction."""
    wide = widen(trained(SRNConfig.from_base(8, (1, 1, 1))), SRNConfig.from_base(16, (1, 1, 1))).train()
    torch.manual_seed(4)
    wide(torch.rand(1, 3, 32, 32)).square().mean().backward()
    inner = wide.levels[0].blocks[0].conv1.weight  # read by one convolution alone
    gradients = torch.nn.functional.normalize(inner.grad.flatten(1), dim=1)
    alive = gradients[:8].any(dim=1)
    assert alive.sum() >= 6
    assert (gradients[:8] - gradients[8:]).norm(dim=1)[alive].median() > 1e-3


def test_new_blocks_learn() -> None:
    wide = widen(trained(SRNConfig.from_base(8, (1, 1, 1))), SRNConfig.from_base(8, (2, 1, 1))).train()
    wide(torch.rand(1, 3, 32, 32)).square().mean().backward()
    new = wide.levels[0].blocks[1].conv2
    assert not new.weight.any()
    assert new.weight.grad.abs().max() > 0


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    net, config = trained(SRNConfig.from_base(8, (1, 1, 1))), SRNConfig.from_base(12, (2, 1, 1))
    before = torch.get_rng_state()
    first, again, other = widen(net, config, 5), widen(net, config, 5), widen(net, config, 6)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SRNConfig.from_base(6, (1, 2, 1)), r"level_channels\[0\] from 8 to 6"),
        (SRNConfig.from_base(16, (1, 1, 1)), r"block_channels\[1\]\[1\] from 6 to 0"),
        (dataclasses.replace(UNEVEN, recurrent_channels=9), "recurrent_channels from 10 to 9"),
    ],
)
def test_nothing_shrinks(config: SRNConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        widen(SRN(UNEVEN), config)
    assert "leave base and depths out" in error.value.hint


def test_a_larger_stem_restores_what_the_source_restores_of_the_picture_at_half_size() -> None:
    source = trained(SRNConfig.from_base(8, (1, 1, 1)))
    half = widen(source, SRNConfig.from_base(12, (1, 2, 1), stem=2))
    assert half.config.stem == 2
    torch.manual_seed(4)
    picture = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        small = F.avg_pool2d(picture, 2)
        # The coarser scales of both see the same sequence of sizes, so the states agree as well.
        wanted = F.interpolate(source(small) - small, scale_factor=2.0, mode="nearest")
        got = half(picture) - picture
    assert wanted.abs().mean() > 0.01
    # The estimates between two scales are enlarged bilinearly in both; only what they are enlarged from differs.
    assert float((got - wanted).abs().mean()) < 0.2 * float(wanted.abs().mean())


def test_one_scale_of_a_larger_stem_equals_the_source_at_half_size() -> None:
    source = trained(SRNConfig.from_base(8, (1, 1, 1)))
    half = widen(source, dataclasses.replace(source.config, stem=2))
    torch.manual_seed(5)
    picture = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        small = F.avg_pool2d(picture, 2)
        wanted, state = source.forward_one_scale(small, small, None)
        got, half_state = half.forward_one_scale(picture, picture, None)
    assert torch.allclose(half_state, state, atol=1e-5)
    assert torch.allclose(got - picture, F.interpolate(wanted - small, scale_factor=2.0, mode="nearest"), atol=1e-5)


def test_a_stem_never_shrinks() -> None:
    with pytest.raises(ConfigError, match="stem from 2 to 1"):
        widen(trained(SRNConfig.from_base(8, (1, 1, 1), stem=2)), SRNConfig.from_base(8, (1, 1, 1)))
