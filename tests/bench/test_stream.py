"""Streams: what is dropped and how late the rest is, where the time of every step is known."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from deblur_deploy.bench import stream as stream_module
from deblur_deploy.bench.entries import BenchEntry
from deblur_deploy.bench.stream import StreamConfig, measure_stream, play_one_in_flight, play_pipelined
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError, DeblurDeployError
from deblur_deploy.core.images import Resolution


class Clock:
    """Time that passes only in sleeps and in steps."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        self.now += 1e-9  # so that a wait that spins comes to an end
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + 0.0009  # sleeps last longer than they were told to


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stream_module, "time", SimpleNamespace(perf_counter=clock.perf_counter, sleep=clock.sleep))
    monkeypatch.setattr(stream_module, "_SPIN_S", 0.001)
    return clock


@pytest.mark.parametrize(
    ("fps", "step_ms", "restored"),
    [
        (30, 20, 30),  # a frame every 33 ms: all
        (30, 50, 15),  # every other one is missed
        (60, 50, 15),  # three of four
        (45, 1500, 1),
    ],
)
def test_with_one_in_flight_what_arrives_meanwhile_is_dropped(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, fps: int, step_ms: float, restored: int
) -> None:
    def wait(moment: float) -> None:
        clock.now = max(clock.now, moment)

    monkeypatch.setattr(stream_module, "_wait_until", wait)

    def step(frame: str) -> str:
        clock.now += step_ms / 2000
        return frame

    latencies = play_one_in_flight([step, step], "frame", [index / fps for index in range(fps)])
    assert len(latencies) == restored
    assert latencies == pytest.approx([step_ms] * restored, abs=0.01)


def test_a_wait_ends_at_its_moment_though_sleeps_are_long(clock: Clock) -> None:
    stream_module._wait_until(clock.now + 0.0105)
    assert clock.now == pytest.approx(100.0105, abs=1e-6)


def test_a_pipeline_keeps_up_where_one_in_flight_does_not() -> None:
    def step(frame: int) -> int:
        time.sleep(0.03)
        return frame + 1

    arrivals = [index * 0.06 for index in range(10)]
    assert len(play_one_in_flight([step] * 3, 0, arrivals)) <= 5
    latencies = play_pipelined([step] * 3, 0, arrivals)
    assert len(latencies) >= 7  # a busy machine may miss some
    assert min(latencies) >= 90


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_stage_that_fails_ends_the_pipeline(failing: int) -> None:
    def fail(frame: int) -> int:
        raise DeblurDeployError("the runtime gave up", hint="try a smaller picture")

    steps = [lambda frame: frame] * 3
    steps[failing] = fail
    with pytest.raises(DeblurDeployError, match="gave up"):
        play_pipelined(steps, 0, [0.0] * 20)


@pytest.mark.parametrize("pipelined", [False, True])
def test_a_network_restores_a_stream(tiny_checkpoint: Artifact, pipelined: bool) -> None:
    config = StreamConfig(fps=20, seconds=0.5, pipelined=pipelined, resolution=Resolution(32, 16), threads=1)
    row = measure_stream(BenchEntry(tiny_checkpoint, "torch"), config)
    assert row.skipped is None
    assert row.frames == 10
    assert row.dropped == 10 - len(row.samples_ms) < 10
    assert row.latency_ms is not None
    assert 0 < row.latency_ms.median <= row.latency_ms.p99
    assert row.as_json().keys() >= {"stream_fps", "dropped", "latency_ms", "pipelined"}


def test_what_cannot_run_says_why(tiny_checkpoint: Artifact, tiny_graph: Artifact) -> None:
    row = measure_stream(BenchEntry(tiny_checkpoint, "onnxruntime"), StreamConfig(30))
    assert "onnxruntime runs artifacts of kind onnx" in (row.skipped or "")
    row = measure_stream(BenchEntry(tiny_graph, "onnxruntime"), StreamConfig(30, resolution=Resolution(64, 64)))
    assert "exported for 32x16" in (row.skipped or "")


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"fps": -30}, {"fps": 30, "seconds": -1}])
def test_a_stream_needs_a_rate(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        StreamConfig(**wrong)
