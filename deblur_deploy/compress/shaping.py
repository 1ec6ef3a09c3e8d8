"""A network at other widths and depths, and the table of what frames of these take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deblur_deploy.compress.frame_times import Anatomy, Shape
from deblur_deploy.compress.latency_table import (
    LatencyTable,
    OnTimed,
    check_groups,
    check_identity,
    check_whole,
    measure_table,
    read_table,
    shapes_to_time,
)
from deblur_deploy.compress.prune import analyse, rebuilt
from deblur_deploy.compress.removal import remove_channels, weakest
from deblur_deploy.config import PruneConfig
from deblur_deploy.network.generator import Generator

TRUE_ANYWHERE = ("network", "runtime", "precision", "res")
"""Parts of the identity that must agree even for a table from another machine."""


class Clock(Protocol):
    """Times networks where they will run."""

    identity: Mapping[str, Any]
    """Runtime, precision, size and machine, as a table has them."""

    def time(self, net: Generator) -> tuple[float, float]:
        """Median ms of a frame, and half of its 95 % interval as a share of it."""
        ...


@dataclass(frozen=True)
class TablePlace:
    """Where a table of frame times is kept.

    Args:
        path: The file. Where there is none, one is measured and written there.
        is_given: Whether the user named it: one for something else is then refused, not replaced.
        from_elsewhere: Whether it is of another machine. Nothing is timed here then.
    """

    path: Path
    is_given: bool = False
    from_elsewhere: bool = False


class Shaping:
    """Makes the networks that remain of one when channels and blocks are removed.

    Args:
        net: A float network; it is left as it is.
        config: Importance and rounding.

    Raises:
        ConfigError: Nothing of the network can be removed.
    """

    def __init__(self, net: Generator, config: PruneConfig) -> None:
        self.net, self.analysis, self.chains = net, analyse(net, config), net.block_chains()

    def network(self, shape: Shape) -> Generator:
        """The network of a shape, with the strongest channels of every group."""
        small = remove_channels(self.net, self.analysis.channels.groups, self.removed(shape))
        return rebuilt(small.without_blocks(shape.dropped))

    def removed(self, shape: Shape) -> list[list[int]]:
        """Channels of every group that a shape is without."""
        return [weakest(*of_group) for of_group in zip(self.analysis.state.strengths, shape.widths, strict=True)]

    def smallest(self) -> Shape:
        """The shape of the smallest network."""
        return Shape(tuple(self.analysis.state.smallest), frozenset(block for chain in self.chains for block in chain))

    def anatomy(self) -> Anatomy:
        """What the time of a frame can depend on."""
        blocks = {}
        for block in (name for chain in self.chains for name in chain):
            inside = (
                index
                for index, group in enumerate(self.analysis.channels.groups)
                if all(member.array.startswith(f"{block}.") for member in group.members)
            )
            blocks[block] = frozenset(inside)
        state = self.analysis.state
        return Anatomy(tuple(state.present), tuple(state.cost.products()), blocks)


def check_table(clock: Clock, place: TablePlace) -> None:
    """Refuse an unusable table that the user named, before anything is done.

    Args:
        clock: What the table has to be valid for.
        place: Where it is kept.

    Raises:
        ArtifactError: It is damaged, or a table from another machine is not there.
        ConfigError: It is for something else, or from another machine and incomplete.
    """
    if place.from_elsewhere:
        table = read_table(place.path)
        check_identity(table, {name: clock.identity[name] for name in TRUE_ANYWHERE}, place.path)
        check_whole(table, place.path)
    elif place.is_given and place.path.is_file():
        check_identity(read_table(place.path), clock.identity, place.path)


def timed_table(shaping: Shaping, clock: Clock, place: TablePlace, on_timed: OnTimed | None = None) -> LatencyTable:
    """The table that the user named, or one that is measured here.

    Args:
        shaping: The network.
        clock: Times networks in the runtime and precision that count.
        place: Where the table is kept, as :func:`check_table` allows it; what it has is not timed again.
        on_timed: Called after each network of the table.

    Raises:
        ArtifactError: The table cannot be written.
        ConfigError: A table from another machine has other groups of channels.
        DeblurDeployError: A network cannot be run or timed.
    """
    if place.from_elsewhere:
        table = read_table(place.path)
        check_groups(table, shaping.analysis.state.present, place.path)
        return table
    plan = shapes_to_time(shaping.analysis.state, shaping.chains)
    return measure_table(clock.identity, plan, lambda shape: clock.time(shaping.network(shape)), place.path, on_timed)
