"""``deblur-deploy prune --max-ms``: pruning to a frame time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import new_directory, scan_directory
from deblur_deploy.cli.pruned_groups import report_groups
from deblur_deploy.config import FrameTimeConfig, PruneConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError, VerificationError
from deblur_deploy.core.files import user_cache, write_text
from deblur_deploy.core.images import parse_resolution
from deblur_deploy.core.plain_data import to_json
from deblur_deploy.quality.gain import format_db, format_share

if TYPE_CHECKING:
    from deblur_deploy.compress.frame_budget import FramePlan, FrameSearch
    from deblur_deploy.compress.latency_table import LatencyTable
    from deblur_deploy.compress.shaping import TablePlace

MaxMs = Annotated[
    float | None, typer.Option(help="Keep what fits into this many ms per frame, instead of a share of the channels.")
]
MinFps = Annotated[float | None, typer.Option(help="The same as frames in a second.")]
FrameCurve = Annotated[
    str | None,
    typer.Option("--curve", help="Only compare several frame times in ms, such as 10,15,22,33, and write that."),
]
TimedRuntime = Annotated[str, typer.Option("--runtime", help="What a frame is timed in.")]
TimedInt8 = Annotated[bool, typer.Option("--int8", help="Time a frame as it will run after `qat`.")]
TableFile = Annotated[
    Path | None,
    typer.Option("--latency-table", help="File of measured times. Where there is none, it is measured and written."),
]
OtherDevice = Annotated[
    bool,
    typer.Option("--other-device", help="The latency table was measured on another machine; nothing is timed here."),
]
Remeasure = Annotated[bool, typer.Option("--remeasure", help="Forget times that were measured before.")]

CURVE_FILE = "frame-times.json"
"""What ``--curve`` writes."""

_ANSWER = (
    *("budget_ms", "predicted_ms", "measured_ms", "psnr_db", "gain_kept"),
    *("groups", "blocks_removed", "optimality_gap"),
)


@dataclass(frozen=True)
class TimeOptions:
    """What the command line says of a frame time.

    Args:
        max_ms: Most that a frame may take.
        min_fps: The same as frames in a second.
        curve: Several budgets in ms, separated by commas, to compare instead.
        runtime: What is timed.
        int8: Whether it is timed as after ``qat``.
        res: Size of the frame.
        latency_table: File of the table.
        other_device: Whether that file is of another machine.
        remeasure: Whether what was measured before is forgotten.
    """

    max_ms: float | None
    min_fps: float | None
    curve: str | None
    runtime: str
    int8: bool
    res: str
    latency_table: Path | None
    other_device: bool
    remeasure: bool

    @property
    def is_asked(self) -> bool:
        """Whether there is a frame time at all."""
        return self.max_ms is not None or self.min_fps is not None or self.curve is not None

    def budgets(self) -> list[float]:
        """The frame times in milliseconds.

        Raises:
            ConfigError: There are two kinds of them, or one is not a positive number.
        """
        given = [name for name in ("max_ms", "min_fps", "curve") if getattr(self, name) is not None]
        if len(given) > 1:
            flags = " and ".join("--" + name.replace("_", "-") for name in given)
            raise ConfigError(f"there are {flags}", hint="give one of them")
        if self.min_fps is not None:
            if not self.min_fps > 0:
                raise ConfigError(f"min_fps is {self.min_fps}", hint="give frames in a second, such as 45")
            return [1000 / self.min_fps]
        if self.max_ms is not None:
            return [self.max_ms]
        try:
            return [float(part) for part in str(self.curve).split(",")]
        except ValueError as err:
            raise ConfigError(f"--curve is {self.curve!r}", hint="give milliseconds, such as 10,15,22,33") from err

    def config(self, max_ms: float, prune: PruneConfig) -> FrameTimeConfig:
        """Settings of the stage for one budget."""
        size = parse_resolution(self.res)
        return FrameTimeConfig(max_ms, self.runtime, self.int8, size.width, size.height, prune)

    def directory(self, runs: Path, out: Path | None) -> Path:
        """Where to write: the directory that was named, else a new one among all artifacts."""
        return scan_directory(out, runs) if self.curve is not None else new_directory(out, runs, "prune")


def prune_to_time(
    output: Output,
    artifact: Artifact,
    options: TimeOptions,
    prune: PruneConfig,
    directory: Path | None,
) -> None:
    """Find what fits into a frame time, and prune to it unless this is a dry run.

    Args:
        output: Where to print.
        artifact: The float checkpoint.
        options: The frame time.
        prune: Importance, rounding, scan and fine-tuning.
        directory: What to write (see :meth:`TimeOptions.directory`); None is a dry run.

    Raises:
        DeblurDeployError: It cannot be met or measured.
    """
    from deblur_deploy.compress.frame_budget import FrameSearch, Watching
    from deblur_deploy.compress.frame_budget import prune_to_time as run
    from deblur_deploy.pipeline.frame_clock import FrameClock

    budgets = options.budgets()
    configs = [options.config(ms, prune) for ms in budgets]
    with FrameClock(artifact, configs[0]) as clock:
        place = _place(options, clock.identity)
        with output.waiting("timing networks") as caption:
            watching = Watching(
                lambda done, of, ms: caption(f"{done} of {of}, {ms:.1f} ms"),
                lambda done, of, _: caption(f"scan {done} of {of}"),
            )
            search = FrameSearch(artifact, configs[0], clock, place, watching)
        say_table(output, search.table, place)
        if options.curve is not None:
            _curve(output, search, artifact, budgets, directory)
        elif directory is None:
            plan = _planned(search, budgets[0])
            _say_plan(output, plan)
            output.say("dry run   nothing was written")
            output.emit({"source": str(artifact.directory), "dry_run": True, **plan.as_json()})
        else:
            with output.tuning("pruning") as on_step:
                pruned = run(search, artifact, configs[0], directory, on_step)
            _say_result(output, pruned)


def _place(options: TimeOptions, identity: Any) -> TablePlace:
    """The table's file: the one that was named, else a separate one for each network, runtime, size and machine."""
    from deblur_deploy.compress.shaping import TablePlace

    if options.other_device and options.latency_table is None:
        raise ConfigError("--other-device needs --latency-table", hint="name the table that was measured there")
    key = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:24]
    path = options.latency_table or user_cache("frame-times") / f"{key}.json"
    if options.remeasure and not options.other_device:
        path.unlink(missing_ok=True)
    return TablePlace(path, options.latency_table is not None, options.other_device)


