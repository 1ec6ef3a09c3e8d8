"""Pruning to a frame time: the best network that takes at most so many milliseconds, in a runtime and a precision.

How it goes: ``latency_table`` times whole networks in place, ``frame_times`` fits to them the time of every part of the
network, the scan of ``sensitivity`` says what channels are worth and an evaluation what a block is, and ``knapsack``
chooses. The choice is timed before it is fine-tuned, since weights do not change the time, and where it misses the
budget all predictions are corrected by what was found.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deblur_deploy.compress.finetune import OnStep, evaluation_pairs
from deblur_deploy.compress.frame_times import FrameTimes, Shape
from deblur_deploy.compress.groups import Frozen
from deblur_deploy.compress.knapsack import ShapeChoice, Worth, choose_shape
from deblur_deploy.compress.latency_table import OnTimed, refuse_noise
from deblur_deploy.compress.plan import Frames, PrunedGroup
from deblur_deploy.compress.prune import load_float, scan_groups, tune
from deblur_deploy.compress.removal import check_removal, remove_channels
from deblur_deploy.compress.sensitivity import OnScan, ScanReport, WholeNetwork, predicted_drop_db, scan_pairs
from deblur_deploy.compress.shaping import Clock, Shaping, TablePlace, check_table, timed_table
from deblur_deploy.compress.teacher import measure_teacher
from deblur_deploy.config import FrameTimeConfig
from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.core.errors import BudgetError, ConfigError
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.generator import Generator

TOLERANCE = 0.03
"""By how much the measured time may be above the budget, as a share of it."""

CORRECTIONS = 3

_MOST_WIDTHS = 12
"""Widths of one group that the choice is among."""


@dataclass(frozen=True)
class Watching:
    """Callbacks while a search runs, each or None.

    Args:
        on_timed: After each network of the table.
        on_scan: After each evaluation of the scan.
        on_step: After each fine-tuning step.
    """

    on_timed: OnTimed | None = None
    on_scan: OnScan | None = None
    on_step: OnStep | None = None


@dataclass(frozen=True)
class TimedGroup(PrunedGroup):
    """A group of channels, and what narrowing it does by itself; one that went with its block has no channels left.

    Args:
        saved_ms: What a frame is predicted to take less when this group alone is narrowed.
        lost_db: The loss that this is predicted to be before fine-tuning, 0 where the block has it.
    """

    saved_ms: float
    lost_db: float


@dataclass(frozen=True)
class FramePlan:
    """The network chosen for a budget.

    Args:
        budget_ms: Most that a frame may take.
        predicted_ms: What it is predicted to take.
        measured_ms: What it takes, None where it was not timed.
        choice: Widths and blocks, with the proof of how good they are.
        groups: Every group, before and after.
        frozen: Channels that stay, and why.
        table: Spread of the table, and the median error of predictions on networks that no fit saw.
    """

    budget_ms: float
    predicted_ms: float
    measured_ms: float | None
    choice: ShapeChoice
    groups: tuple[TimedGroup, ...]
    frozen: tuple[Frozen, ...]
    table: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json`` and manifests."""
        return {
            "budget_ms": self.budget_ms,
            "predicted_ms": self.predicted_ms,
            "measured_ms": self.measured_ms,
            "predicted_drop_db": self.choice.lost_db,
            "groups": [vars(group) for group in self.groups],
            "frozen": [vars(part) for part in self.frozen],
            "blocks_removed": sorted(self.choice.shape.dropped),
            "optimality_gap": self.choice.gap,
            "bound_db": self.choice.bound_db,
            **{f"table_{name}": value for name, value in self.table.items()},
        }


