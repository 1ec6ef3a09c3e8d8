"""The networks that are timed for a table of frame times, and the table on disk, which keeps what was measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deblur_deploy.compress.allocation import WidthState
from deblur_deploy.compress.frame_times import Shape, Timed
from deblur_deploy.core.errors import ArtifactError, ConfigError, VerificationError
from deblur_deploy.core.files import write_text
from deblur_deploy.core.plain_data import to_json

FORMAT = 2
_UNIFORM = (0.75, 0.5, 0.25)
_LEAST_RANDOM, _PARTS_OF_ONE, _HELD_OUT = 12, 2, 3
_NARROWEST = 0.2
"""Networks of random widths and depths: the fewest, for how many groups and blocks there is one, how many more are held
out of the fit to give its error, and the smallest share of a group's channels."""

Stopwatch = Callable[[Shape], tuple[float, float]]
"""Times a network of a shape: median ms of a frame, and half of its 95 % interval as a share of it."""

OnTimed = Callable[[int, int, float], None]
"""Called after each network with how many were timed, how many there are, and its milliseconds."""


@dataclass(frozen=True)
class LatencyTable:
    """Whole networks that were timed.

    Args:
        identity: What the times are valid for: network, runtime, precision, size, machine.
        timed: The networks, the unpruned one first.
        held_out: How many at the end no fit may see.
        missing: How many an interrupted measurement still lacks.
    """

    identity: Mapping[str, Any]
    timed: tuple[Timed, ...]
    held_out: int
    missing: int = 0

    @property
    def fitted(self) -> tuple[Timed, ...]:
        """Networks to fit times to."""
        return self.timed[: len(self.timed) - self.held_out]

    @property
    def unseen(self) -> tuple[Timed, ...]:
        """Networks to tell the error of a fit on."""
        return self.timed[len(self.timed) - self.held_out :]

    @property
    def spread(self) -> float:
        """Median of the spreads, as a share of the times."""
        return statistics.median(one.spread for one in self.timed)


