"""Groups of channels: what is tied to what in three kinds of networks, what is followed, and what is frozen."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deblur_deploy.compress.groups import find_groups
from deblur_deploy.compress.plan import Frames, prune_network
from deblur_deploy.compress.removal import check_removal, remove_channels
from deblur_deploy.compress.trial import removable_channels
from deblur_deploy.config import PruneConfig
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution

SIZE = Resolution(32, 32)


def group_of(net: nn.Module, layer: str):
    (group,) = [group for group in find_groups(net, SIZE) if layer in group.layers]
    return group


def sides(group) -> set[tuple[str, str, int]]:
    """Layer, side of its weight, and how many places each channel has there."""
    return {
        (member.array.removesuffix(".weight"), side_of(member), len(member.places[0]))
        for member in group.members
        if member.array.endswith("weight")
    }


def side_of(member) -> str:
    """Whether an axis of a weight is its outputs or its inputs."""
    transposed = ".up" in f".{member.array}"
    return "in" if member.axis == (0 if transposed else 1) else "out"


def test_groups_of_the_recurrent_network_come_in_its_order(net):
    groups = find_groups(net)

    assert [group.layers[0] for group in groups][:3] == [
        "levels.0.enter",
        "levels.0.blocks.0.conv1",
        "levels.0.blocks.1.conv1",
    ]
    assert len(groups) == 15


def test_the_state_is_tied_to_candidate_gate_and_both_inputs_of_the_gate(net):
    group = group_of(net, "recurrent.gate")

    assert group.layers == ("recurrent.candidate", "recurrent.gate")
    assert sides(group) == {
        ("recurrent.candidate", "out", 1),
        ("recurrent.gate", "out", 1),
        ("recurrent.gate", "in", 2),
        ("pyramid.lateral.2", "in", 1),
    }
    gate = next(member for member in group.members if (member.array, member.axis) == ("recurrent.gate.weight", 1))
    assert gate.places[5] == (5, 96 + 5)


def test_a_deformable_layer_is_tied_in_and_out_and_its_offsets_are_not(net):
    group = group_of(net, "deform.deform")

    assert {("deform.deform", "out", 1), ("deform.deform", "in", 1)} <= sides(group)
    assert ("deform.deform.conv_offset", "in", 1) in sides(group)
    assert not any(
        (member.array, member.axis) == ("deform.deform.conv_offset.weight", 0)
        for other in find_groups(net)
        for member in other.members
    )


def test_skips_are_tied_along_the_residual_stream(net):
    assert group_of(net, "levels.1.enter").layers == (
        "levels.1.enter",
        "levels.1.blocks.0.conv2",
        "levels.1.blocks.1.conv2",
    )
    assert sides(group_of(net, "pyramid.up.0")) == {
        ("pyramid.lateral.0", "out", 1),
        ("pyramid.up.0", "out", 1),
        ("pyramid.smooth.0", "in", 1),
    }


def test_the_picture_is_no_group(net, unet, fpn):
    for network, heads in ((net, {"head"}), (unet, {"head"}), (fpn, {"small", "large"})):
        assert not heads & {layer for group in find_groups(network, SIZE) for layer in group.layers}


def test_concatenated_channels_have_their_own_places(unet):
    skip, up = group_of(unet, "down1.0"), group_of(unet, "up")

    assert sides(skip) >= {("down1.1", "out", 1), ("down1.2", "out", 1), ("fuse", "in", 1)}
    assert next(m for m in skip.members if m.array == "fuse.weight").places[3] == (3,)
    assert next(m for m in up.members if m.array == "fuse.weight").places[3] == (16 + 3,)


def test_a_depthwise_layer_goes_with_what_it_reads(unet):
    assert group_of(unet, "mix.0").layers == ("down2.0", "mix.0")


def test_additions_and_attention_tie_the_pyramid(fpn):
    assert group_of(fpn, "lateral2").layers == ("lateral1", "lateral2")
    assert group_of(fpn, "excite").layers == ("deform", "excite")


def test_the_network_is_left_as_it_was(unet):
    unet.train()
    for parameter in unet.parameters():
        parameter.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}

    with torch.no_grad():
        find_groups(unet, SIZE)

    assert unet.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in unet.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in unet.state_dict().items())
    assert not any(module._forward_hooks for module in unet.modules())


class Around(nn.Module):
    """Two convolutions with something between them, and two that have nothing to do with it."""

    def __init__(self, between, made: int = 8, inner: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, made, 3, padding=1)
        self.between = between
        self.last = nn.Conv2d(inner, 3, 3, padding=1)
        self.aside = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1))

    def forward(self, x):
        restored = self.last(self.between(self.first(x)))
        return F.interpolate(restored, x.shape[-2:]) + self.aside(x)


class Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def rows_and_columns(x):
    """A pixel shuffle as many write it."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels // 4, 2, 2, height, width)
    return x.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // 4, 2 * height, 2 * width)


