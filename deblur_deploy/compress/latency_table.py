"""Which networks are timed for a table of frame times, and the table on disk: what was measured once is kept."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deblur_deploy.compress.allocation import WidthState
from deblur_deploy.compress.frame_times import Shape, Timed
from deblur_deploy.core.errors import ArtifactError, ConfigError, VerificationError
from deblur_deploy.core.files import write_text
from deblur_deploy.core.plain_data import to_json

FORMAT = 1
_UNIFORM = (0.75, 0.5, 0.25)
_RANDOM = 6
"""Networks of random widths; the fit never sees the last half of them, which tell its error."""

Stopwatch = Callable[[Shape], tuple[float, float]]
"""Times a network of a shape in place: median ms of a frame, and half of its 95 % interval as a share of it."""

OnTimed = Callable[[int, int, float], None]
"""Called after each network with how many were timed, how many there are, and its milliseconds."""


@dataclass(frozen=True)
class LatencyTable:
    """Whole networks that were timed.

    Args:
        identity: What the times are true for: network, runtime, precision, size, machine.
        timed: The networks, the unpruned one first.
        held_out: How many at the end no fit may see.
    """

    identity: Mapping[str, Any]
    timed: tuple[Timed, ...]
    held_out: int

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
    """Shapes whose times tell what everything in a network takes.

    The network itself; every group alone at half and at its smallest width; every row of blocks from its end; all
    groups alike; and random widths.

    Args:
        state: Its groups.
        chains: Rows of blocks of which the last can go.

    Returns:
        The shapes, each once, and how many at the end are to be held out of the fit.
    """
    whole = list(state.present)
    found = [Shape(tuple(whole))]
    halves = state.rounded([0.5 * channels for channels in whole])
    for group in range(len(whole)):
        for width in (halves[group], state.smallest[group]):
            found.append(Shape((*whole[:group], width, *whole[group + 1 :])))
    for chain in chains:
        found += [Shape(tuple(whole), frozenset(chain[start:])) for start in reversed(range(len(chain)))]
    found += [Shape(tuple(state.rounded([share * channels for channels in whole]))) for share in _UNIFORM]
    rng = np.random.default_rng(0)
    random = [
        Shape(
            tuple(
                state.rounded(
                    [
                        float(share) * channels
                        for share, channels in zip(rng.uniform(0.2, 1, len(whole)), whole, strict=True)
                    ]
                )
            )
        )
        for _ in range(_RANDOM)
    ]
    once = list(dict.fromkeys(found))
    fresh = [shape for shape in dict.fromkeys(random) if shape not in once]
    return once + fresh, min(_RANDOM // 2, len(fresh))


def measure_table(
    identity: Mapping[str, Any],
    plan: tuple[list[Shape], int],
    stopwatch: Stopwatch,
    path: Path,
    on_timed: OnTimed | None,
) -> LatencyTable:
    """Time what a kept table lacks; it is written after each network, so that an interrupted run loses nothing.

    Args:
        identity: What the times are true for.
        plan: The shapes, and how many at the end are held out.
        stopwatch: Times one of them.
        path: Where the table is kept.
        on_timed: For showing progress.

    Raises:
        ArtifactError: The table cannot be written.
    """
    shapes, held_out = plan
    known = {one.shape: one for one in _kept(path, identity)}
    for number, shape in enumerate(shapes, start=1):
        if shape not in known:
            ms, spread = stopwatch(shape)
            known[shape] = Timed(shape, ms, spread)
            write_table(LatencyTable(identity, tuple(known.values()), 0), path)
        if on_timed:
            on_timed(number, len(shapes), known[shape].ms)
    return LatencyTable(identity, tuple(known[shape] for shape in shapes), held_out)


def write_table(table: LatencyTable, path: Path) -> None:
    """Write a table as JSON.

    Raises:
        ArtifactError: It cannot be written.
    """
    plain = {"format": FORMAT, "identity": dict(table.identity), "held_out": table.held_out}
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
        return LatencyTable(dict(plain["identity"]), timed, int(plain["held_out"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise ArtifactError(
            f"{path} is not a latency table: {err}", hint="make it again with `prune --max-ms`"
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
