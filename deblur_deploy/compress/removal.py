"""Removing channels from a network, and the proof that nothing else was removed."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from deblur_deploy.compress.groups import TRACED, ChannelGroup, example_frame
from deblur_deploy.compress.layers import Side, channel_tensors, keep_channels
from deblur_deploy.compress.operations import outputs_of
from deblur_deploy.core.errors import ConfigError, VerificationError
from deblur_deploy.core.images import Resolution
from deblur_deploy.network.conv_norm import drop_channel_counts

N = TypeVar("N", bound=nn.Module)
Removed = Sequence[Sequence[int]]
"""For every group, which of its channels go."""

TOLERANCE = 1e-4
"""Largest difference to the network with zeros for the channels, as a share of the largest output (at least 1).

Rounding alone gives some 1e-6, and in a deep network more.
"""

TOLERANCE_DOUBLE = 1e-9
"""The same in double precision. A wrong channel in a branch that hardly shows gives more than this."""


def weakest(strength: Tensor, kept: int) -> list[int]:
    """The channels of a group that go when so many are kept: those of the least strength, the last of equals first."""
    return sorted(strength.argsort(descending=True, stable=True)[kept:].tolist())


def remove_channels(net: N, groups: Sequence[ChannelGroup], removed: Removed) -> N:
    """A copy of a network without some of its channels.

    Args:
        net: The network that the groups are of; it is left as it is.
        groups: All of :func:`find_groups` or some of them.
        removed: For every group, the channels that go.
    """
    small = copy.deepcopy(net)
    drop_channel_counts(small)
    for (name, side), places in _places(groups, removed).items():
        layer = small.get_submodule(name)
        _, tensor, axis = channel_tensors(layer, side)[0]
        keep_channels(layer, side, [place for place in range(tensor.shape[axis]) if place not in places])
    return small


def zero_channels(net: N, groups: Sequence[ChannelGroup], removed: Removed) -> N:
    """A copy of a network with zeros for every weight that makes or reads some of its channels."""
    masked = copy.deepcopy(net)
    with torch.no_grad():
        for (name, side), places in _places(groups, removed).items():
            for _, tensor, axis in channel_tensors(masked.get_submodule(name), side):
                tensor.index_fill_(axis, torch.tensor(sorted(places), device=tensor.device), 0)
    return masked


def check_removal(
    net: nn.Module, small: nn.Module, groups: Sequence[ChannelGroup], removed: Removed, traced: Resolution = TRACED
) -> None:
    """Hold a pruned network against the unpruned one with zeros in the place of what was removed.

    The comparison is by a plain call, so it also covers what ``forward_once`` leaves out.

    Raises:
        ConfigError: The pruned network does not run: something ties channels that no operation shows.
        VerificationError: Its output is another one.
    """
    layers = ", ".join(group.layers[0] for group, channels in zip(groups, removed, strict=True) if channels)
    masked = zero_channels(net, groups, removed)
    frame = example_frame(traced, next((parameter.device for parameter in net.parameters()), None))
    wanted, tolerance = _exact_outputs(masked, frame)
    dtype = wanted[0].dtype
    try:
        with torch.no_grad():
            got = outputs_of(copy.deepcopy(small).to(dtype).eval()(frame.to(dtype)))
    except RuntimeError as err:
        raise ConfigError(
            f"without channels of {layers} the network does not run: {str(err).splitlines()[0]}",
            hint="these layers meet the picture itself, or one that the traced pass leaves out",
        ) from err
    for one, other in zip(wanted, got, strict=True):
        error = float((one - other).abs().max()) / max(1.0, float(one.abs().max()))
        if error > tolerance:
            raise VerificationError(
                f"without channels of {layers} the network's output is {error:.3g} from that with zeros in their place",
                hint="these layers are tied to others in a way that the traced pass does not show",
            )


def _exact_outputs(net: nn.Module, frame: Tensor) -> tuple[list[Tensor], float]:
    """A network's pictures in double precision where its code can do that, else in single; and the tolerance there."""
    net.eval()
    with torch.no_grad():
        try:
            return outputs_of(copy.deepcopy(net).double()(frame.double())), TOLERANCE_DOUBLE
        except RuntimeError:  # such as a constant that the network's code makes in single precision
            return outputs_of(net(frame)), TOLERANCE


def _places(groups: Sequence[ChannelGroup], removed: Removed) -> dict[tuple[str, Side], set[int]]:
    """What goes, by layer and side."""
    places: dict[tuple[str, Side], set[int]] = defaultdict(set)
    for group, channels in zip(groups, removed, strict=True):
        for member in group.members:
            if channels:
                places[member.layer, member.side].update(*(member.places[channel] for channel in channels))
    return places