def shapes_to_time(state: WidthState, chains: Sequence[Sequence[str]]) -> tuple[list[Shape], int]:
    """Shapes whose times show what every part of a network takes.

    The network itself; all groups alike; the smallest network; and random widths and depths, half as many as there are
    groups and blocks. Each of those measures all groups at once, as weighing several things together does: fewer are
    needed than networks in which one group alone is narrower, whose times hardly differ. What they leave open, the
    multiply-accumulates decide.

    Source: Hotelling, *Some Improvements in Weighing and Other Experimental Techniques*, 1944.

    Args:
        state: Its groups.
        chains: Rows of blocks of which the last can go.

    Returns:
        The shapes, each once, and how many at the end are to be held out of the fit.
    """
    whole, blocks = list(state.present), [block for chain in chains for block in chain]
    found = [Shape(tuple(whole))]
    found += [Shape(tuple(state.rounded([share * channels for channels in whole]))) for share in _UNIFORM]
    found.append(Shape(tuple(state.smallest), frozenset(blocks)))
    rng = np.random.default_rng(0)
    count = max(_LEAST_RANDOM, (len(whole) + len(blocks)) // _PARTS_OF_ONE) + _HELD_OUT
    random = [_random_shape(state, chains, rng) for _ in range(count)]
    once = list(dict.fromkeys(found))
    fresh = [shape for shape in dict.fromkeys(random) if shape not in once]
    return once + fresh, min(_HELD_OUT, len(fresh) // 2)


def _random_shape(state: WidthState, chains: Sequence[Sequence[str]], rng: np.random.Generator) -> Shape:
    shares = rng.uniform(_NARROWEST, 1, len(state.present))
    widths = state.rounded([float(share) * most for share, most in zip(shares, state.present, strict=True)])
    gone = (block for chain in chains for block in chain[int(rng.integers(len(chain) + 1)) :])
    return Shape(tuple(widths), frozenset(gone))


def measure_table(
    identity: Mapping[str, Any],
    plan: tuple[list[Shape], int],
    stopwatch: Stopwatch,
    path: Path,
    on_timed: OnTimed | None,
) -> LatencyTable:
    """Time what a kept table lacks; it is written after each network, so that an interrupted run loses nothing.

    Where some are lacking, the unpruned network is timed again: what was kept is corrected by what it takes now.

    Args:
        identity: What the times are valid for.
        plan: The shapes, and how many at the end are held out.
        stopwatch: Times one of them.
        path: Where the table is kept.
        on_timed: For showing progress.

    Raises:
        ArtifactError: The table cannot be written.
    """
    shapes, held_out = plan
    known = {one.shape: one for one in _kept(path, identity)}
    missing = sum(shape not in known for shape in shapes)
    if missing and (whole := known.get(shapes[0])):
        drift = stopwatch(shapes[0])[0] / whole.ms
        known = {shape: replace(one, ms=one.ms * drift) for shape, one in known.items()}
    for number, shape in enumerate(shapes, start=1):
        if shape not in known:
            ms, spread = stopwatch(shape)
            known[shape] = Timed(shape, ms, spread)
            missing -= 1
            write_table(LatencyTable(identity, _ordered(known, plan), held_out, missing), path)
        if on_timed:
            on_timed(number, len(shapes), known[shape].ms)
    return LatencyTable(identity, tuple(known[shape] for shape in shapes), held_out)


def _ordered(known: Mapping[Shape, Timed], plan: tuple[list[Shape], int]) -> tuple[Timed, ...]:
    """What was timed, in the order of the plan; networks of an earlier plan stand before those that are held out."""
    shapes, held_out = plan
    fitted, unseen = shapes[: len(shapes) - held_out], shapes[len(shapes) - held_out :]
    others = [shape for shape in known if shape not in shapes]
    return tuple(known[shape] for shape in (*fitted, *others, *unseen) if shape in known)


def write_table(table: LatencyTable, path: Path) -> None:
    """Write a table as JSON.

    Raises:
        ArtifactError: It cannot be written.
    """
    plain = {"format": FORMAT, "identity": dict(table.identity), "held_out": table.held_out, "missing": table.missing}
    write_text(path, to_json({**plain, "timed": [one.as_json() for one in table.timed]}, indent=1) + "\n")


def read_table(path: Path) -> LatencyTable:
    """Read a table that :func:`write_table` wrote.

    Raises:
        ArtifactError: There is none, or it is damaged.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain["format"] != FORMAT:
            raise ValueError(f"its format is {plain['format']!r}, not {FORMAT}")
        timed = tuple(
            Timed(
                Shape(tuple(map(int, one["widths"])), frozenset(map(str, one["dropped"]))),
                _positive(one["ms"]),
                float(one["spread"]),
            )
            for one in plain["timed"]
        )
        return LatencyTable(dict(plain["identity"]), timed, int(plain["held_out"]), int(plain["missing"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise ArtifactError(
            f"{path} is not a latency table: {err}", hint="make it again with `bench --latency-table`"
        ) from err


def check_identity(table: LatencyTable, identity: Mapping[str, Any], path: Path) -> None:
    """Refuse a table of another network, runtime, size or machine.

    Raises:
        ConfigError: It is; the message says in what they differ.
    """
    differing = [
        f"{name} is {json.dumps(value)} and the table's {json.dumps(table.identity.get(name))}"
        for name, value in identity.items()
        if table.identity.get(name) != value
    ]
    if differing:
        raise ConfigError(
            f"{path} was measured for something else: {'; '.join(differing)}",
            hint="leave --latency-table out to measure one here",
        )


_MAKE_THERE = "make it on the machine that it is for: `deblur-deploy bench SOURCE --latency-table FILE`"


def check_whole(table: LatencyTable, path: Path) -> None:
    """Refuse a table that lacks networks.

    Raises:
        ConfigError: Its measurement was interrupted.
    """
    if table.missing or not table.timed:
        counted = f"{len(table.timed)} of {len(table.timed) + table.missing} networks"
        raise ConfigError(
            f"{path} has {counted}: its measurement was interrupted", hint=f"{_MAKE_THERE}, which goes on with it"
        )


def check_groups(table: LatencyTable, channels: Sequence[int], path: Path) -> None:
    """Refuse a table that begins with another network than the unpruned one.

    Args:
        table: The table.
        channels: Channels of every group of the unpruned network.
        path: Where the table lies.

    Raises:
        ConfigError: It does.
    """
    if table.timed[0].shape != Shape(tuple(channels)):
        raise ConfigError(f"{path} was measured with other groups of channels than this network has", hint=_MAKE_THERE)


def refuse_noise(table: LatencyTable, budget_ms: float) -> None:
    """Refuse a table whose times are not certain enough to decide what is asked.

    Args:
        table: The table.
        budget_ms: What a frame may take.

    Raises:
        VerificationError: The unpruned network's time is uncertain by more than half of what is to be saved.
    """
    whole = table.timed[0].ms
    uncertain = 2 * table.spread * whole
    if uncertain > (whole - budget_ms) > 0:
        raise VerificationError(
            f"this machine is too noisy: times are good to ±{table.spread:.1%}, which is {table.spread * whole:.2g} ms "
            f"of {whole:.3g}, and {whole - budget_ms:.2g} ms are to be saved",
            hint="stop other work on this machine, and measure again with --remeasure",
        )


def _kept(path: Path, identity: Mapping[str, Any]) -> tuple[Timed, ...]:
    """What a table on disk has for the same network, runtime, size and machine."""
    try:
        table = read_table(path)
    except ArtifactError:
        return ()
    return table.timed if dict(table.identity) == json.loads(to_json(dict(identity))) else ()


def _positive(value: Any) -> float:
    if not float(value) > 0:
        raise ValueError(f"a frame takes {value} ms")
    return float(value)
