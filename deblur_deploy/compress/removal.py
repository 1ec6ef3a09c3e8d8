"""Removing channels from a network, and the proof that nothing else was removed."""

from __future__ import annotations

import contextlib
import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from deblur_deploy.compress.follow import Follower, arrays_of
from deblur_deploy.compress.groups import TRACED, ChannelGroup, example_frame
from deblur_deploy.compress.operations import RULES, outputs_of
from deblur_deploy.core.errors import ConfigError, VerificationError, first_line
from deblur_deploy.core.images import Resolution
from deblur_deploy.network.conv_norm import drop_channel_counts
from deblur_deploy.network.plain_attention import plain_attention
from deblur_deploy.network.users_code import CODE_ERRORS
from deblur_deploy.network.widths import set_arrays

N = TypeVar("N", bound=nn.Module)
Removed = Sequence[Sequence[int]]
"""For every group, which of its channels go."""

TOLERANCE = 1e-4
"""Largest difference to the network with zeros for the channels, as a share of the largest output (at least 1).

Rounding alone gives some 1e-6, and in a deep network more.
"""

TOLERANCE_DOUBLE = 1e-9
"""The same in double precision. Even a wrong channel in a branch of little influence gives more than this."""


def weakest(strength: Tensor, kept: int) -> list[int]:
    """The channels of a group to remove when so many are kept: the weakest, and of equal ones the last."""
    return sorted(strength.argsort(descending=True, stable=True)[kept:].tolist())


def remove_channels(net: N, groups: Sequence[ChannelGroup], removed: Removed) -> N:
    """A copy of a network without some of its channels.

    Args:
        net: The network that the groups are of; it is left as it is.
        groups: All of :func:`find_groups` or some of them.
        removed: For every group, the channels that go.
    """
    small = copy.deepcopy(net)
    arrays = arrays_of(small)
    smaller: dict[str, Tensor] = {}
    for (name, axis), places in _places(groups, removed).items():
        tensor = smaller.get(name, arrays[name].detach())
        kept = [place for place in range(tensor.shape[axis]) if place not in places]
        smaller[name] = tensor.index_select(axis, torch.tensor(kept, device=tensor.device)).contiguous()
    drop_channel_counts(small)
    set_arrays(small, smaller)
    return small


def zero_channels(net: N, groups: Sequence[ChannelGroup], removed: Removed) -> N:
    """A copy of a network with zeros for every weight that makes or reads some of its channels."""
    masked = copy.deepcopy(net)
    arrays = arrays_of(masked)
    with torch.no_grad():
        for (name, axis), places in _places(groups, removed).items():
            arrays[name].index_fill_(axis, torch.tensor(sorted(places), device=arrays[name].device), 0)
    return masked


def check_removal(
    net: nn.Module,
    small: nn.Module,
    groups: Sequence[ChannelGroup],
    removed: Removed,
    traced: Resolution = TRACED,
) -> None:
    """Compare a pruned network with the unpruned one that has zeros in the place of what was removed.

    Statistics over channels are taken over those that stay. The comparison is by a plain call, so it also covers what
    ``forward_once`` leaves out.

    Args:
        net: The unpruned network.
        small: The pruned one.
        groups: All groups of the unpruned network or some of them.
        removed: For every group, the channels that went.
        traced: Size of the frame that both are run on, in double precision where the network's code can do that.

    Raises:
        ConfigError: The pruned network does not run: something ties channels that no operation shows.
        VerificationError: Its output differs.
    """
    layers = ", ".join(group.layers[0] for group, channels in zip(groups, removed, strict=True) if channels)
    masked = zero_channels(net, groups, removed)
    frame = example_frame(traced, next((parameter.device for parameter in net.parameters()), None))
    wanted, tolerance = _masked_outputs(masked, _places(groups, removed), frame)
    dtype = wanted[0].dtype
    try:
        with torch.no_grad():
            got = outputs_of(copy.deepcopy(small).to(dtype).eval()(frame.to(dtype)))
    except CODE_ERRORS as err:
        raise ConfigError(
            f"without channels of {layers} the network does not run: {first_line(err)}",
            hint="these layers meet the picture itself, or numbers of channels that stand in the code",
        ) from err
    for one, other in zip(wanted, got, strict=True):
        apart = one.shape != other.shape
        error = float("inf") if apart else float((one - other).abs().max()) / max(1.0, float(one.abs().max()))
        if not error <= tolerance:
            raise VerificationError(
                f"without channels of {layers} the network's output is {error:.3g} from that with zeros in their place",
                hint="these layers are tied to others in a way that the traced pass does not show",
            )


def _masked_outputs(
    masked: nn.Module, removed: Mapping[tuple[str, int], set[int]], frame: Tensor
) -> tuple[list[Tensor], float]:
    """A network's pictures in double precision where that is possible, and the tolerance for them."""
    masked.eval()
    with contextlib.suppress(RuntimeError):  # such as a constant that the network's code makes in single precision
        return _followed(copy.deepcopy(masked).double(), removed, frame.double()), TOLERANCE_DOUBLE
    return _followed(masked, removed, frame), TOLERANCE


def _followed(net: nn.Module, removed: Mapping[tuple[str, int], set[int]], frame: Tensor) -> list[Tensor]:
    with torch.no_grad(), plain_attention(), Follower(net, RULES, removed):
        return outputs_of(net(frame))


def _places(groups: Sequence[ChannelGroup], removed: Removed) -> dict[tuple[str, int], set[int]]:
    """What goes, by array and axis."""
    places: dict[tuple[str, int], set[int]] = defaultdict(set)
    for group, channels in zip(groups, removed, strict=True):
        for member in group.members:
            if channels:
                places[member.array, member.axis].update(*(member.places[channel] for channel in channels))
    return places
