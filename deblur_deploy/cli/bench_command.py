"""``deblur-deploy bench``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from deblur_deploy.cli.bench_gates import Gates
from deblur_deploy.cli.bench_output import BenchFiles, Contender, print_ceilings, print_laws, print_rows, run_streams
from deblur_deploy.cli.bench_table import NewTable, TableInt8, TableOptions, TableRounding, make_table
from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Res, Runs
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError, DeblurDeployError
from deblur_deploy.core.images import parse_resolution
from deblur_deploy.core.sources import describe, find_artifacts, shipped_generator

if TYPE_CHECKING:
    from deblur_deploy.bench.entries import BenchEntry, Selection
    from deblur_deploy.bench.measure import BenchConfig, BenchReport


def command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to time: artifacts, .onnx files, package.module:factory. "
            "Left out: the newest chain under --runs, else the shipped generator."
        ),
    ] = None,
    res: Res = "640x360",
    seconds: Annotated[float, typer.Option(help="Time measured for each row.")] = 3.0,
    threads: Annotated[int | None, typer.Option(help="Processor threads and cores. Left out: all.")] = None,
    runtime: Annotated[
        list[str] | None, typer.Option(help="Only rows on this runtime; may be given several times.")
    ] = None,
    runs: Runs = RUNS,
    batch: Annotated[str, typer.Option(help="Frames in one inference; several sizes as 1,2,4,8.")] = "1",
    sweep: Annotated[bool, typer.Option("--sweep", help="Measure from 320x180 to 1920x1080.")] = False,
    stream: Annotated[
        str | None,
        typer.Option(help="Let frames arrive at these rates, such as 30,45,60; reports latency and dropped frames."),
    ] = None,
    pipelined: Annotated[
        bool, typer.Option("--pipelined", help="Streams: conversion in parallel with the network.")
    ] = False,
    data_transfers: Annotated[
        bool | None,
        typer.Option(
            help="Also rows whose pictures stay on the GPU, as with trtexec's --noDataTransfers. "
            "Left out: of engines, where there is a GPU.",
            show_default=False,
        ),
    ] = None,
    use_spin_wait: Annotated[
        bool,
        typer.Option(help="Spin while waiting for the GPU, which occupies a core, as with trtexec's --useSpinWait."),
    ] = True,
    floor: Annotated[bool, typer.Option(help="Probe the machine's limits and show times relative to floors.")] = True,
    save: Annotated[Path | None, typer.Option(help="JSONL file for every sample and the facts of the machine.")] = None,
    csv: Annotated[Path | None, typer.Option(help="CSV file for the table.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Markdown file for the table.")] = None,
    export_times: Annotated[
        Path | None,
        typer.Option(help="JSON file as trtexec's --exportTimes writes it; of several rows, one each, named after it."),
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="JSONL file of an earlier measurement.")] = None,
    fail_below: Annotated[float, typer.Option(help="With --compare: lowest speed relative to the earlier one.")] = 0.95,
    other_device: Annotated[bool, typer.Option("--other-device", help="Compare with another device.")] = False,
    budget_ms: Annotated[
        float | None, typer.Option(help="Exit with 3 unless the fastest stable row has at most this median.")
    ] = None,
    latency_table: NewTable = None,
    int8: TableInt8 = False,
    round_to: TableRounding = 8,
    as_json: Json = False,
) -> None:
    """Time artifacts on every runtime that this machine has; the first one's fastest runtime is the baseline."""
    from deblur_deploy.bench.entries import Selection
    from deblur_deploy.bench.measure import BenchConfig

    output = Output(as_json)
    config = BenchConfig(parse_resolution(res), threads, duration_ms=seconds * 1000, spin_wait=use_spin_wait)
    selection = Selection(tuple(runtime or ()), data_transfers)
    gates = Gates(compare, fail_below, other_device, budget_ms, str(config.resolution))
    files = BenchFiles(save, csv, markdown, export_times)
    table = TableOptions(latency_table, int8, round_to, res, runtime or ())
    others = (threads, data_transfers, stream, compare, budget_ms)
    is_other = sweep or batch != "1" or any(option is not None for option in others)
    table.check(is_other or files != BenchFiles(None, None, None, None))
    if latency_table is not None:
        make_table(output, sources or (), runs, table)
        return
    files.check()
    gates.check_baseline(threads, output)
    _refuse_budget_of_no_row(gates, sweep, batch)
    _check_stream(stream, pipelined, sweep or batch != "1" or data_transfers is False, gates)
    with TemporaryDirectory() as workspace:
        contenders = _contenders(sources or (), runs, Path(workspace), output)
        if stream is not None:
            entries = _entries(contenders, Selection(selection.runtimes))
            run_streams(entries, config, _numbers(stream, "--stream"), files, output, pipelined=pipelined)
            return
        if sweep:
            report = _sweep(contenders, config, selection, Path(workspace), output)
        else:
            report = _batches(_entries(contenders, selection), config, batch, output)
        if floor and not report.interrupted:
            report = _with_floors(report, config, output)
    _finish(report, files, gates, sweep, output)


