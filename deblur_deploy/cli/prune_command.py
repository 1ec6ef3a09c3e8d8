"""``deblur-deploy prune``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import (
    RUNS,
    Json,
    Out,
    Photos,
    Res,
    Runs,
    Source,
    Steps,
    new_directory,
    scan_directory,
    with_tuning,
)
from deblur_deploy.cli.prune_to_time import (
    FrameCurve,
    MaxMs,
    MinFps,
    OtherDevice,
    Remeasure,
    TableFile,
    TimedInt8,
    TimedRuntime,
    TimeOptions,
    prune_to_time,
)
from deblur_deploy.cli.pruned_groups import report_groups, short_name
from deblur_deploy.config import PruneConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.tables import from_table
from deblur_deploy.quality.gain import format_db, format_share

if TYPE_CHECKING:
    from deblur_deploy.compress.plan import PrunePlan
    from deblur_deploy.compress.sensitivity import ScanReport


def is_float_checkpoint(artifact: Artifact) -> bool:
    """Whether pruning or quantization can start here."""
    return artifact.kind == "checkpoint" and artifact.network.quantization is None


def is_unpruned(artifact: Artifact) -> bool:
    """Whether this is a float checkpoint that was never pruned, which is what pruning takes by default."""
    return is_float_checkpoint(artifact) and all(step.stage != "prune" for step in artifact.history)


Keep = Annotated[
    float | None,
    typer.Option(help="Share of the channels to keep. With no --macs or --params either: 0.7.", show_default=False),
]
Scope = Annotated[
    str, typer.Option(help="local: the same share of every group. global: the channels of all groups compete.")
]
Allocation = Annotated[
    str, typer.Option(help="uniform, or sensitivity: take channels where a scan says that they cost the least dB.")
]
Scan = Annotated[
    bool, typer.Option("--scan", help="Only measure what the channels of each group are worth, and write that.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and write nothing.")]
FeatureWeight = Annotated[
    float, typer.Option(help="Weight of the distance to the teacher's features while fine-tuning, such as 0.1.")
]


def command(
    source: Source = None,
    keep: Keep = None,
    macs: Annotated[float | None, typer.Option(help="Share of the multiply-accumulates to keep at most.")] = None,
    params: Annotated[float | None, typer.Option(help="Share of the parameters to keep at most.")] = None,
    max_ms: MaxMs = None,
    min_fps: MinFps = None,
    curve: FrameCurve = None,
    runtime: TimedRuntime = "openvino",
    int8: TimedInt8 = False,
    res: Res = "640x360",
    latency_table: TableFile = None,
    other_device: OtherDevice = False,
    remeasure: Remeasure = False,
    round_to: Annotated[int, typer.Option(help="Round kept channels down to a multiple of this.")] = 8,
    importance: Annotated[str, typer.Option(help="What makes a channel strong: taylor, l1 or l2.")] = "taylor",
    scope: Scope = "local",
    allocation: Allocation = "uniform",
    rounds: Annotated[int, typer.Option(help="Prune and fine-tune in so many rounds.")] = 1,
    scan: Scan = False,
    scan_images: Annotated[int, typer.Option(help="Photographs that a scan evaluates on.")] = 4,
    scan_size: Annotated[int, typer.Option(help="Longest side of what a scan takes of each, in pixels.")] = 256,
    dry_run: DryRun = False,
    data: Photos = None,
    steps: Steps = None,
    feature_weight: FeatureWeight = 0.0,
    runs: Runs = RUNS,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Keep the strongest channels of every group, then fine-tune with the unpruned network as teacher.

    With --max-ms, keep the channels and blocks that lose the least within a frame time.
    """
    options = {
        **{name: share for name, share in (("keep", keep), ("macs", macs), ("params", params)) if share is not None},
        **{"round_to": round_to, "importance": importance, "scope": scope, "allocation": allocation},
        **{"rounds": rounds, "scan_images": scan_images, "scan_size": scan_size},
    }
    config = _tuned(from_table(PruneConfig, options, "prune"), data, steps, feature_weight)
    timing = TimeOptions(max_ms, min_fps, curve, runtime, int8, res, latency_table, other_device, remeasure)
    output = Output(as_json)
    if timing.is_asked:
        artifact = pruning_source(output, source, runs)
        prune_to_time(output, artifact, timing, config, None if dry_run else timing.directory(runs, out))
    elif scan:
        _scan(output, source, config, runs, out, dry_run)
    elif dry_run:
        _plan(output, pruning_source(output, source, runs), config)
    else:
        _prune(output, source, config, runs, out)


