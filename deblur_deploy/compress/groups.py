"""Coupled channels: which channels of a network are kept or removed together.

Removing an output channel of one convolution removes an input channel of its readers, and where values are added,
multiplied or carried through a recurrence, the same channel of everything they meet. One pass is followed operation by
operation (see ``follow.py``); what it found is turned into plain data here. Nothing knows a layer by name, and every
array counts: a scale that the code multiplies by is as good as a layer of PyTorch's.

Source of the idea: Fang et al., *DepGraph: Towards Any Structural Pruning*, CVPR 2023.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from deblur_deploy.compress.follow import Follower
from deblur_deploy.compress.labels import PICTURE, POSITIONS, Factor, axes_of
from deblur_deploy.compress.operations import RULES, outputs_of
from deblur_deploy.core.images import Resolution
from deblur_deploy.network.plain_attention import plain_attention

TRACED = Resolution(64, 64)
"""Size of the frame that is sent through a network to find what depends on what."""


@dataclass(frozen=True)
class Member:
    """One axis of one array, as far as it belongs to a group.

    Args:
        array: The array's name in the network's state_dict.
        axis: Which of its axes.
        places: For every channel of the group, its places on that axis: several where a channel has several entries,
            such as the four that a pixel shuffle turns into one.
    """

    array: str
    axis: int
    places: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are removed together, each independently of the next.

    Args:
        layers: Names of the layers whose outputs they are.
        channels: How many there are.
        members: Everything in the network that they touch.
    """

    layers: tuple[str, ...]
    channels: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Frozen:
    """Channels that stay.

    Args:
        layers: Names of the layers whose outputs they are.
        channels: How many there are in each.
        reason: Why, for a sentence.
    """

    layers: tuple[str, ...]
    channels: int
    reason: str


@dataclass(frozen=True)
class Channels:
    """All channels of a network.

    Args:
        groups: Those that may be removed, in the network's order.
        frozen: Those that stay for another reason than that they are the picture itself or positions in it.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[Frozen, ...]


def find_channels(net: nn.Module, traced: Resolution = TRACED) -> Channels:
    """Follow the channels of a network.

    Args:
        net: A float network from (1, 3, H, W) to one picture or several; it is left as it is. Traced through
            ``forward_once`` where it has that, else through a plain call.
        traced: Size of the frame that it is traced with.
    """
    shadow = copy.deepcopy(net).eval()
    follower = Follower(shadow, RULES)
    frame = example_frame(traced, next((tensor.device for tensor in shadow.parameters()), None))
    follower.give(frame)
    with torch.no_grad(), follower.inside(shadow), plain_attention(), follower:
        follower.take(outputs_of(getattr(shadow, "forward_once", shadow)(frame)))
    _settle_splits(follower)
    linear = {f"{name}.weight" for name, layer in shadow.named_modules() if isinstance(layer, nn.Linear)}
    makers = follower.makers | {(name, 0) for name in linear if follower.took(name)}
    return Channels(tuple(_groups(follower, makers)), tuple(_frozen(follower, makers)))


def find_groups(net: nn.Module, traced: Resolution = TRACED) -> list[ChannelGroup]:
    """The groups of :func:`find_channels`, by themselves."""
    return list(find_channels(net, traced).groups)


def example_frame(traced: Resolution, device: torch.device | None = None) -> Tensor:
    """The same random frame (1, 3, H, W) in [0, 1] every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, traced.height, traced.width, generator=generator).to(device)


def without(groups: Sequence[ChannelGroup], removed: Sequence[Sequence[int]]) -> tuple[ChannelGroup, ...]:
    """The same groups in the network that is left when channels of each have been removed."""
    gone: dict[tuple[str, int], set[int]] = {}
    for group, channels in zip(groups, removed, strict=True):
        for member in group.members:
            places = (place for channel in channels for place in member.places[channel])
            gone.setdefault((member.array, member.axis), set()).update(places)
    missing = {key: np.array(sorted(places)) for key, places in gone.items()}
    result = []
    for group, channels in zip(groups, removed, strict=True):
        kept = [channel for channel in range(group.channels) if channel not in set(channels)]
        members = tuple(
            Member(
                member.array,
                member.axis,
                tuple(
                    tuple(
                        place - int(np.searchsorted(missing[member.array, member.axis], place))
                        for place in member.places[channel]
                    )
                    for channel in kept
                ),
            )
            for member in group.members
        )
        result.append(ChannelGroup(group.layers, len(kept), members))
    return tuple(result)


def _settle_splits(follower: Follower) -> None:
    """Let what is left of every axis that was split into several be a block again.

    The last of these axes keeps its freedom and the others are numbers in the code: each head of an attention loses the
    same of its channels. Where something else has tied the labels to fewer axes, nothing is done.
    """
    for factor in follower.split:
        found = follower.ledger.compressed(factor)
        follower.ledger.tie_along(found, axes_of(found)[:-1])


def _groups(follower: Follower, makers: set[tuple[str, int]]) -> Iterator[ChannelGroup]:
    """Labels that are in the same axes of the same arrays, equally often, make a group."""
    places: dict[int, dict[tuple[str, int], list[int]]] = {}
    for name, axes in follower.arrays.items():
        for axis, labels in enumerate(axes if follower.took(name) else ()):
            for place, root in enumerate(follower.ledger.roots(labels).tolist()):
                places.setdefault(root, {}).setdefault((name, axis), []).append(place)
    alike: dict[tuple[tuple[tuple[str, int], int], ...], list[int]] = {}
    for root, found in places.items():
        if follower.ledger.reason(root) is None and found.keys() & makers:
            alike.setdefault(tuple((key, len(where)) for key, where in found.items()), []).append(root)
    for signature, roots in alike.items():
        keys = [key for key, _ in signature]
        members = tuple(Member(*key, tuple(tuple(places[root][key]) for root in roots)) for key in keys)
        yield ChannelGroup(_layers(key for key in keys if key in makers), len(roots), members)


def _frozen(follower: Follower, makers: set[tuple[str, int]]) -> Iterator[Frozen]:
    """Outputs of layers that stay, those that stay together for one reason in one entry."""
    found: dict[tuple[str, bytes, int], list[tuple[str, int]]] = {}
    for name, axis in sorted(makers, key=lambda maker: list(follower.arrays).index(maker[0])):
        labels: Factor = follower.ledger.roots(follower.arrays[name][axis])
        reasons = [follower.ledger.reason(label) for label in labels.tolist()]
        if reason := next((reason for reason in reasons if reason not in (None, PICTURE, POSITIONS)), None):
            kept = sum(one is not None for one in reasons)
            found.setdefault((reason, np.unique(labels).tobytes(), kept), []).append((name, axis))
    for (reason, _, kept), keys in found.items():
        yield Frozen(_layers(keys), kept, reason)


def _layers(keys: Iterator[tuple[str, int]] | Sequence[tuple[str, int]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.removesuffix(".weight") for name, _ in keys))
