"""``deblur-deploy bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deblur_deploy.artifact import Artifact, load_artifact
from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Res, Runs
from deblur_deploy.images import parse_resolution
from deblur_deploy.sources import describe, find_artifacts, shipped_generator

if TYPE_CHECKING:
    from deblur_deploy.bench.measure import BenchReport


def command(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Artifacts to time. Left out: the newest chain under --runs, else the shipped generator."),
    ] = None,
    res: Res = "640x360",
    seconds: Annotated[float, typer.Option(help="Time measured for each row.")] = 3.0,
    threads: Annotated[int | None, typer.Option(help="Processor threads. Left out: all cores.")] = None,
    runs: Runs = RUNS,
    save: Annotated[Path | None, typer.Option(help="JSONL file for every sample and the facts of the machine.")] = None,
    as_json: Json = False,
) -> None:
    """Time artifacts on every runtime that this machine has; the first row is the baseline."""
    resolution = parse_resolution(res)
    from deblur_deploy.bench.measure import BenchConfig, all_entries, measure, write_jsonl

    output = Output(as_json)
    config = BenchConfig(resolution=resolution, threads=threads, duration_ms=seconds * 1000)
    if sources:
        artifacts, reason = [load_artifact(path) for path in sources], "named on the command line"
    else:
        artifacts, reason = newest_chain(runs)
    for artifact in artifacts:
        output.say(f"source    {artifact.directory} ({describe(artifact)}; {reason})")
    output.say(f"input     1x3x{resolution.height}x{resolution.width} (NCHW), {len(artifacts)} artifacts")
    with output.waiting("measuring") as tick:
        report = measure(
            all_entries(artifacts), config, lambda entry, window: tick(f"{entry.runtime}, window {window}")
        )
    print_rows(output, report)
    if save is not None:
        write_jsonl(report, save)
        output.say(f"wrote     {save}")
    output.emit(report.as_json())
    if report.interrupted:
        raise KeyboardInterrupt


def newest_chain(runs: Path) -> tuple[list[Artifact], str]:
    """The newest chain: its root checkpoint first, then every ONNX file, every engine and every last checkpoint of it.

    Returns:
        The artifacts, and why they were taken, as a phrase.
    """
    found = find_artifacts(runs)
    if not found:
        return [shipped_generator()], "the shipped generator"
    root_step = found[-1].history[0]
    chain = [artifact for artifact in found if artifact.history[0] == root_step]
    roots = [artifact for artifact in chain if len(artifact.history) == 1] or _shipped_root(root_step.created)
    parents = {artifact.history[-1].parent for artifact in chain}
    results = [
        artifact
        for artifact in chain
        if len(artifact.history) > 1 and (artifact.kind != "checkpoint" or artifact.sha256 not in parents)
    ]
    return [*roots[:1], *results], f"of the newest chain under {runs}"


def _shipped_root(created: str) -> list[Artifact]:
    """The shipped generator, if that is what the chain started from."""
    generator = shipped_generator()
    return [generator] if generator.history[0].created == created else []


def print_rows(output: Output, report: BenchReport) -> None:
    """Print the latency table, skipped rows with their reason below it."""
    rows = []
    for row in report.rows:
        if row.latency_ms is None:
            continue
        low, high = row.ratio_ci or (float("nan"), float("nan"))
        rows.append(
            [
                Path(row.artifact).name,
                row.runtime,
                f"{row.latency_ms.median:.1f}",
                f"{row.latency_ms.p90:.1f}",
                f"{row.throughput_fps or 0:.2f}",
                f"{row.ratio or 0:.2f} [{low:.2f}, {high:.2f}]",
                "" if row.stable else "unstable",
            ]
        )
    output.table(["artifact", "runtime", "median ms", "p90 ms", "fps", "x baseline [95 %]", ""], rows)
    for row in report.rows:
        if row.skipped:
            output.say(f"skipped   {Path(row.artifact).name} on {row.runtime}: {row.skipped}")
