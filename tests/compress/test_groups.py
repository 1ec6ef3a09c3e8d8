"""Groups of channels: what is tied to what in three kinds of networks, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deblur_deploy.compress.groups import find_groups
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution

SIZE = Resolution(32, 32)


def group_of(net: nn.Module, layer: str):
    (group,) = [group for group in find_groups(net, SIZE) if layer in group.layers]
    return group


def sides(group) -> set[tuple[str, str, int]]:
    """Layer, side, and how many places each channel has there."""
    return {(member.layer, member.side, len(member.places[0])) for member in group.members}


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
    gate = next(member for member in group.members if member.side == "in" and member.layer == "recurrent.gate")
    assert gate.places[5] == (5, 96 + 5)


def test_a_deformable_layer_is_tied_in_and_out_and_its_offsets_are_not(net):
    group = group_of(net, "deform.deform")

    assert {("deform.deform", "out", 1), ("deform.deform", "in", 1)} <= sides(group)
    assert ("deform.deform.conv_offset", "in", 1) in sides(group)
    assert not any(
        (member.layer, member.side) == ("deform.deform.conv_offset", "out")
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
    assert next(m for m in skip.members if m.layer == "fuse").places[3] == (3,)
    assert next(m for m in up.members if m.layer == "fuse").places[3] == (16 + 3,)


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
    """Two convolutions with something between them."""

    def __init__(self, between, inner: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.between = between
        self.last = nn.Conv2d(inner, 3, 3, padding=1)

    def forward(self, x):
        return self.last(self.between(self.first(x)))


class Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "inner", "operation"),
    [
        (lambda x: F.pixel_shuffle(x, 2), 2, "PixelShuffle"),
        (lambda x: x.flatten(1, 2).unflatten(1, (8, 32)), 8, "View"),
        (lambda x: x.softmax(dim=1), 8, "Softmax"),
        (lambda x: x.chunk(2, dim=1)[0], 4, "Split"),
        (lambda x: x - x.mean(dim=1, keepdim=True), 8, "Mean"),
        (lambda x: x - x.mean(dim=-3, keepdim=True), 8, "Mean"),
        (lambda x: x[:, 2:6], 4, "Slice"),
        (lambda x: torch.cat([x, x], dim=2), 8, "Cat"),
        (lambda x: x.permute(0, 1, 3, 2), 8, "Permute"),
    ],
    ids=["pixel shuffle", "view", "softmax", "chunk", "mean", "mean of -3", "slice", "cat of rows", "permute"],
)
def test_an_operation_that_moves_channels_is_named_with_the_layer_before_it(function, inner, operation):
    with pytest.raises(ConfigError, match=rf"operation {operation}\w* \(after first\)") as caught:
        find_groups(Around(Call(function), inner), SIZE)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.GroupNorm(2, 8), "GroupNorm"),
        (nn.Conv2d(8, 8, 3, padding=1, groups=2), "Conv2d"),
        (nn.ConvTranspose2d(8, 8, 1, groups=8), "ConvTranspose2d"),
        (nn.Sequential(nn.Linear(32, 32)), "Linear"),
    ],
)
def test_a_layer_of_unknown_channels_is_named(layer, kind):
    name = r"between\.0" if isinstance(layer, nn.Sequential) else "between"
    with pytest.raises(ConfigError, match=rf"the layer {name} is a {kind} with a parameter 'weight'"):
        find_groups(Around(layer), SIZE)


def test_a_bare_parameter_is_named():
    net = Around(nn.ReLU())
    net.scale = nn.Parameter(torch.ones(8, 1, 1))

    with pytest.raises(ConfigError, match="the layer at the top is a Around with a parameter 'scale'"):
        find_groups(net, SIZE)


def test_broadcasting_one_channel_over_many_is_refused():
    class Spatial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.Conv2d(8, 1, 1)

        def forward(self, x):
            return x * self.attend(x).sigmoid()

    with pytest.raises(ConfigError, match="cannot be followed") as caught:
        find_groups(Around(Spatial()), SIZE)
    assert "equally many channels" in caught.value.hint


def test_a_layer_that_runs_twice_needs_forward_once():
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

    with pytest.raises(ConfigError, match="the layer again runs 2 times") as caught:
        find_groups(Twice(), SIZE)
    assert "forward_once" in caught.value.hint

    class Once(Twice):
        def forward_once(self, x):
            return self(x, times=1)

    assert [group.layers for group in find_groups(Once(), SIZE)] == [("enter", "again")]


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
    return {(member.layer, member.side): member.places for member in group.members}


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
