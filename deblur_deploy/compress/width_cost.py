"""What a network would cost at other widths, by arithmetic alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from deblur_deploy.compress.groups import ChannelGroup
from deblur_deploy.compress.layers import Side, channel_tensors
from deblur_deploy.config import Budget
from deblur_deploy.core.images import Resolution
from deblur_deploy.network.cost import REFERENCE_RESOLUTION, count_macs

_SIDES: tuple[Side, Side] = ("out", "in")


class WidthCost:
    """Channels, multiply-accumulates and parameters of a network for any number of channels in each group.

    Every weight of a layer takes part in equally many multiply-accumulates, so a layer's are in proportion to its
    weights.

    Args:
        net: The network at its present widths.
        groups: Its groups.
        resolution: Size of the frame that multiply-accumulates are counted for.
    """

    def __init__(
        self, net: nn.Module, groups: Sequence[ChannelGroup], resolution: Resolution = REFERENCE_RESOLUTION
    ) -> None:
        names = dict.fromkeys(member.layer for group in groups for member in group.members)
        macs = _own_macs(count_macs(net, resolution), list(names))
        self._layers = [_LayerCost.of(net.get_submodule(name), name, groups, macs[name]) for name in names]
        self.channels = [group.channels for group in groups]
        self._other_macs = macs[""] - sum(layer.macs for layer in self._layers)
        ours = sum(layer.at(self.channels)[1] for layer in self._layers)
        self._other_params = sum(parameter.numel() for parameter in net.parameters()) - ours

    def measure(self, kind: Budget, widths: Sequence[int]) -> int:
        """What the groups' channels sum to, or what the whole network costs, at these widths."""
        if kind == "keep":
            return sum(widths)
        if kind == "macs":
            return self._other_macs + sum(layer.at(widths)[0] for layer in self._layers)
        return self._other_params + sum(layer.at(widths)[1] for layer in self._layers)


def _own_macs(counted: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """Multiply-accumulates of layers without those inside them: a deformable one holds the one for its offsets."""
    own = {name: counted.get(name, 0) for name in names}
    for name in names:
        own[name] -= sum(counted.get(other, 0) for other in names if other.startswith(f"{name}."))
    return {**own, "": counted[""]}


@dataclass(frozen=True)
class _LayerCost:
    """One layer: its tensors as (entries, sides), the size of each side, and how often each group is in it."""

    tensors: tuple[tuple[int, tuple[Side, ...]], ...]
    sizes: Mapping[Side, int]
    groups: Mapping[Side, tuple[tuple[int, int, int], ...]]
    macs: int

    @classmethod
    def of(cls, layer: nn.Module, name: str, groups: Sequence[ChannelGroup], macs: int) -> _LayerCost:
        found = {side: channel_tensors(layer, side) for side in _SIDES}
        own = dict(layer.named_parameters(recurse=False))
        tensors = tuple(
            (tensor.numel(), tuple(side for side in _SIDES if any(own_name == other for other, *_ in found[side])))
            for own_name, tensor in own.items()
        )
        reach = {
            side: tuple(
                (index, group.channels, len(member.places[0]))
                for index, group in enumerate(groups)
                for member in group.members
                if (member.layer, member.side) == (name, side)
            )
            for side in _SIDES
        }
        sizes = {side: found[side][0][1].shape[found[side][0][2]] for side in _SIDES if found[side]}
        return cls(tensors, sizes, reach, macs)

    def at(self, widths: Sequence[int]) -> tuple[int, int]:
        """Multiply-accumulates and parameters; the first tensor of a layer is its weight."""
        left = {
            side: size - sum(often * (channels - widths[index]) for index, channels, often in self.groups[side])
            for side, size in self.sizes.items()
        }
        entries = [
            count // math.prod(self.sizes[side] for side in sides) * math.prod(left[side] for side in sides)
            for count, sides in self.tensors
        ]
        return self.macs * entries[0] // self.tensors[0][0], sum(entries)