def say_table(output: Output, table: LatencyTable, place: TablePlace) -> None:
    """Say how many networks a table has, how certain their times are, and where it lies."""
    output.say(
        f"table     {len(table.timed)} networks timed, ±{table.spread:.1%}; the unpruned one takes "
        f"{table.timed[0].ms:.2f} ms ({place.path})"
    )


def _planned(search: FrameSearch, budget_ms: float) -> FramePlan:
    """The choice for a budget, by predictions that are certain enough for it."""
    from deblur_deploy.compress.latency_table import refuse_noise

    refuse_noise(search.table, budget_ms)
    return search.plan(budget_ms)


def _say_plan(output: Output, plan: FramePlan) -> None:
    answer = plan.as_json()
    report_groups(output, answer["groups"], answer["frozen"])
    if plan.choice.shape.dropped:
        output.say(f"blocks    removed: {', '.join(sorted(plan.choice.shape.dropped))}")
    output.say(
        f"predicted {plan.predicted_ms:.2f} ms of {plan.budget_ms:.2f}, {plan.choice.lost_db:.2f} dB lost before "
        f"fine-tuning; proven to be within {plan.choice.gap:.1%} of the best"
    )


def _say_result(output: Output, pruned: Artifact) -> None:
    figures = pruned.history[-1].figures
    measured = figures["measured_ms"]
    took = "not timed here" if measured is None else f"{measured:.2f} ms measured"
    output.say(f"time      {took}, {figures['predicted_ms']:.2f} predicted, {figures['budget_ms']:.2f} allowed")
    before, after = (format_db(figures[name]) for name in ("psnr_untuned_db", "psnr_db"))
    output.say(
        f"quality   {before} dB before, {after} dB after tuning; gain kept: {format_share(figures['gain_kept'])}"
    )
    output.say(f"wrote     {pruned.path}")
    output.emit({"artifact": str(pruned.directory), **{name: figures[name] for name in _ANSWER}})


def _curve(
    output: Output, search: FrameSearch, artifact: Artifact, budgets: list[float], directory: Path | None
) -> None:
    """The front of predicted dB against ms, from one table; a budget that makes no sense has its reason instead."""
    points: list[dict[str, Any]] = []
    for budget in sorted(budgets):
        try:
            plan = _planned(search, budget)
        except (ConfigError, VerificationError) as err:
            points.append({"budget_ms": budget, "reason": err.message})
            continue
        points.append({**plan.as_json(), "kept": sum(group.after for group in plan.groups)})
    rows = [[f"{point['budget_ms']:.1f}", *_cells(point)] for point in points]
    output.table(["budget ms", "predicted ms", "dB lost untuned", "channels kept"], rows)
    timed_as = {name: search.table.identity[name] for name in ("runtime", "precision", "res")}
    whole_ms = search.table.timed[0].ms
    answer = {"source": str(artifact.directory), **timed_as, "whole_ms": whole_ms, "points": points}
    if directory is not None:
        write_text(directory / CURVE_FILE, to_json(answer, indent=2) + "\n")
        output.say(f"wrote     {directory / CURVE_FILE}")
    output.emit(answer)


def _cells(point: dict[str, Any]) -> list[str]:
    if "reason" in point:
        return [point["reason"], "", ""]
    return [f"{point['predicted_ms']:.1f}", f"{point['predicted_drop_db']:.2f}", str(point["kept"])]