def _tuned(config: PruneConfig, data: Path | None, steps: int | None, feature_weight: float) -> PruneConfig:
    """The settings with what the command line says of the fine-tuning."""
    config = with_tuning(config, data, steps)
    fit = replace(config.tuning.fit, feature_weight=feature_weight)
    return replace(config, tuning=replace(config.tuning, fit=fit))


def pruning_source(output: Output, source: Path | None, runs: Path) -> Artifact:
    """What was named, if it can be pruned, else the newest float checkpoint that never was."""
    return output.source(source, runs, is_float_checkpoint if source else is_unpruned)


def _prune(output: Output, source: Path | None, config: PruneConfig, runs: Path, out: Path | None) -> None:
    """Prune and fine-tune."""
    from deblur_deploy.compress.prune import prune

    artifact = pruning_source(output, source, runs)
    directory = new_directory(out, runs, "prune")
    with output.tuning("pruning") as on_step:
        pruned = prune(artifact, config, directory, on_step, on_scan=on_step)
    figures = pruned.figures
    report_groups(output, figures["groups"], figures["frozen"])
    if config.rounds > 1:
        _report_rounds(output, figures["rounds"])
    before, after, original = (format_db(figures[name]) for name in ("psnr_untuned_db", "psnr_db", "psnr_original_db"))
    output.say(
        f"quality   {before} dB before, {after} dB after tuning; the original has {original} dB on the same pictures, "
        f"gain kept: {format_share(figures['gain_kept'])}"
    )
    output.wrote(pruned)


def _plan(output: Output, artifact: Artifact, config: PruneConfig) -> None:
    """Say what would be done."""
    from deblur_deploy.compress.prune import plan_pruning

    with output.waiting("scanning") as caption:
        plan: PrunePlan = plan_pruning(artifact, config, lambda done, of, drop_db: caption(f"{done} of {of}"))
    answer = plan.as_json()
    report_groups(output, answer["groups"], answer["frozen"])
    for name, count in (("params", "{:,}"), ("gmacs", "{:.2f}")):
        before, after = answer[name]["before"], answer[name]["after"]
        output.say(f"{name:<9} {count.format(before)} → {count.format(after)} ({after / before:.1%})")
    output.say("dry run   nothing was written")
    output.emit({"source": str(artifact.directory), "dry_run": True, **answer})


def _scan(
    output: Output, source: Path | None, config: PruneConfig, runs: Path, out: Path | None, dry_run: bool
) -> None:
    """Measure what channels are worth, and write it unless this is a dry run."""
    from deblur_deploy.compress.prune import scan
    from deblur_deploy.compress.scan_files import write_scan

    artifact = pruning_source(output, source, runs)
    directory = None if dry_run else scan_directory(out, runs)
    with output.waiting("scanning") as caption:
        report: ScanReport = scan(artifact, config, lambda done, of, drop_db: caption(f"{done} of {of}"))
    rows = [
        [
            short_name(row.layers),
            f"{row.before} → {row.kept}",
            f"{row.share:.1%}",
            f"{-row.drop_db:+.3f}",
            format_share(report.gain_kept(row)),
        ]
        for row in report.rows
    ]
    output.table(["group", "channels", "share", "dB", "gain kept"], rows)
    whole, blurred = format_db(report.psnr_db), format_db(report.blurred_db)
    output.say(f"whole     {whole} dB, blurred {blurred} dB, mean of {report.images} pictures up to {report.size} px")
    files = write_scan(report, directory) if directory else []
    for path in files:
        output.say(f"wrote     {path}")
    output.emit({"source": str(artifact.directory), **report.as_json(), "files": [str(path) for path in files]})


def _report_rounds(output: Output, rounds: list[dict[str, Any]]) -> None:
    """Print what each round did."""
    rows = [
        [
            str(number),
            f"{done['params']:,}",
            str(done["steps"]),
            format_db(done["psnr_untuned_db"]),
            format_db(done["psnr_db"]),
        ]
        for number, done in enumerate(rounds, start=1)
    ]
    output.table(["round", "params", "steps", "dB before tuning", "dB after"], rows)
