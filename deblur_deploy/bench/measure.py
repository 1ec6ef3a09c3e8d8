"""Timing artifacts side by side, in the way of trtexec.

Each artifact is warmed up for 200 ms and then timed for 3 s and at least 10 inferences. Where trtexec times one
engine at a time, here the time is cut into windows and the windows of all artifacts take turns, A B C A B C …, so
that a machine that slows down slows all of them alike. Windows go on until the last three of every artifact agree
within 10 %, or until the limit; figures are of the last three, and say whether they agree.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.artifact import Artifact
from deblur_deploy.bench.device import device_facts, usable_cores
from deblur_deploy.bench.samples import Latency, is_stable, median_ratio_interval, summarize
from deblur_deploy.errors import ArtifactError, ConfigError, DeblurDeployError
from deblur_deploy.images import ImageSpec, Resolution, to_frames
from deblur_deploy.runtime.runner import Runner, measurable_runtimes, open_runner, reason_unavailable


@dataclass(frozen=True)
class BenchConfig:
    """How long to measure, and on what.

    Args:
        resolution: Size of the frame.
        threads: Processor threads for every runtime; None takes all cores that the process may use.
        warmup_ms: Time of untimed inferences before the first window.
        duration_ms: Time measured for each artifact, over the windows that count.
        min_iterations: Least number of inferences in those windows.
        windows: How many windows in a row count, and must agree.
        max_windows: When to stop waiting for agreement.
        tolerance: How far the medians of these windows may be from their mean, as a share of it.
    """

    resolution: Resolution = field(default=Resolution(640, 360))
    threads: int | None = None
    warmup_ms: float = 200.0
    duration_ms: float = 3000.0
    min_iterations: int = 10
    windows: int = 3
    max_windows: int = 6
    tolerance: float = 0.10

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads is {self.threads}", hint="give 1 or more, or leave it out for all cores")
        if min(self.warmup_ms, self.duration_ms) < 0 or self.min_iterations < 1:
            raise ConfigError("a time to measure is negative, or no iteration is asked for", hint="try the defaults")
        if not 1 <= self.windows <= self.max_windows:
            raise ConfigError(
                f"windows is {self.windows} and max_windows {self.max_windows}", hint="give 1 <= windows <= max_windows"
            )


@dataclass(frozen=True)
class BenchEntry:
    """One row to measure: an artifact on a runtime."""

    artifact: Artifact
    runtime: str


OnWindow = Callable[[BenchEntry, int], None]
"""Called after each window with the entry and the number of windows that it has had."""


@dataclass(frozen=True)
class BenchRow:
    """What was measured of one entry.

    Args:
        artifact: Directory of the artifact.
        sha256: Hash of its payload.
        runtime: What it ran on.
        res: Size of the frame, WIDTHxHEIGHT.
        latency_ms: Time of one inference, input and output in host memory; None where nothing was measured.
        throughput_fps: Inferences per second, one after the other.
        ratio: Median of the baseline over this median: above 1 is faster.
        ratio_ci: 95 % interval of the ratio.
        stable: Whether the windows agree.
        skipped: Why nothing was measured, or None.
        windows_ms: Every time of one inference, by window, counted or not.
    """

    artifact: str
    sha256: str
    runtime: str
    res: str
    latency_ms: Latency | None
    throughput_fps: float | None
    ratio: float | None
    ratio_ci: tuple[float, float] | None
    stable: bool
    skipped: str | None
    windows_ms: tuple[tuple[float, ...], ...]

    def as_json(self) -> dict[str, Any]:
        """The row for ``--json``, without raw samples."""
        plain = dataclasses.asdict(self)
        return {key: value for key, value in plain.items() if key not in ("sha256", "windows_ms")}


@dataclass(frozen=True)
class BenchReport:
    """A finished measurement.

    Args:
        device: The machine, its libraries, thread count, and the hashes of the artifacts.
        rows: One for each entry, in the order given; the first is the baseline.
        interrupted: Whether Ctrl-C ended it early.
    """

    device: dict[str, Any]
    rows: tuple[BenchRow, ...]
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        baseline = {"artifact": self.rows[0].artifact, "runtime": self.rows[0].runtime}
        return {"device": self.device, "baseline": baseline, "results": [row.as_json() for row in self.rows]}


def all_entries(artifacts: Iterable[Artifact]) -> list[BenchEntry]:
    """Every artifact on the runtimes to measure it on, installed or not: what is missing becomes a row that says so."""
    return [BenchEntry(artifact, runtime) for artifact in artifacts for runtime in measurable_runtimes(artifact)]


def measure(entries: Sequence[BenchEntry], config: BenchConfig, on_window: OnWindow | None = None) -> BenchReport:
    """Time every entry on the same random frame.

    All entries are loaded at once, for they take turns. An entry that cannot run, or fails on the way, becomes a
    row that says why, and Ctrl-C ends the measurement with what there is.

    Args:
        entries: At least one; the first is the baseline of all ratios.
        config: How long, on what.
        on_window: For showing progress.

    Raises:
        ConfigError: There are no entries, or one names a runtime that does not exist.
    """
    if not entries:
        raise ConfigError("there is nothing to measure", hint="give at least one artifact")
    config = dataclasses.replace(config, threads=config.threads or usable_cores())
    contenders = [_Contender(entry, reason_unavailable(entry.artifact, entry.runtime)) for entry in entries]
    interrupted = False
    with ExitStack() as stack:
        try:
            for contender in contenders:
                contender.load(stack, config)
            _take_turns(contenders, config, on_window)
        except KeyboardInterrupt:
            interrupted = True
    hashes = {str(entry.artifact.directory): entry.artifact.sha256 for entry in entries}
    device = device_facts() | {"threads": config.threads, "artifacts": hashes}
    rows = [_row(contender, contenders[0], config) for contender in contenders]
    return BenchReport(device, tuple(rows), interrupted)


def write_jsonl(report: BenchReport, path: Path) -> None:
    """Write one line for each row, with every sample and the facts of the machine.

    Raises:
        ArtifactError: The file cannot be written.
    """
    baseline = report.as_json()["baseline"]
    lines = [
        json.dumps({**dataclasses.asdict(row), "baseline": baseline, "device": report.device}) for row in report.rows
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as err:
        raise ArtifactError(f"{path} cannot be written: {err}", hint="check permissions and free space") from err


@dataclass
class _Contender:
    """An entry while it is being measured."""

    entry: BenchEntry
    skipped: str | None
    runner: Runner | None = None
    windows_ms: list[list[float]] = field(default_factory=list)

    def load(self, stack: ExitStack, config: BenchConfig) -> None:
        """Open the runner, which the stack will close, and warm it up."""
        if self.skipped:
            return
        try:
            self.runner = stack.enter_context(open_runner(self.entry.artifact, self.entry.runtime, config.threads))
            frame, end = (
                _frame(config.resolution, self.entry.artifact.image),
                time.perf_counter() + config.warmup_ms / 1000,
            )
            self.runner.infer(frame)
            while time.perf_counter() < end:
                self.runner.infer(frame)
        except DeblurDeployError as err:
            self.give_up(err)

    def measure_window(self, config: BenchConfig) -> None:
        """One turn: an equal share of the time and of the least number of inferences."""
        assert self.runner is not None
        frame = _frame(config.resolution, self.entry.artifact.image)
        window: list[float] = []
        self.windows_ms.append(window)
        iterations = math.ceil(config.min_iterations / config.windows)
        try:
            self.runner.infer(frame)  # untimed: after another runtime's turn, caches are cold and threads asleep
            end = time.perf_counter() + config.duration_ms / config.windows / 1000
            while len(window) < iterations or time.perf_counter() < end:
                before = time.perf_counter()
                self.runner.infer(frame)
                window.append((time.perf_counter() - before) * 1000)
        except DeblurDeployError as err:
            self.give_up(err)

    def give_up(self, err: DeblurDeployError) -> None:
        """Leave the measurement; what was measured before a failure is no figure of a working network."""
        self.skipped = f"{err.message}; {err.hint}"
        self.runner = None
        self.windows_ms.clear()

    def counted(self, config: BenchConfig) -> list[float]:
        """The samples that figures are made of: those of the last windows."""
        return list(chain.from_iterable(self.windows_ms[-config.windows :]))

    def is_stable(self, config: BenchConfig) -> bool:
        """Whether the last windows agree."""
        return is_stable(self.windows_ms, config.windows, config.tolerance)


def _take_turns(contenders: list[_Contender], config: BenchConfig, on_window: OnWindow | None) -> None:
    """Window after window, each contender in its turn."""
    for done in range(1, config.max_windows + 1):
        for contender in contenders:
            if contender.runner is None:
                continue
            contender.measure_window(config)
            if on_window:
                on_window(contender.entry, done)
        if all(contender.runner is None or contender.is_stable(config) for contender in contenders):
            return


def _frame(resolution: Resolution, image: ImageSpec) -> NDArray[Any]:
    """A random picture in the form that the network takes, the same in every run."""
    rng = np.random.default_rng(0)
    batch = rng.random((1, 3, resolution.height, resolution.width), dtype=np.float32)
    return to_frames(batch) if image.dtype == "uint8" else batch


def _row(contender: _Contender, baseline: _Contender, config: BenchConfig) -> BenchRow:
    """Figures of one contender, against the baseline where both were measured."""
    samples, reference = contender.counted(config), baseline.counted(config)
    latency = summarize(samples) if samples else None
    ratio = summarize(reference).median / latency.median if latency and reference else None
    ratio_ci = median_ratio_interval(reference, samples) if ratio is not None else None
    if contender is baseline and ratio is not None:
        ratio_ci = (1.0, 1.0)
    skipped = contender.skipped
    if latency is None and skipped is None:
        skipped = "interrupted before it was measured"
    artifact = contender.entry.artifact
    return BenchRow(
        artifact=str(artifact.directory),
        sha256=artifact.sha256,
        runtime=contender.entry.runtime,
        res=str(config.resolution),
        latency_ms=latency,
        throughput_fps=1000 * len(samples) / sum(samples) if samples else None,
        ratio=ratio,
        ratio_ci=ratio_ci,
        stable=contender.is_stable(config),
        skipped=skipped,
        windows_ms=tuple(map(tuple, contender.windows_ms)),
    )
