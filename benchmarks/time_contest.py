"""Networks that take equally long, each pruned in another way."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from global_pruning import prune_globally

from deblur_deploy.compress.frame_budget import TOLERANCE, FrameSearch, Watching
from deblur_deploy.compress.frame_times import Shape
from deblur_deploy.compress.prune import taylor_crops
from deblur_deploy.compress.shaping import Clock, TablePlace
from deblur_deploy.config import FrameTimeConfig, PruneConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.network.generator import Generator

OURS, OURS_FASTER = "--max-ms", "--max-ms, 85 % of the time"
UNIFORM, MACS, GLOBAL = "uniform", "--macs, sensitivity", "Torch-Pruning, global"

_FASTER = 0.85

_TRIES = 6
"""How many shares of a rival are tried in search of the network that takes as long."""

_LEAST_SHARE = 0.05


@dataclass(frozen=True)
class Entry:
    """A network in the contest, not yet fine-tuned.

    Args:
        way: How it was pruned.
        net: The network.
        ms: What a frame was measured to take.
    """

    way: str
    net: Generator
    ms: float


class TimeContest:
    """A search for the best network within a frame time, and what its rivals make for the same time.

    Args:
        source: The float checkpoint that all prune.
        config: Runtime, precision, size, and what the scan evaluates on.
        clock: Times the networks.
        table: File of the table that is written.
        before: A contest of the same network in another precision, whose scan is taken over.

    Raises:
        DeblurDeployError: The network cannot be pruned or timed.
    """

    def __init__(
        self, source: Artifact, config: FrameTimeConfig, clock: Clock, table: Path, before: TimeContest | None = None
    ) -> None:
        self._clock, self._prune = clock, config.prune
        self._times: dict[str, float] = {}
        start = table_done = time.perf_counter()

        def on_timed(*_: object) -> None:
            nonlocal table_done
            table_done = time.perf_counter()

        place = TablePlace(table)
        if before is None:
            self._search = FrameSearch(source, config, clock, place, Watching(on_timed))
            scan = time.perf_counter() - table_done
        else:
            self._search, scan = before._search.timed_by(clock, place, on_timed), before._seconds["scan"]
        self.net = self._search.net
        self._seconds: dict[str, float] = {"table": table_done - start, "scan": scan}

    def searched(self, budgets: int) -> dict[str, Any]:
        """How long the search takes, and predictions against measurements over budgets from the least to the most.

        Args:
            budgets: How many.
        """
        search, found, solving = self._search, [], []
        whole, least = search.table.timed[0].ms, search.times.predict(search.shaping.smallest())
        for share in np.linspace(0.1, 0.9, budgets):
            start = time.perf_counter()
            plan = search.plan(least + float(share) * (whole - least))
            solving.append(time.perf_counter() - start)
            measured, spread = self._clock.time(search.shaping.network(plan.choice.shape))
            ms = {"budget_ms": plan.budget_ms, "predicted_ms": plan.predicted_ms, "measured_ms": measured}
            found.append(ms | {"spread": spread, "error": plan.predicted_ms / measured - 1, "gap": plan.choice.gap})
        errors = [abs(one["error"]) for one in found]
        return {
            "networks": len(search.table.timed),
            "spread": search.table.spread,
            "whole_ms": whole,
            "seconds": self._seconds | {"solve": statistics.median(solving)},
            "error": {"median": statistics.median(errors), "worst": max(errors)},
            "predictions": found,
        }

    def entries(self, keep: float) -> Iterator[Entry]:
        """The network of uniform pruning first, then those that take as long.

        Args:
            keep: Share of the channels that uniform pruning keeps.
        """
        analysis = self._search.shaping.analysis
        curves = self._search.scanned.curves()
        uniform = self._timed(UNIFORM, self._planned(PruneConfig(keep=keep)))
        yield uniform
        yield self._ours(OURS, uniform.ms)
        yield self._ours(OURS_FASTER, _FASTER * uniform.ms)

        def by_macs(share: float) -> Generator:
            config = PruneConfig(macs=share, allocation="sensitivity")
            return self._shaped([group.after for group in analysis.plan(config, curves).groups])

        yield self._as_fast(MACS, by_macs, uniform.ms)
        round_to, crops = self._prune.round_to, taylor_crops(self.net, self._prune)
        yield self._as_fast(GLOBAL, lambda share: prune_globally(self.net, share, round_to, crops), uniform.ms)

    def _planned(self, config: PruneConfig) -> Generator:
        return self._shaped([group.after for group in self._search.shaping.analysis.plan(config).groups])

    def _shaped(self, widths: list[int]) -> Generator:
        return self._search.shaping.network(Shape(tuple(widths)))

    def _ours(self, way: str, budget_ms: float) -> Entry:
        plan = self._search.plan_measured(budget_ms)
        assert plan.measured_ms is not None
        return Entry(way, self._search.shaping.network(plan.choice.shape), plan.measured_ms)

    def _timed(self, way: str, net: Generator) -> Entry:
        """A network and its time, which is that of another one of the same widths if there was one."""
        key = str(net.config)
        if key not in self._times:
            self._times[key] = self._clock.time(net)[0]
        return Entry(way, net, self._times[key])

    def _as_fast(self, way: str, make: Callable[[float], Generator], budget_ms: float) -> Entry:
        """The slowest network within a budget, as ours is allowed to miss it; the fastest where none is within it.

        Each share that is tried lies where a straight line between the two around the budget meets it.
        """
        below, above = (_LEAST_SHARE, 0.0), (1.0, self._search.table.timed[0].ms)
        tried: list[Entry] = []
        for _ in range(_TRIES):
            (low, low_ms), (high, high_ms) = below, above
            part = (budget_ms - low_ms) / max(high_ms - low_ms, budget_ms - low_ms)
            share = low + (high - low) * min(max(part, 0.1), 0.9)
            try:
                tried.append(self._timed(way, make(share)))
            except ConfigError:  # so small a share is out of reach
                below = share, 0.0
                continue
            if abs(tried[-1].ms / budget_ms - 1) <= TOLERANCE:
                break
            found = share, tried[-1].ms
            below, above = (found, above) if found[1] < budget_ms else (below, found)
        within = [entry for entry in tried if entry.ms <= budget_ms * (1 + TOLERANCE)]
        return max(within, key=lambda entry: entry.ms) if within else min(tried, key=lambda entry: entry.ms)
