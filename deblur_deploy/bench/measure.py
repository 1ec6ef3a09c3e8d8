"""Timing artifacts side by side, in the way of trtexec.

Each artifact is warmed up for 200 ms and then timed for 3 s and at least 10 inferences. Where trtexec times one
engine at a time, here the time is cut into windows and the windows of all artifacts take turns, A B C A B C …, so
that a machine that slows down slows all of them equally. Windows go on until the last three of every artifact agree
within 10 %, or until the limit; figures are of the last three, and say whether they agree.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.bench.device import GpuSensors, conditions, device_facts, gpu_sensors
from deblur_deploy.bench.entries import BenchEntry, failure_text, is_same_network
from deblur_deploy.bench.row import BenchRow
from deblur_deploy.bench.samples import is_stable, median_ratio_interval, summarize
from deblur_deploy.bench.trtexec import ResidentRunner, Sample, TimedRunner, trtexec_metrics, trtexec_warnings
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import ImageSpec, Resolution, to_frames
from deblur_deploy.core.process_memory import peak_resident_bytes, reset_peak, resident_bytes
from deblur_deploy.core.threads import default_threads, pinned
from deblur_deploy.runtime.runner import Runner, open_with, reason_unavailable, takes_film
from deblur_deploy.runtime.runtimes import RUNTIMES, OpenOptions

_SETTINGS = ("torch", "provider", "cuda_graph")
"""What the table of runtimes says of how a network is run; the rest says what it needs."""


@dataclass(frozen=True)
class BenchConfig:
    """How long to measure, and on what.

    Args:
        resolution: Size of the frame.
        threads: Processor threads for every runtime, and cores that the process is pinned to; None takes one for
            each core that the process may use.
        batch: Frames in one inference.
        warmup_ms: Time of untimed inferences before the first window.
        duration_ms: Time measured for each artifact, over the windows that count.
        min_iterations: Least number of inferences in those windows.
        windows: How many windows in a row count, and must agree.
        max_windows: When to stop waiting for agreement.
        tolerance: How far the medians of these windows may be from their mean, as a share of it.
        spin_wait: Whether the host busy-waits for a GPU, as with ``trtexec --useSpinWait``, or sleeps.
    """

    resolution: Resolution = field(default=Resolution(640, 360))
    threads: int | None = None
    batch: int = 1
    warmup_ms: float = 200.0
    duration_ms: float = 3000.0
    min_iterations: int = 10
    windows: int = 3
    max_windows: int = 6
    tolerance: float = 0.10
    spin_wait: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads is {self.threads}", hint="give 1 or more, or leave it out for all cores")
        if self.batch < 1:
            raise ConfigError(f"batch is {self.batch}", hint="give 1 frame or more")
        times = (self.warmup_ms, self.duration_ms)
        if not all(0 <= ms < math.inf for ms in times) or self.min_iterations < 1:
            raise ConfigError(
                "a time to measure is negative or infinite, or there are no iterations", hint="try the defaults"
            )
        if not 1 <= self.windows <= self.max_windows:
            raise ConfigError(
                f"windows is {self.windows} and max_windows {self.max_windows}", hint="give 1 <= windows <= max_windows"
            )


OnWindow = Callable[[BenchEntry, int], None]
"""Called after each window with the entry and the number of windows that it has had."""


@dataclass(frozen=True)
class BenchReport:
    """A finished measurement.

    Args:
        device: The machine, its libraries, thread count, and the hashes of the artifacts.
        rows: One for each entry, in the order given; the first is the baseline.
        interrupted: Whether Ctrl-C ended it early.
        entries: What the rows are of, in the same order.
    """

    device: dict[str, Any]
    rows: tuple[BenchRow, ...]
    interrupted: bool = False
    entries: tuple[BenchEntry, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        chosen = next((row for row in self.rows if row.is_baseline), self.rows[0])
        baseline = {"artifact": chosen.artifact, "runtime": chosen.runtime}
        return {"device": self.device, "baseline": baseline, "results": [row.as_json() for row in self.rows]}


def measure(entries: Sequence[BenchEntry], config: BenchConfig, on_window: OnWindow | None = None) -> BenchReport:
    """Time every entry on the same random frame.

    All entries are loaded at once, because they take turns. An entry that cannot run, or fails on the way, becomes a
    row that says why. Ctrl-C ends the measurement and keeps what there is.

    Args:
        entries: At least one. The baseline of all ratios is the network of the first on the runtime on which it was
            fastest, its ONNX files among them.
        config: How long, on what.
        on_window: For showing progress.

    Raises:
        ConfigError: There are no entries, or one names a runtime that does not exist.
    """
    if not entries:
        raise ConfigError("there is nothing to measure", hint="give at least one artifact")
    config = dataclasses.replace(config, threads=config.threads or default_threads())
    contenders = [
        _Contender(entry, entry.unavailable or reason_unavailable(entry.artifact, entry.runtime)) for entry in entries
    ]
    device, interrupted = device_facts(), False
    with ExitStack() as stack:
        gpu = stack.enter_context(gpu_sensors())
        cores = stack.enter_context(pinned(config.threads or 1))
        before = conditions(gpu)
        try:
            for contender in contenders:
                contender.load(stack, config, gpu)
            _take_turns(contenders, config, on_window, gpu)
        except KeyboardInterrupt:
            interrupted = True
        device |= {
            "threads": config.threads,
            "pinned_to": cores,
            "before": before,
            "after": conditions(gpu),
            "artifacts": {entry.name: entry.artifact.sha256 for entry in entries},
        }
    baseline = _find_baseline(contenders, config)
    rows = [_row(contender, baseline, config) for contender in contenders]
    return BenchReport(device, tuple(rows), interrupted, tuple(entries))


@dataclass
class _Contender:
    """An entry while it is being measured."""

    entry: BenchEntry
    skipped: str | None
    runner: Runner | None = None
    windows: list[list[Sample]] = field(default_factory=list)
    memory_mib: dict[str, float] = field(default_factory=dict)
    joules: list[float] = field(default_factory=list)

    def load(self, stack: ExitStack, config: BenchConfig, gpu: GpuSensors | None) -> None:
        """Open the runner, which the stack will close, and warm it up."""
        if self.skipped:
            return
        host_before, device_before = resident_bytes(), gpu.used_bytes() if gpu else None
        can_tell = reset_peak()
        try:
            entry = self.entry
            options = OpenOptions(config.threads, config.batch, config.spin_wait, takes_film(entry.artifact))
            self.runner = stack.enter_context(open_with(entry.artifact, entry.runtime, options))
            frame, end = _frame(config, entry.artifact.image), time.perf_counter() + config.warmup_ms / 1000
            self.runner.infer(frame)  # where pictures stay on the device, they are there from now on
            while time.perf_counter() < end:
                self._time_one(frame)
        except self.entry.failures as err:
            self.give_up(err)
            return
        peak = peak_resident_bytes()
        if can_tell and host_before is not None and peak is not None:
            self.memory_mib["host"] = max(peak - host_before, 0) / 2**20
        used = gpu.used_bytes() if gpu else None
        if used is not None and device_before is not None:
            self.memory_mib["device"] = max(used - device_before, 0) / 2**20

    def measure_window(self, config: BenchConfig, gpu: GpuSensors | None) -> None:
        """One turn: an equal share of the time and of the least number of inferences."""
        frame = _frame(config, self.entry.artifact.image)
        window: list[Sample] = []
        self.windows.append(window)
        iterations = math.ceil(config.min_iterations / config.windows)
        try:
            self._time_one(frame)  # not counted: after another runtime's turn, caches are cold and threads asleep
            joules_before = gpu.energy_joules() if gpu else None
            end = time.perf_counter() + config.duration_ms / config.windows / 1000
            while len(window) < iterations or time.perf_counter() < end:
                window.append(self._time_one(frame))
            joules = gpu.energy_joules() if gpu else None
            if joules is not None and joules_before is not None:
                self.joules.append((joules - joules_before) / (len(window) * config.batch))
        except self.entry.failures as err:
            self.give_up(err)

    def _time_one(self, frame: NDArray[Any]) -> Sample:
        assert self.runner is not None
        before, timings = time.perf_counter(), None
        if not self.entry.transfers:
            assert isinstance(self.runner, ResidentRunner)
            timings = self.runner.compute_again()
        elif isinstance(self.runner, TimedRunner):
            _, timings = self.runner.infer_timed(frame)
        else:
            self.runner.infer(frame)
        return Sample(before * 1000, (time.perf_counter() - before) * 1000, timings)

    def give_up(self, err: Exception) -> None:
        """Drop out of the measurement; times before a failure are not figures of a working network."""
        self.skipped = failure_text(err)
        self.runner = None
        self.windows.clear()

    def windows_ms(self) -> tuple[tuple[float, ...], ...]:
        """Wall time of every inference, by window."""
        return tuple(tuple(sample.wall_ms for sample in window) for window in self.windows)

    def counted(self, config: BenchConfig) -> list[Sample]:
        """The samples that figures are made of: those of the last windows."""
        return list(chain.from_iterable(self.windows[-config.windows :]))

    def median_ms(self, config: BenchConfig) -> float:
        """Median wall time of the samples that count, of which there is at least one."""
        return summarize([sample.wall_ms for sample in self.counted(config)]).median

    def is_stable(self, config: BenchConfig) -> bool:
        """Whether the last windows agree."""
        return is_stable(self.windows_ms(), config.windows, config.tolerance)


def _take_turns(
    contenders: list[_Contender], config: BenchConfig, on_window: OnWindow | None, gpu: GpuSensors | None
) -> None:
    """Window after window, each contender in its turn."""
    for done in range(1, config.max_windows + 1):
        for contender in contenders:
            if contender.runner is None:
                continue
            contender.measure_window(config, gpu)
            if on_window:
                on_window(contender.entry, done)
        if all(contender.runner is None or contender.is_stable(config) for contender in contenders):
            return


def _frame(config: BenchConfig, image: ImageSpec) -> NDArray[Any]:
    """Random pictures in the form that the network takes, the same in every run."""
    rng = np.random.default_rng(0)
    size = config.resolution
    batch = rng.random((config.batch, 3, size.height, size.width), dtype=np.float32)
    return to_frames(batch) if image.dtype == "uint8" else batch


def _settings(contender: _Contender) -> dict[str, Any]:
    """How the runtime runs a network, according to the table of runtimes and to the runner."""
    known = RUNTIMES[contender.entry.runtime]
    settings = {name: value for name, value in dataclasses.asdict(known).items() if name in _SETTINGS and value}
    settings |= {"transfers": contender.entry.transfers} if known.needs_gpu else {}
    return settings | getattr(contender.runner, "settings", {})


def _find_baseline(contenders: Sequence[_Contender], config: BenchConfig) -> _Contender:
    """The fastest of those that run the first one's network as it is; the first where none was measured."""
    first = contenders[0]
    originals = [
        contender
        for contender in contenders
        if contender.counted(config)
        and contender.entry.transfers == first.entry.transfers
        and is_same_network(contender.entry.artifact, first.entry.artifact)
    ]
    return min(originals, key=lambda contender: contender.median_ms(config), default=first)


