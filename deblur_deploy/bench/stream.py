"""Frames that arrive at a fixed rate, as from a camera: how late each is restored, and how many are lost.

A frame is 8-bit RGB when it arrives and when it is done, so that conversion counts. With one in flight, whatever
arrives while a frame is being restored is dropped. Pipelined, the conversion before, the network, and the conversion
after work on three frames at once, each with one frame waiting before it; a frame that finds the first place taken is
dropped.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Full, Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.bench.entries import BenchEntry, failure_text
from deblur_deploy.bench.samples import Latency, summarize
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution, from_batch, to_batch
from deblur_deploy.core.threads import default_threads, pinned
from deblur_deploy.runtime.runner import Runner, open_with, reason_unavailable, takes_film
from deblur_deploy.runtime.runtimes import OpenOptions

_SPIN_S = 0.001
"""The last part of a wait is spent awake, because a sleep may last longer than requested."""


@dataclass(frozen=True)
class StreamConfig:
    """A stream of frames.

    Args:
        fps: Frames that arrive in a second.
        seconds: How long they arrive.
        pipelined: Whether conversion and network work on different frames at the same time.
        resolution: Size of the frames.
        threads: Processor threads; None takes all that the process may use.
        warmup: Frames before the first that counts.
        spin_wait: Whether the host busy-waits for a GPU or sleeps.
    """

    fps: float
    seconds: float = 3.0
    pipelined: bool = False
    resolution: Resolution = field(default=Resolution(640, 360))
    threads: int | None = None
    warmup: int = 3
    spin_wait: bool = True

    def __post_init__(self) -> None:
        if not (0 < self.fps < math.inf and 0 <= self.seconds < math.inf):
            raise ConfigError(
                f"a stream of {self.fps:g} fps for {self.seconds:g} s has no frames",
                hint="give positive numbers, such as 30",
            )


@dataclass(frozen=True)
class StreamRow:
    """How one artifact on one runtime kept up with a stream.

    Args:
        artifact: What the row is called.
        sha256: Hash of the payload.
        runtime: What it ran on.
        res: Size of the frames.
        stream_fps: Rate at which frames arrived.
        pipelined: Whether stages worked at the same time.
        frames: Frames that arrived.
        dropped: Frames that were never restored.
        latency_ms: From arrival to the restored 8-bit frame; None where no frame was restored.
        skipped: Why nothing was measured, or None.
        samples_ms: Every latency, in the order of arrival.
        settings: Of engines and PyTorch on a GPU, ``cuda_graph`` and ``spin_wait``.
    """

    artifact: str
    sha256: str
    runtime: str
    res: str
    stream_fps: float
    pipelined: bool
    frames: int = 0
    dropped: int = 0
    latency_ms: Latency | None = None
    skipped: str | None = None
    samples_ms: tuple[float, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """Plain data with every sample."""
        return dataclasses.asdict(self)

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {key: value for key, value in self.as_record().items() if key not in ("sha256", "samples_ms")}


Frame = NDArray[np.uint8]
Step = Callable[[Any], Any]


def measure_stream(entry: BenchEntry, config: StreamConfig) -> StreamRow:
    """Let frames arrive and restore them.

    Args:
        entry: What restores them; where it cannot run or fails on the way, the row says why.
        config: The stream.
    """
    row = StreamRow(
        entry.name, entry.artifact.sha256, entry.runtime, str(config.resolution), config.fps, config.pipelined
    )
    if reason := entry.unavailable or reason_unavailable(entry.artifact, entry.runtime):
        return dataclasses.replace(row, skipped=reason)
    threads = config.threads or default_threads()
    size = (config.resolution.height, config.resolution.width, 3)
    frame: Frame = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    options = OpenOptions(threads, spin_wait=config.spin_wait, temporal=takes_film(entry.artifact))
    arrivals = [index / config.fps for index in range(max(1, round(config.fps * config.seconds)))]
    try:
        with (
            pinned(threads),
            open_with(entry.artifact, entry.runtime, options) as runner,
        ):
            settings = getattr(runner, "settings", {})
            steps = _steps(runner)
            for _ in range(config.warmup):
                play_one_in_flight(steps, frame, [0.0])
            play = play_pipelined if config.pipelined else play_one_in_flight
            latencies = play(steps, frame, arrivals)
    except entry.failures as err:
        return dataclasses.replace(row, skipped=failure_text(err))
    return dataclasses.replace(
        row,
        frames=len(arrivals),
        dropped=len(arrivals) - len(latencies),
        latency_ms=summarize(latencies) if latencies else None,
        samples_ms=tuple(latencies),
        settings=settings,
    )


def _steps(runner: Runner) -> tuple[Step, ...]:
    """From a camera's frame to a restored one; a network of frames takes it as it is."""
    if runner.image.dtype == "uint8":
        return (lambda frame: frame[np.newaxis], runner.infer, lambda frames: frames[0])
    return (to_batch, runner.infer, from_batch)


def play_one_in_flight(steps: Sequence[Step], frame: Any, arrivals: Sequence[float]) -> list[float]:
    """Take a frame, do every step, then take the next that arrives; what arrived meanwhile is dropped.

    Args:
        steps: Each takes what the one before gives.
        frame: What arrives.
        arrivals: When, in seconds after the start, in order.

    Returns:
        Milliseconds from arrival to the end of the last step, for each frame that was not dropped.
    """
    latencies, begin, done = [], time.perf_counter(), 0.0
    for arrival in arrivals:
        if arrival < done:
            continue
        _wait_until(begin + arrival)
        value = frame
        for step in steps:
            value = step(value)
        done = time.perf_counter() - begin
        latencies.append((done - arrival) * 1000)
    return latencies


def play_pipelined(steps: Sequence[Step], frame: Any, arrivals: Sequence[float]) -> list[float]:
    """Every step in a separate thread, one frame waiting before each; arguments and result as with one in flight."""
    queues: list[Queue[Any]] = [Queue(maxsize=1) for _ in steps]
    finished: Queue[Any] = Queue()
    with ThreadPoolExecutor(len(steps)) as pool:
        stages = [
            pool.submit(_run_stage, step, source, target)
            for step, source, target in zip(steps, queues, [*queues[1:], finished], strict=True)
        ]
        begin = time.perf_counter()
        try:
            for arrival in arrivals:
                _wait_until(begin + arrival)
                try:
                    queues[0].put_nowait((arrival, frame))
                except Full:
                    continue
        finally:
            queues[0].put(None)
    for stage in stages:
        stage.result()
    ends = iter(finished.get_nowait, None)
    return [(end - begin - arrival) * 1000 for arrival, _, end in ends]


def _run_stage(step: Step, source: Queue[Any], target: Queue[Any]) -> None:
    """Do a step for every frame until there are no more, and pass each on with the time at which it was done."""
    try:
        while (item := source.get()) is not None:
            arrival, value, *_ = item
            value = step(value)
            target.put((arrival, value, time.perf_counter()))
    except BaseException:
        target.put(None)
        while source.get() is not None:  # the stage before must not wait for this one
            pass
        raise
    target.put(None)


def _wait_until(moment: float) -> None:
    while (left := moment - time.perf_counter()) > 0:
        if left > _SPIN_S:
            time.sleep(left - _SPIN_S)
