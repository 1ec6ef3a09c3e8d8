"""Removing channels: the same network with fewer of them, exactly, whatever the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deblur_deploy.compress.groups import find_groups
from deblur_deploy.compress.operations import outputs_of
from deblur_deploy.compress.removal import check_removal, remove_channels, weakest, zero_channels
from deblur_deploy.core.errors import ConfigError, VerificationError
from deblur_deploy.core.images import Resolution

SIZE = Resolution(32, 32)


def every_third(groups) -> list[list[int]]:
    return [list(range(1, group.channels, 3)) for group in groups]


def run(net: nn.Module, frame: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return outputs_of(net(frame))


def test_removing_zeroed_channels_changes_nothing(any_net):
    groups = find_groups(any_net, SIZE)
    masked = zero_channels(any_net, groups, every_third(groups))

    small = remove_channels(masked, groups, every_third(groups))

    frame = torch.rand(1, 3, 48, 64)
    for one, other, whole in zip(run(masked, frame), run(small, frame), run(any_net, frame), strict=True):
        assert (one - other).abs().max() <= 1e-5
        assert (one - whole).abs().max() > 1e-3  # the channels did something
    assert sum(p.numel() for p in small.parameters()) < 0.7 * sum(p.numel() for p in any_net.parameters())


def test_everything_that_counts_channels_counts_anew(unet):
    groups = find_groups(unet, SIZE)
    small = remove_channels(unet, groups, every_third(groups))

    norm, slopes, depthwise = small.down1[1], small.down1[2], small.mix[0]
    assert (norm.num_features, norm.running_var.numel(), slopes.num_parameters) == (11, 11, 11)
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (21, 21, 21)
    assert (small.up.in_channels, small.up.out_channels, tuple(small.up.weight.shape)) == (21, 16, (21, 16, 2, 2))
    assert small.fuse.in_channels == 11 + 16
    assert not any(parameter.grad_fn for parameter in small.parameters())


def test_the_channels_that_stay_keep_their_weights_and_order(unet):
    groups = find_groups(unet, SIZE)
    removed = [[0, 5] if "down1.0" in group.layers else [] for group in groups]
    small = remove_channels(unet, groups, removed)

    kept = [channel for channel in range(16) if channel not in (0, 5)]
    assert torch.equal(small.down1[0].weight, unet.down1[0].weight[kept])
    assert torch.equal(small.fuse.weight, unet.fuse.weight[:, [*kept, *range(16, 40)]])
    assert torch.equal(small.head.weight, unet.head.weight)


def test_gradients_are_wanted_where_they_were(unet):
    unet.down1[0].weight.requires_grad_(False)
    groups = find_groups(unet, SIZE)
    small = remove_channels(unet, groups, every_third(groups))

    wanted = {name: parameter.requires_grad for name, parameter in unet.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in small.named_parameters()} == wanted


@pytest.mark.parametrize("with_weights", [False, True])
def test_modulated_offsets_stay_twenty_seven(modulated, with_weights):
    if not with_weights:
        modulated.pack.bias = None
    groups = find_groups(modulated, SIZE)
    small = remove_channels(modulated, groups, every_third(groups))

    check_removal(modulated, small, groups, every_third(groups), SIZE)
    assert small.pack.conv_offset.weight.shape[:2] == (27, 11)
    assert small.pack.weight.shape[:2] == (11, 11)


def test_the_weakest_go_and_the_first_of_equals_stays():
    assert weakest(torch.tensor([0.5, 2.0, 0.5, 1.0, 0.5]), 3) == [2, 4]
    assert weakest(torch.tensor([1.0, 2.0]), 2) == []


def test_a_wrong_channel_is_found_out(net):
    groups = find_groups(net)
    removed = [[3] if "levels.0.enter" in group.layers else [] for group in groups]
    wrong = [[4] if channels else [] for channels in removed]

    check_removal(net, remove_channels(net, groups, removed), groups, removed)
    with pytest.raises(VerificationError, match=r"without channels of levels\.0\.enter the network's output is"):
        check_removal(net, remove_channels(net, groups, wrong), groups, removed)


def test_a_network_whose_traced_pass_hides_something_is_refused():
    class Hidden(nn.Module):
        """``forward_once`` leaves out that the first layer meets the picture."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 3, padding=1)
            self.last = nn.Conv2d(3, 3, 3, padding=1)

        def forward_once(self, x):
            return self.last(self.first(x))

        def forward(self, x):
            return self.last(self.first(x) + x)

    net = Hidden()
    groups = find_groups(net, SIZE)

    with pytest.raises(ConfigError, match="without channels of first the network does not run"):
        check_removal(net, remove_channels(net, groups, [[1]]), groups, [[1]], SIZE)


def test_a_wrong_channel_shows_where_it_hardly_matters():
    """A branch that adds a millionth of the picture: far less than single precision's rounding in a deep network."""

    class Faint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.last = nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, x):
            return x + 1e-6 * self.last(self.first(x))

    net = Faint()
    (group,) = find_groups(net, SIZE)

    check_removal(net, remove_channels(net, [group], [[3]]), [group], [[3]], SIZE)
    with pytest.raises(VerificationError, match="without channels of first"):
        check_removal(net, remove_channels(net, [group], [[4]]), [group], [[3]], SIZE)


def test_code_that_is_bound_to_single_precision_is_held_to_that():
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.last = nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, x):
            return self.last(self.first(x.float()))

    net = Single()
    (group,) = find_groups(net, SIZE)
    check_removal(net, remove_channels(net, [group], [[3]]), [group], [[3]], SIZE)


def test_instance_norm_without_weights_fits_any_number_of_channels():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.Conv2d(8, 3, 3, padding=1))
    groups = find_groups(net, SIZE)

    small = remove_channels(net, groups, every_third(groups))  # a warning would be an error

    check_removal(net, small, groups, every_third(groups), SIZE)
    assert small[0].out_channels == 5
