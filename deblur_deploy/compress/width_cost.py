"""What a network would cost at other widths, by arithmetic alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from deblur_deploy.compress.groups import ChannelGroup
from deblur_deploy.config import Budget
from deblur_deploy.core.images import Resolution
from deblur_deploy.network.cost import REFERENCE_RESOLUTION, count_macs


@dataclass(frozen=True)
class Product:
    """Multiply-accumulates that are in proportion to the widths of some groups.

    Args:
        groups: Numbers of the groups, in order: none, one, two, or one of them twice.
        macs: How many there are at the present widths.
    """

    groups: tuple[int, ...]
    macs: float


class WidthCost:
    """Channels, multiply-accumulates and parameters of a network for any number of channels in each group.

    Every weight of a layer takes part in equally many multiply-accumulates, so a layer's are in proportion to its
    weights. Those without weights, as in an attention, are taken to stay.

    Args:
        net: The network at its present widths.
        groups: Its groups.
        resolution: Size of the frame that multiply-accumulates are counted for.
    """

    def __init__(
        self, net: nn.Module, groups: Sequence[ChannelGroup], resolution: Resolution = REFERENCE_RESOLUTION
    ) -> None:
        arrays = dict(net.named_parameters())
        touched = [name for name in arrays if any(member.array == name for group in groups for member in group.members)]
        macs = _own_macs(count_macs(net, resolution), arrays)
        self._arrays = [_ArrayCost.of(name, arrays[name], groups, macs.get(name, 0)) for name in touched]
        self.channels = [group.channels for group in groups]
        self._other_macs = macs[""] - sum(array.macs for array in self._arrays)
        self._other_params = sum(tensor.numel() for tensor in arrays.values()) - self._of_arrays(self.channels)

    def _of_arrays(self, widths: Sequence[int]) -> int:
        return sum(array.entries_at(widths) for array in self._arrays)

    def measure(self, kind: Budget, widths: Sequence[int]) -> int:
        """What the groups' channels sum to, or what the whole network costs, at these widths."""
        if kind == "keep":
            return sum(widths)
        if kind == "macs":
            return self._other_macs + sum(array.macs_at(widths) for array in self._arrays)
        return self._other_params + self._of_arrays(widths)

    def products(self) -> list[Product]:
        """The multiply-accumulates of the whole network, taken apart by the groups whose widths they depend on."""
        found: dict[tuple[int, ...], float] = {(): float(self._other_macs)}
        for array in self._arrays:
            for groups, macs in array.products():
                found[groups] = found.get(groups, 0.0) + macs
        return [Product(groups, macs) for groups, macs in sorted(found.items()) if macs > 0]


def _own_macs(counted: Mapping[str, int], arrays: Mapping[str, Tensor]) -> dict[str, int]:
    """Multiply-accumulates by the array that takes part in them: the largest of each layer that has any of its own."""
    owners: dict[str, list[str]] = {}
    for name in arrays:
        owners.setdefault(name.rpartition(".")[0], []).append(name)
    own = {"": counted[""]}
    for layer, names in owners.items():
        inner = sum(counted.get(other, 0) for other in owners if other.startswith(f"{layer}.") and layer)
        if layer and counted.get(layer, 0) > inner:
            own[max(names, key=lambda name: arrays[name].numel())] = counted[layer] - inner
    return own


@dataclass(frozen=True)
class _ArrayCost:
    """One array: its shape, the multiply-accumulates it takes part in, and how often each group is in each axis."""

    shape: tuple[int, ...]
    groups: tuple[tuple[int, int, int, int], ...]
    macs: int

    @classmethod
    def of(cls, name: str, tensor: Tensor, groups: Sequence[ChannelGroup], macs: int) -> _ArrayCost:
        reach = tuple(
            (member.axis, index, group.channels, len(member.places[0]))
            for index, group in enumerate(groups)
            for member in group.members
            if member.array == name
        )
        return cls(tuple(tensor.shape), reach, macs)

    def products(self) -> Iterator[tuple[tuple[int, ...], float]]:
        """What the array's multiply-accumulates depend on, and how many of them depend on that."""
        axes: list[list[tuple[tuple[int, ...], float]]] = []
        for axis, size in enumerate(self.shape):
            parts: list[tuple[tuple[int, ...], float]] = [
                ((index,), often * channels / size) for at, index, channels, often in self.groups if at == axis
            ]
            rest = round(1 - sum(share for _, share in parts), 12)
            axes.append([*parts, *([((), rest)] if rest else [])])
        for combined in itertools.product(*axes):
            groups = tuple(sorted(itertools.chain.from_iterable(of_axis for of_axis, _ in combined)))
            yield groups, self.macs * math.prod(share for _, share in combined)

    def entries_at(self, widths: Sequence[int]) -> int:
        """Entries that remain at these widths of the groups."""
        left = list(self.shape)
        for axis, index, channels, often in self.groups:
            left[axis] -= often * (channels - widths[index])
        return math.prod(left)

    def macs_at(self, widths: Sequence[int]) -> int:
        """Multiply-accumulates that remain: every entry takes part in equally many."""
        return self.macs * self.entries_at(widths) // math.prod(self.shape)