def _row(contender: _Contender, baseline: _Contender, config: BenchConfig) -> BenchRow:
    """Figures of one contender, against the baseline where both were measured, and both with or without transfers."""
    samples = contender.counted(config)
    like = baseline.entry.transfers == contender.entry.transfers
    times, reference = (
        [sample.wall_ms for sample in side] for side in (samples, baseline.counted(config) if like else ())
    )
    latency = summarize(times) if times else None
    ratio = summarize(reference).median / latency.median if latency and reference else None
    ratio_ci = median_ratio_interval(reference, times) if ratio is not None else None
    is_baseline = contender is baseline and ratio is not None
    if is_baseline:
        ratio_ci = (1.0, 1.0)
    skipped = contender.skipped
    if latency is None and skipped is None:
        skipped = "interrupted before it was measured"
    return BenchRow(
        artifact=contender.entry.name,
        sha256=contender.entry.artifact.sha256,
        runtime=contender.entry.runtime,
        res=str(config.resolution),
        latency_ms=latency,
        throughput_fps=1000 * config.batch * len(times) / sum(times) if sum(times) else None,
        ratio=ratio,
        ratio_ci=ratio_ci,
        stable=contender.is_stable(config),
        skipped=skipped,
        windows_ms=contender.windows_ms(),
        batch=config.batch,
        is_baseline=is_baseline,
        memory_mib=contender.memory_mib if latency else {},
        joules_per_frame=statistics.fmean(contender.joules) if latency and contender.joules else None,
        metrics=trtexec_metrics(samples, sum(times)) if samples else {},
        warnings=(*trtexec_warnings(samples), *contender.entry.cautions) if samples else (),
        settings=_settings(contender),
        samples=tuple(samples),
    )