FOLLOWED = {
    "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), 2, 2),
    "pixel shuffle by view": (rows_and_columns, 2, 2),
    "pixel unshuffle": (lambda x: F.pixel_unshuffle(x, 2), 32, 8),
    "gate": (lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1], 4, 4),
    "chunk": (lambda x: x.chunk(2, dim=1)[0], 4, 4),
    "half by slice": (lambda x: x[:, x.shape[1] // 2 :], 4, 4),
    "mean over channels": (lambda x: x - x.mean(dim=1, keepdim=True), 8, 8),
    "maximum over channels": (lambda x: x * x.amax(dim=-3, keepdim=True), 8, 8),
    "norm over channels": (lambda x: F.normalize(x, dim=1), 8, 8),
    "softmax over channels": (lambda x: x.softmax(dim=1), 8, 8),
    "cat of rows": (lambda x: torch.cat([x, x], dim=2), 8, 8),
    "halves of rows": (lambda x: torch.cat([x[:, :, :16], x[:, :, 16:].relu()], dim=2), 8, 8),
    "transposed picture": (lambda x: x.permute(0, 1, 3, 2), 8, 8),
    "pixels as rows": (lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, (32, 32)), 8, 8),
    "roll": (lambda x: x.roll((1, 1), (2, 3)), 8, 8),
    "fft": (lambda x: torch.fft.irfft2(torch.fft.rfft2(x)), 8, 8),
    "circular": (lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), 8, 8),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_an_operation_is_followed(name):
    """What is removed is the same channel on both sides, and the network without it is the network with zeros there."""
    function, inner, channels = FOLLOWED[name]
    net = Around(Call(function), 8, inner)

    found = removable_channels(net, SIZE)

    assert found.frozen == ()
    (group,) = [group for group in found.groups if "first" in group.layers]
    assert group.channels == channels
    assert {member.array for member in group.members} == {"first.weight", "first.bias", "last.weight"}


FROZEN = {
    "sort": (lambda x: x.sort(dim=1).values, 8, "the operation sort in between cannot be followed"),
    "cumsum": (lambda x: x.cumsum(1), 8, "the operation cumsum in between cannot be followed"),
    "a slice of numbers": (lambda x: x[:, 1:6], 5, "a number of channels that stands in the code"),
    "one channel": (lambda x: x[:, 2:3] + 0 * x, 8, "a number of channels that stands in the code"),
    "channels as rows": (lambda x: x.flatten(1, 2).unflatten(1, (8, 32)), 8, "does not run"),
    "a constant": (lambda x: x * torch.arange(1.0, 9.0).view(1, 8, 1, 1), 8, "must match the size"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_an_operation_that_cannot_be_followed_freezes_what_it_touches_alone(name):
    function, inner, reason = FROZEN[name]

    found = removable_channels(Around(Call(function), 8, inner), SIZE)

    assert [group.layers for group in found.groups] == [("aside.0",)]
    (frozen,) = found.frozen
    assert frozen.layers == ("first",)
    assert reason in frozen.reason


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        (nn.GroupNorm(2, 8), 4),
        (nn.Conv2d(8, 8, 3, padding=1, groups=2), 4),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), 8),
        (nn.ConvTranspose2d(8, 8, 1, groups=8), 8),
        (nn.Sequential(nn.Linear(32, 32)), 8),
    ],
    ids=["group norm", "groups", "depthwise", "depthwise transposed", "linear along rows"],
)
def test_layers_with_parts_lose_the_same_of_each(layer, channels):
    found = removable_channels(Around(layer), SIZE)

    (group,) = [group for group in found.groups if "first" in group.layers]
    assert group.channels == channels


@pytest.mark.parametrize(
    "layer",
    [nn.Hardswish(), nn.Sequential(nn.Conv2d(8, 16, 1), nn.GLU(1)), nn.RReLU(), nn.LogSigmoid(), nn.Mish(), nn.CELU()],
    ids=["hardswish", "gated linear unit", "rrelu", "log sigmoid", "mish", "celu"],
)
def test_activations_freeze_nothing(layer):
    net = Around(layer)

    found = removable_channels(net, SIZE)

    assert not found.frozen
    assert {group.channels for group in found.groups} == {8, 6}  # between, and aside


def test_a_bare_parameter_goes_with_the_channels_that_it_scales():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.beta = nn.Parameter(torch.rand(1, 8, 1, 1))

        def forward(self, x):
            return x * self.beta

    (group,) = [group for group in removable_channels(Around(Scaled()), SIZE).groups if "first" in group.layers]

    assert ("between.beta", 1) in {(member.array, member.axis) for member in group.members}


def test_what_hardly_shows_in_single_precision_is_frozen_and_the_rest_pruned():
    class Attending(nn.Module):
        """Its scale is made of the number of channels, and its scores are so small that the scale hardly shows."""

        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = (nn.Conv2d(8, 8, 1) for _ in range(2))
            with torch.no_grad():
                self.query.weight *= 0.01

        def forward(self, x):
            query, key = (layer(x).flatten(2) for layer in (self.query, self.key))
            scores = query @ key.transpose(1, 2) / key.shape[1] ** 0.5 / key.shape[2]
            return x + (scores.softmax(2) @ x.flatten(2)).view(x.shape)

    net = Around(Attending())

    found = removable_channels(net, SIZE)

    assert found.groups
    assert any("tried without some of them" in frozen.reason for frozen in found.frozen)
    removed = [(0, 2) for _ in found.groups]
    check_removal(net, remove_channels(net, found.groups, removed), found.groups, removed, SIZE)