class FrameSearch:
    """Everything about a network that choosing for a frame time needs.

    Args:
        source: A float checkpoint.
        config: Importance, rounding, and what the scan evaluates on.
        clock: Times networks in the runtime and precision that count.
        place: Where the table is kept; what it has is not timed again.
        watching: For showing progress.

    Raises:
        ArtifactError: ``source`` is not a float checkpoint, or the table is damaged or cannot be written.
        ConfigError: The table is for something else.
        DeblurDeployError: The network cannot be pruned, run, or timed.
    """

    def __init__(
        self,
        source: Artifact,
        config: FrameTimeConfig,
        clock: Clock,
        place: TablePlace,
        watching: Watching = Watching(),
    ) -> None:
        check_table(clock, place)
        self.net = load_float(source)
        self._clock, self._is_elsewhere = clock, place.from_elsewhere
        self.shaping = Shaping(self.net, config.prune)
        self.table = timed_table(self.shaping, clock, place, watching.on_timed)
        self.times = FrameTimes.fit(self.shaping.anatomy(), self.table.fitted)
        self.scanned = scan_groups(self.net, self.shaping.analysis, config.prune, watching.on_scan)
        self._worth = self._worth_of(self.scanned, config)

    def timed_by(self, clock: Clock, place: TablePlace, on_timed: OnTimed | None = None) -> FrameSearch:
        """The same network in another runtime or precision: what its parts are worth is not measured again.

        Args:
            clock: Times networks in that runtime and precision.
            place: Where the table of these times is kept.
            on_timed: Called after each network of the table.

        Raises:
            DeblurDeployError: As for a new search.
        """
        check_table(clock, place)
        other = copy.copy(self)
        other._clock, other._is_elsewhere = clock, place.from_elsewhere
        other.table = timed_table(self.shaping, clock, place, on_timed)
        other.times = FrameTimes.fit(self.shaping.anatomy(), other.table.fitted)
        return other

    def plan(self, budget_ms: float, times: FrameTimes | None = None) -> FramePlan:
        """Choose for a budget, by predictions alone.

        Args:
            budget_ms: Most that a frame may take.
            times: Corrected times, instead of those of the table.

        Raises:
            ConfigError: The unpruned network is within it, or not even the smallest one is.
        """
        times = times or self.times
        self._check_reachable(budget_ms, times)
        choice = choose_shape(times, self._worth, budget_ms)
        groups = tuple(self._timed_group(index, choice.shape, times) for index in range(len(choice.shape.widths)))
        table = {"spread": self.table.spread, "error": self.times.error(self.table.unseen or self.table.timed)}
        frozen = self.shaping.analysis.channels.frozen
        return FramePlan(budget_ms, times.predict(choice.shape), None, choice, groups, frozen, table)

    def _timed_group(self, index: int, shape: Shape, times: FrameTimes) -> TimedGroup:
        """A group as a shape has it."""
        group, whole = self.shaping.analysis.channels.groups[index], list(times.anatomy.channels)
        is_there = times.anatomy.is_there((index,), shape)
        width = shape.widths[index] if is_there else 0
        narrow = Shape((*whole[:index], width, *whole[index + 1 :]))
        saved_ms = times.predict(Shape(tuple(whole))) - times.predict(narrow)
        lost = self._worth.lost[index][self._worth.widths[index].index(width)] if is_there else 0.0
        return TimedGroup(
            group.layers, group.channels, width, round(width / group.channels, 4), saved_ms, predicted_drop_db(lost)
        )

    def plan_measured(self, budget_ms: float) -> FramePlan:
        """Choose for a budget, time the choice, and correct the predictions where it misses.

        Returns:
            Of all that were timed, the one with the least loss within the budget and :data:`TOLERANCE`; the fastest,
            where none is.

        Raises:
            ConfigError: As for :meth:`plan`.
            VerificationError: The machine is too noisy to tell.
        """
        refuse_noise(self.table, budget_ms)
        if self._is_elsewhere:
            return self.plan(budget_ms)
        times = self.times
        tried: list[FramePlan] = []
        for _ in range(1 + CORRECTIONS):
            try:
                plan = self.plan(budget_ms, times)
            except ConfigError:
                if not tried:
                    raise
                break  # by the corrected times nothing is within the budget
            measured, _ = self._clock.time(self.shaping.network(plan.choice.shape))
            tried.append(replace(plan, measured_ms=measured))
            if abs(measured / budget_ms - 1) <= TOLERANCE:
                break
            times = replace(times, factor=times.factor * measured / plan.predicted_ms)
        return min(
            tried, key=lambda plan: (_is_over(plan), plan.measured_ms if _is_over(plan) else plan.choice.lost_db)
        )

    def carry_out(self, plan: FramePlan) -> Generator:
        """The network of a plan, its channels held against the unpruned one.

        Raises:
            ConfigError: The pruned network does not run.
            VerificationError: Its output differs from the unpruned one's with zeros for what was removed.
        """
        groups, removed = self.shaping.analysis.channels.groups, self.shaping.removed(plan.choice.shape)
        small = remove_channels(self.net, groups, removed)
        check_removal(self.net, small, groups, removed, Frames.of(self.net).traced)
        return self.shaping.network(plan.choice.shape)

    def _worth_of(self, scanned: ScanReport, config: FrameTimeConfig) -> Worth:
        """Deviations by width from the scan, and by block from evaluations without the ends of its row."""
        curves, state = scanned.curves(), self.shaping.analysis.state
        widths = [_choices(state.smallest[group], most, state.round_to) for group, most in enumerate(state.present)]
        lost = [
            tuple(curves[group](width) if group in curves else 0.0 for width in of_group)
            for group, of_group in enumerate(widths)
        ]
        pairs = scan_pairs(evaluation_pairs(config.prune.tuning), config.prune.scan_images, config.prune.scan_size)
        whole = WholeNetwork(self.net, pairs)
        blocks = {}
        for chain in self.shaping.chains:
            before = 0.0
            for start in reversed(range(len(chain))):
                _, deviation = whole.compare(self.net.without_blocks(chain[start:]))
                total = max(before, deviation)
                blocks[chain[start]], before = total - before, total
        return Worth(tuple(widths), tuple(lost), self.shaping.chains, blocks)

    def _check_reachable(self, budget_ms: float, times: FrameTimes) -> None:
        whole, least = self.table.timed[0].ms, self.shaping.smallest()
        if whole <= budget_ms:
            raise ConfigError(
                f"the unpruned network takes {whole:.3g} ms, within {budget_ms:.3g} ms: there is nothing to prune",
                hint="give fewer milliseconds, or go on with the network as it is",
            )
        reachable = times.predict(least)
        if reachable > budget_ms:
            depth = f" and without {len(least.dropped)} blocks" if least.dropped else ""
            raise ConfigError(
                f"{budget_ms:.3g} ms cannot be met: the smallest network, with {min(least.widths)} to "
                f"{max(least.widths)} channels in every group{depth}, takes {reachable:.3g} ms",
                hint=f"give {reachable * 1.05:.3g} ms or more, a smaller --round-to, --int8, or a smaller --res",
            )