def _finish(report: BenchReport, files: BenchFiles, gates: Gates, sweep: bool, output: Output) -> None:
    """Print, write, then judge: a missed gate does not lose the measurement."""
    print_rows(output, report)
    result = report.as_json()
    if sweep:
        result["scaling"] = print_laws(output, report)
    files.write(report, output)
    if report.interrupted:
        output.emit(result)
        raise KeyboardInterrupt
    missed = gates.judge(report, output, result)
    output.emit(result)
    if missed:
        raise missed


def _contenders(sources: Sequence[str], runs: Path, workspace: Path, output: Output) -> list[Contender]:
    """What to measure, said to the user with the reason."""
    from deblur_deploy.bench.entries import load_contender

    if sources:
        found, reason = [load_contender(source, workspace) for source in sources], "named on the command line"
    else:
        chain, reason = newest_chain(runs)
        found = [(artifact, None) for artifact in chain]
    for artifact, label in found:
        output.say(f"source    {label or artifact.directory} ({describe(artifact)}; {reason})")
    return found


def _entries(contenders: Sequence[Contender], selection: Selection) -> list[BenchEntry]:
    """Every contender on every runtime for it, or on those that were chosen."""
    from deblur_deploy.bench.entries import entries_of

    _check_runtimes(selection.runtimes)
    return [entry for artifact, label in contenders for entry in entries_of(artifact, label, selection)]


def _check_runtimes(runtimes: Collection[str]) -> None:
    from deblur_deploy.runtime.runtimes import find_runtime

    for name in runtimes:
        find_runtime(name)


def _batches(entries: Sequence[BenchEntry], config: BenchConfig, batch: str, output: Output) -> BenchReport:
    from deblur_deploy.bench.sweep import measure_batches

    size, sizes = config.resolution, [int(number) for number in _numbers(batch, "--batch")]
    output.say(f"input     {batch}x3x{size.height}x{size.width} (NCHW), {len(entries)} rows")
    with output.waiting("measuring") as tick:
        return measure_batches(entries, config, sizes, lambda entry, window: tick(f"{entry.runtime}, window {window}"))


def _sweep(
    contenders: Sequence[Contender], config: BenchConfig, selection: Selection, workspace: Path, output: Output
) -> BenchReport:
    from deblur_deploy.bench.sweep import SWEEP, measure_sweep

    _check_runtimes(selection.runtimes)
    output.say(f"input     {', '.join(map(str, SWEEP))}")
    with output.waiting("measuring") as tick:
        return measure_sweep(
            contenders,
            config,
            workspace,
            selection,
            lambda entry, window: tick(f"{entry.runtime}, window {window}"),
        )


def _with_floors(report: BenchReport, config: BenchConfig, output: Output) -> BenchReport:
    from deblur_deploy.bench.limits import add_floors

    try:
        with output.waiting("probing the machine's limits"):
            report = add_floors(report, config)
    except KeyboardInterrupt:  # what was measured is still written
        return dataclasses.replace(report, interrupted=True)
    except (DeblurDeployError, OSError, ImportError, RuntimeError, MemoryError) as err:
        output.say(f"floor     skipped: the machine's limits could not be probed: {err}")
        return report
    print_ceilings(output, report)
    return report


def _numbers(text: str, option: str) -> list[float]:
    """The numbers of an option such as ``1,2,4``."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as err:
        raise ConfigError(f"{option} is {text!r}", hint="give numbers with commas between them, such as 1,2,4") from err
    if not all(map(math.isfinite, numbers)):
        raise ConfigError(f"{option} is {text!r}", hint="give finite numbers, such as 1,2,4")
    if option == "--batch" and any(number != int(number) for number in numbers):
        raise ConfigError(f"{option} is {text!r}", hint="give whole numbers, such as 1,2,4")
    return numbers


def _check_stream(stream: str | None, pipelined: bool, others: bool, gates: Gates) -> None:
    """A stream has rows of its own kind; nothing else can be combined with it."""
    if stream is None and pipelined:
        raise ConfigError("--pipelined is for streams", hint="give --stream 30 as well")
    if stream is not None and (others or gates.baseline is not None or gates.budget_ms is not None):
        raise ConfigError(
            "--stream is a measurement of its own",
            hint="leave out --sweep, --batch, --compare, --budget-ms and --no-data-transfers",
        )


def _refuse_budget_of_no_row(gates: Gates, sweep: bool, batch: str) -> None:
    """A budget is for one frame of the size of ``--res``, which has to be among what is measured."""
    from deblur_deploy.bench.sweep import SWEEP

    is_measured = gates.res in map(str, SWEEP) if sweep else 1 in _numbers(batch, "--batch")
    if gates.budget_ms is not None and not is_measured:
        raise ConfigError(
            f"--budget-ms is for one frame of {gates.res}, which is not measured",
            hint="give a --res of the sweep, or a --batch that begins with 1",
        )


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