def test_broadcasting_one_channel_over_many_ties_nothing():
    class Spatial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.Conv2d(8, 1, 1)

        def forward(self, x):
            return x * self.attend(x).sigmoid()

    (group,) = [group for group in removable_channels(Around(Spatial()), SIZE).groups if "first" in group.layers]
    assert sides(group) == {("first", "out", 1), ("between.attend", "in", 1), ("last", "in", 1)}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.leave = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x, times=2):
        x = self.enter(x)
        for _ in range(times):
            x = x + self.again(x)
        return self.leave(x)


def test_a_layer_that_runs_twice_is_tied_to_itself():
    assert [group.layers for group in removable_channels(Twice(), SIZE).groups] == [("enter", "again")]


def test_a_pass_of_ones_own_is_taken():
    called = []

    class Once(Twice):
        def forward_once(self, x):
            called.append(tuple(x.shape))
            return self(x, times=1)

    net = Once()
    assert [group.layers for group in find_groups(net, SIZE)] == [("enter", "again")]
    assert called == [(1, 3, 32, 32)]


def test_two_layers_with_one_weight_stay_tied():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.one, self.other = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.other.weight = self.one.weight
            self.last = nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, x):
            return self.last(self.other(self.one(self.first(x)).relu()).relu())

    small, _ = prune_network(Tied(), PruneConfig(keep=0.5, round_to=1, importance="l2"), frames=Frames(SIZE, SIZE))

    assert small.other.weight is small.one.weight
    assert small.one.weight.shape == (4, 4, 3, 3)


def test_a_network_of_which_nothing_can_go_says_why():
    class All(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)

        def forward(self, x):
            return self.last(self.first(x).sort(dim=1).values)

    with pytest.raises(ConfigError, match="no channels that can be removed: first: the operation sort") as caught:
        removable_channels(All(), SIZE)
    assert "docs/your-own-checkpoint.md" in caught.value.hint


class Normalised(nn.Module):
    """Instance norm in its three forms, the picture joined to features, and a joint that is added to a value."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.InstanceNorm2d(16, affine=True))
        self.inner = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.InstanceNorm2d(24), nn.ReLU())
        self.fuse = nn.Conv2d(3 + 24, 16, 1)
        self.aside = nn.Conv2d(16, 8, 3, padding=1)
        self.join = nn.Conv2d(16, 24, 3, padding=1)
        self.last = nn.Conv2d(24, 3, 3, padding=1)

    def forward(self, x):
        fine = F.relu(self.enter(x))
        fused = F.instance_norm(self.fuse(torch.cat([x, self.inner(fine)], dim=1)))
        joint = torch.cat([fused, self.aside(fine)], dim=1)
        return x + self.last(joint + self.join(fine))


def members(group) -> dict[tuple[str, str], tuple[tuple[int, ...], ...]]:
    return {
        (member.array.removesuffix(".weight"), side_of(member)): member.places
        for member in group.members
        if member.array.endswith("weight")
    }


def test_instance_norm_goes_with_the_convolution_before_it():
    group = group_of(Normalised(), "enter.0")

    assert sides(group) == {
        ("enter.0", "out", 1),
        ("enter.1", "out", 1),
        ("inner.0", "in", 1),
        ("aside", "in", 1),
        ("join", "in", 1),
    }


def test_channels_after_the_picture_in_a_joint_keep_their_places():
    places = members(group_of(Normalised(), "inner.0"))["fuse", "in"]

    assert places == tuple((3 + channel,) for channel in range(24))


def test_a_joint_that_is_added_to_a_value_is_a_group_for_each_of_its_parts():
    groups = [group for group in find_groups(Normalised(), SIZE) if "join" in group.layers]

    assert sorted((group.channels, group.layers) for group in groups) == [
        (8, ("aside", "join")),
        (16, ("fuse", "join")),
    ]
    for group in groups:
        first = 0 if "fuse" in group.layers else 16
        assert members(group)["join", "out"] == members(group)["last", "in"]
        assert members(group)["join", "out"][0] == (first,)


def test_channels_that_are_added_to_the_picture_inside_stay():
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.wide = nn.Conv2d(3, 11, 3, padding=1)
            self.last = nn.Conv2d(11, 3, 3, padding=1)

        def forward(self, x):
            return self.last(torch.cat([x, self.first(x)], dim=1) + self.wide(x))

    (group,) = find_groups(Inside(), SIZE)
    assert members(group)["wide", "out"] == tuple((3 + channel,) for channel in range(8))


def test_tracing_leaves_instance_norm_as_it_was():
    x = torch.rand(2, 4, 8, 8)
    find_groups(Normalised(), SIZE)
    torch.testing.assert_close(F.instance_norm(x).mean((2, 3)), torch.zeros(2, 4), atol=1e-6, rtol=0)