def prune_to_time(
    search: FrameSearch, source: Artifact, config: FrameTimeConfig, out: Path, on_step: OnStep | None = None
) -> Artifact:
    """Prune a float checkpoint until a frame takes at most so long, and fine-tune it with the unpruned one as teacher.

    Args:
        search: Measurements of the checkpoint.
        source: The checkpoint.
        config: The budget, and the fine-tuning.
        out: The artifact's directory.
        on_step: Called after each fine-tuning step.

    Raises:
        BudgetError: The budget is missed even after corrections; the best artifact is kept in ``out``.
        ConfigError: The budget makes no sense for this network, or the machine is too noisy.
        ArtifactError: ``out`` cannot be written.
    """
    plan = search.plan_measured(config.max_ms)
    net = search.carry_out(plan)
    pairs = evaluation_pairs(config.prune.tuning)
    judged = measure_teacher(source, search.net, pairs)
    done, quality = tune(net, search.net, config.prune, pairs, on_step)
    figures = {
        **{name: getattr(done, name) for name in ("params", "gmacs", "psnr_untuned_db", "loss", "seconds")},
        **quality,
        **judged.figures(quality),
        **plan.as_json(),
        "scan": search.scanned.as_json(),
    }
    pruned = save_network(out, net, spec_of(net), new_step("prune", config, source, figures), source.history)
    if _is_over(plan):
        raise BudgetError(
            f"a frame takes {plan.measured_ms:.3g} ms and may take {config.max_ms:.3g}; the predictions were corrected "
            f"{CORRECTIONS} times, and the best network is kept in {pruned.directory}",
            hint="give more milliseconds, or stop other work on this machine and try again",
        )
    return pruned


def _is_over(plan: FramePlan) -> bool:
    return plan.measured_ms is not None and plan.measured_ms > plan.budget_ms * (1 + TOLERANCE)


def _choices(least: int, most: int, round_to: int) -> tuple[int, ...]:
    """The widths that may be kept, the widest first: multiples of ``round_to``, thinned out where there are many."""
    every = [most, *range((most - 1) // round_to * round_to, least - 1, -round_to)]
    widths = sorted({*every, least}, reverse=True)
    step = -(-len(widths) // _MOST_WIDTHS)
    return tuple(sorted({*widths[::step], least}, reverse=True))
