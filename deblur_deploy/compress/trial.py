"""Groups of channels that were tried: a third of each is removed, and the network must still compute the same.

A pass does not show everything. Code may contain a number of channels, or derive one from another in its own way. So
the removal is tried before anything is planned, all groups at once; where that fails, by halves, until the groups that
cannot go are found. These stay, and the rest is pruned.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from deblur_deploy.compress.groups import TRACED, ChannelGroup, Channels, Frozen, find_channels
from deblur_deploy.compress.removal import check_removal, remove_channels
from deblur_deploy.core.errors import ConfigError, VerificationError
from deblur_deploy.core.images import Resolution
from deblur_deploy.network.weights_file import some

_EVERY = 3
"""One channel in so many is removed: neither a block nor a part that constants in code are likely to fit."""


def removable_channels(net: nn.Module, traced: Resolution = TRACED) -> Channels:
    """The channels of a network, those that cannot be removed among the frozen.

    Args:
        net: A float network from (1, 3, H, W) to one picture or several; it is left as it is.
        traced: Size of the frame that it is traced and tried with.

    Raises:
        ConfigError: Nothing can be removed; the message says why.
    """
    channels = find_channels(net, traced)
    sound, reasons = _sound(net, [group for group in channels.groups if group.channels > 1], traced)
    whole = [group for group in channels.groups if group.channels == 1 and len(group.members[0].places[0]) > 1]
    reasons |= {group.layers: "its channels can only go all at once" for group in whole}
    frozen = [
        *channels.frozen,
        *(
            Frozen(group.layers, group.channels, reasons[group.layers])
            for group in channels.groups
            if group.layers in reasons
        ),
    ]
    if not sound:
        why = f": {some(list(frozen[0].layers))}: {frozen[0].reason}" if frozen else ""
        raise ConfigError(
            f"the network has no channels that can be removed{why}",
            hint="docs/your-own-checkpoint.md says what pruning follows and what it freezes",
        )
    return Channels(tuple(sound), tuple(frozen))


def _sound(
    net: nn.Module, groups: Sequence[ChannelGroup], traced: Resolution
) -> tuple[list[ChannelGroup], dict[tuple[str, ...], str]]:
    """Groups that can be removed together, and why the others cannot, by their layers."""
    if not groups or (failure := _failure(net, groups, traced)) is None:
        return list(groups), {}
    if len(groups) == 1:
        return [], {groups[0].layers: failure}
    middle = len(groups) // 2
    (first, of_first), (second, of_second) = (_sound(net, half, traced) for half in (groups[:middle], groups[middle:]))
    reasons = {**of_first, **of_second}
    if not first or not second or _failure(net, [*first, *second], traced) is None:
        return [*first, *second], reasons
    for group in second:  # each half is sound by itself, and both together are not
        if (failure := _failure(net, [*first, group], traced)) is None:
            first.append(group)
        else:
            reasons[group.layers] = failure
    return first, reasons


def _failure(net: nn.Module, groups: Sequence[ChannelGroup], traced: Resolution) -> str | None:
    """Why a third of the channels of each group cannot be removed, or None."""
    removed = [range(min(1, group.channels - 1), group.channels, _EVERY) for group in groups]
    small = remove_channels(net, groups, removed)
    try:
        check_removal(net, small, groups, removed, traced)
    except (ConfigError, VerificationError) as err:
        return f"tried without some of them, {err.message.partition(' the network')[2].strip()}"
    return None
