"""Widths as plain data: what is read off shapes, and what layers are told when their arrays change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.network.widths import apply_widths, changed_widths, shapes_of


def test_only_channels_that_differ_are_kept():
    published = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1))
    shapes = shapes_of(published)
    found = {**shapes, "0.weight": (6, 3, 3, 3), "0.bias": (6,), "1.weight": (8, 6, 3, 3)}

    # The last has another kernel, so it is not a narrower layer but another one.
    assert changed_widths(published, found) == {"0.weight": (6, 3, 3, 3), "0.bias": (6,)}
    with pytest.raises(KeyError, match=r"1\.bias"):
        changed_widths(published, {name: shape for name, shape in shapes.items() if name != "1.bias"})


def test_a_parameter_may_have_its_channels_along_any_axis():
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1, 1, 1, 8))

    published = Gain()
    assert changed_widths(published, {"gain": (1, 1, 1, 6)}) == {"gain": (1, 1, 1, 6)}
    assert changed_widths(published, {"gain": (1, 1, 1, 9)}) == {}  # pruning makes nothing larger


@pytest.mark.parametrize(
    ("layer", "shape", "facts"),
    [
        (nn.Conv2d(4, 8, 3), (6, 2, 3, 3), {"in_channels": 2, "out_channels": 6, "groups": 1}),
        (nn.Conv2d(8, 8, 3, groups=8), (6, 1, 3, 3), {"in_channels": 6, "out_channels": 6, "groups": 6}),
        (nn.Conv2d(8, 4, 3, groups=2), (4, 3, 3, 3), {"in_channels": 6, "out_channels": 4, "groups": 2}),
        (nn.ConvTranspose2d(8, 4, 4), (6, 3, 4, 4), {"in_channels": 6, "out_channels": 3}),
        (nn.Conv3d(8, 8, 1, groups=8), (6, 1, 1, 1, 1), {"in_channels": 6, "out_channels": 6, "groups": 6}),
        (nn.ConvTranspose1d(8, 8, 2, groups=8), (6, 1, 2), {"in_channels": 6, "out_channels": 6, "groups": 6}),
        (nn.Linear(4, 8), (6, 3), {"in_features": 3, "out_features": 6}),
        (nn.BatchNorm2d(8), (6,), {"num_features": 6}),
        (nn.InstanceNorm1d(8, affine=True), (6,), {"num_features": 6}),
        (nn.GroupNorm(1, 8), (6,), {"num_channels": 6}),
        (nn.LayerNorm(8), (6,), {"normalized_shape": (6,)}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_layers_say_what_their_arrays_say(layer, shape, facts):
    net = nn.Sequential(layer)
    apply_widths(net, {"0.weight": shape})
    assert net[0].weight.shape == shape
    assert isinstance(net[0].weight, nn.Parameter)
    assert {name: getattr(net[0], name) for name in facts} == facts


def test_arrays_that_count_for_nothing_are_given_their_shape_too():
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1, 8, 1, 1))
            self.register_buffer("mean", torch.ones(8))

    net = nn.Sequential(Scale())
    apply_widths(net, {"0.factor": (1, 6, 1, 1), "0.mean": (6,)})
    assert shapes_of(net) == {"0.factor": (1, 6, 1, 1), "0.mean": (6,)}


def test_an_array_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"no array 'head\.weight'"):
        apply_widths(nn.Sequential(nn.Conv2d(3, 3, 1)), {"head.weight": (1, 3, 1, 1)})
