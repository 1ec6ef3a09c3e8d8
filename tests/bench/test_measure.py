"""The harness: known sleeps, turns taken in order, and rows for what cannot run or breaks on the way."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Self
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.bench import measure as measure_module
from deblur_deploy.bench.device import device_facts
from deblur_deploy.bench.entries import BenchEntry, all_entries
from deblur_deploy.bench.measure import BenchConfig, measure
from deblur_deploy.bench.records import report_records, write_jsonl
from deblur_deploy.core.artifact import Artifact, NetworkSpec, Step, new_step
from deblur_deploy.core.errors import ArtifactError, ConfigError, DeblurDeployError
from deblur_deploy.core.images import ImageSpec, Resolution
from deblur_deploy.core.threads import usable_cores
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.runtime.device_timings import DeviceTimings
from deblur_deploy.runtime.runtimes import OpenOptions

SMALL = Resolution(32, 16)
QUICK = BenchConfig(SMALL, threads=1, warmup_ms=0, duration_ms=60, min_iterations=6, max_windows=3)
"""Three windows of 20 ms and at least two inferences, whatever they show."""


class FakeRunner:
    """Does what it is told to at each inference."""

    def __init__(self, on_infer: Callable[[], None]) -> None:
        self.on_infer = on_infer
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        assert batch.shape == (1, 3, 16, 32)
        self.on_infer()
        return batch


def entry(name: str, runtime: str = "torch") -> BenchEntry:
    """Facts of an artifact that is not on disk."""
    history = (Step("import", {}, {}, None, "", {}),)
    network, image = NetworkSpec("srn", {}), ImageSpec()
    return BenchEntry(Artifact("checkpoint", Path(name) / "weights", f"sha-{name}", network, image, history), runtime)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, Callable[[], None]]], dict[str, FakeRunner]]:
    """Fake runners by name of the artifact."""

    def use(actions: Mapping[str, Callable[[], None]]) -> dict[str, FakeRunner]:
        runners = {name: FakeRunner(action) for name, action in actions.items()}
        monkeypatch.setattr(measure_module, "open_with", lambda artifact, *_: runners[artifact.directory.name])
        return runners

    return use


class Clock:
    """Time that passes only when a fake inference says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def takes(self, milliseconds: Iterator[float] | float) -> Callable[[], None]:
        def infer() -> None:
            self.now += (milliseconds if isinstance(milliseconds, float) else next(milliseconds)) / 1000

        return infer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measure_module, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def timed_sleep(seconds: float, took_ms: list[float]) -> Callable[[], None]:
    def sleep() -> None:  # on a busy machine it is longer than it was asked to be
        begin = time.perf_counter()
        time.sleep(seconds)
        took_ms.append(1000 * (time.perf_counter() - begin))

    return sleep


def test_a_sleep_of_known_length_is_measured(use: Callable) -> None:
    slow_ms: list[float] = []
    fast_ms: list[float] = []
    use({"slow": timed_sleep(0.020, slow_ms), "fast": timed_sleep(0.005, fast_ms)})
    slow, fast = measure([entry("slow"), entry("fast")], QUICK).rows
    assert slow.latency_ms is not None
    assert fast.latency_ms is not None
    for row, took_ms, asked in ((slow, slow_ms, 20), (fast, fast_ms, 5)):
        assert row.latency_ms.median >= asked
        close = [any(0 <= sample.wall_ms - ms < 1 for ms in took_ms) for sample in row.samples]
        assert sum(close) > len(close) / 2
    assert slow.throughput_fps == pytest.approx(1000 / slow.latency_ms.median, rel=0.3)
    assert fast.ratio is not None
    assert fast.ratio == pytest.approx(np.median(slow_ms) / np.median(fast_ms), rel=0.2)
    assert fast.ratio_ci is not None
    assert fast.ratio_ci[0] <= fast.ratio <= fast.ratio_ci[1]
    assert slow.ratio == 1
    assert slow.ratio_ci == (1, 1)


def test_entries_take_turns(use: Callable) -> None:
    calls: list[str] = []
    use({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")})
    windows: list[tuple[str, int]] = []
    config = BenchConfig(SMALL, warmup_ms=0, duration_ms=0, min_iterations=6, max_windows=3, tolerance=9e9)
    report = measure(
        [entry("a"), entry("b")], config, lambda e, done: windows.append((e.artifact.directory.name, done))
    )
    # One inference each to warm up, then three rounds of one untimed and two timed inferences each.
    assert "".join(calls) == "ab" + 3 * "aaabbb"
    assert windows == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3)]
    assert [[len(window) for window in row.windows_ms] for row in report.rows] == [[2, 2, 2], [2, 2, 2]]


def test_time_and_least_iterations_are_both_kept(use: Callable, clock: Clock) -> None:
    calls: list[str] = []
    runs = clock.takes(10.0)
    use({"a": lambda: (calls.append("a"), runs())})
    config = BenchConfig(SMALL, warmup_ms=200, duration_ms=3000, min_iterations=10)
    (row,) = measure([entry("a")], config).rows
    # 20 inferences of 10 ms warm up for 200 ms; each window has one untimed inference and 1000 ms, or 100 inferences.
    assert abs(len(calls) - (20 + 3 * 101)) <= 4
    assert row.stable
    assert row.latency_ms is not None
    assert row.latency_ms.median == pytest.approx(10)
    assert row.throughput_fps == pytest.approx(100)

    use({"a": clock.takes(5000.0)})
    (row,) = measure([entry("a")], config).rows
    assert [len(window) for window in row.windows_ms] == [4, 4, 4]


def test_windows_go_on_until_all_agree_and_only_the_last_count(use: Callable, clock: Clock) -> None:
    def settling() -> Iterator[float]:
        yield from [90.0] * 4  # warm-up, and one window of one untimed and two timed inferences
        while True:
            yield 30.0

    use({"steady": clock.takes(60.0), "settling": clock.takes(settling())})
    config = BenchConfig(SMALL, warmup_ms=0, duration_ms=0, min_iterations=6, max_windows=9)
    steady, settled = measure([entry("steady"), entry("settling")], config).rows
    assert len(steady.windows_ms) == len(settled.windows_ms) == 4
    assert steady.stable
    assert settled.stable
    assert settled.latency_ms is not None
    assert settled.latency_ms.p99 == pytest.approx(30)
    assert settled.ratio == pytest.approx(2)


def test_what_never_settles_is_marked(use: Callable, clock: Clock) -> None:
    lengths = iter(range(10, 1000, 10))
    use({"drifting": clock.takes(map(float, lengths))})
    config = BenchConfig(SMALL, warmup_ms=0, duration_ms=0, min_iterations=3, max_windows=5)
    (row,) = measure([entry("drifting")], config).rows
    assert len(row.windows_ms) == 5
    assert not row.stable
    assert row.latency_ms is not None


def failing_after(calls: int) -> Callable[[], None]:
    left = iter(range(calls))

    def infer() -> None:
        if next(left, None) is None:
            raise DeblurDeployError("the runtime gave up", hint="try a smaller picture")

    return infer


@pytest.mark.parametrize("calls", [0, 5])
def test_a_runner_that_fails_says_so_and_the_others_go_on(use: Callable, calls: int) -> None:
    runners = use({"good": lambda: time.sleep(0.001), "bad": failing_after(calls)})
    bad, good = measure([entry("bad"), entry("good")], QUICK).rows
    assert bad.skipped == "the runtime gave up; try a smaller picture"
    assert bad.latency_ms is bad.ratio is bad.throughput_fps is None
    assert not bad.stable
    assert good.latency_ms is not None
    assert good.skipped is None
    assert good.ratio is None  # its baseline has no figure
    assert all(runner.closed for runner in runners.values())


def exported(source: BenchEntry, name: str, stage: str = "export-onnx") -> BenchEntry:
    """An ONNX file that a stage made of an entry's network, in OpenVINO."""
    step = Step(stage, {}, {}, source.artifact.sha256, "", {})
    artifact, path = source.artifact, Path(name) / "model.onnx"
    changed = dataclasses.replace(artifact, kind="onnx", path=path, sha256=name, history=(*artifact.history, step))
    return BenchEntry(changed, "openvino")


def test_the_baseline_is_the_fastest_runtime_of_the_original(use: Callable, clock: Clock) -> None:
    eager = entry("original")
    small = exported(entry("pruned"), "small")
    entries = [eager, exported(eager, "graph"), exported(eager, "halved", "to-fp16"), small]
    times_ms = (30.0, 10.0, 6.0, 5.0)
    use({e.artifact.directory.name: clock.takes(ms) for e, ms in zip(entries, times_ms, strict=True)})
    report = measure(entries, QUICK)
    assert [row.is_baseline for row in report.rows] == [False, True, False, False]
    assert [row.ratio for row in report.rows] == pytest.approx([1 / 3, 1, 10 / 6, 2])
    assert report.rows[1].ratio_ci == (1.0, 1.0)
    assert report.as_json()["baseline"] == {"artifact": "graph", "runtime": "openvino"}


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ("onnxruntime", (True, "INT8 on a processor is for openvino")),
        ("openvino", (True, None)),
        ("openvino", (False, "no VNNI")),
        ("openvino-bf16", (False, "no VNNI")),
    ],
)
def test_an_int8_row_that_is_no_int8_says_so(
    monkeypatch: pytest.MonkeyPatch, use: Callable, clock: Clock, runtime: str, expected: tuple[bool, str | None]
) -> None:
    exact, said = expected
    monkeypatch.setattr("deblur_deploy.runtime.ov.multiplies_int8_exactly", lambda: exact)
    monkeypatch.setattr("deblur_deploy.bench.measure.reason_unavailable", lambda artifact, runtime: None)
    plain = dataclasses.replace(exported(entry("original"), "graph"), runtime=runtime)
    network = dataclasses.replace(plain.artifact.network, quantization={"format": "int8"})
    quantized = dataclasses.replace(plain, artifact=dataclasses.replace(plain.artifact, network=network))
    use({"graph": clock.takes(10.0)})
    assert plain.cautions == ()
    (row,) = measure([quantized], QUICK).rows
    assert len(row.warnings) == (said is not None)
    assert said is None or said in row.warnings[0]


def test_a_runtime_of_the_original_that_fails_is_not_the_baseline(use: Callable, clock: Clock) -> None:
    eager = entry("original")
    entries = [eager, exported(eager, "graph")]
    use({"original": clock.takes(30.0), "graph": failing_after(0)})
    report = measure(entries, QUICK)
    assert [row.is_baseline for row in report.rows] == [True, False]


def test_what_cannot_run_is_skipped_with_its_reason(use: Callable) -> None:
    use({"good": lambda: None})
    good, skipped = measure([entry("good"), entry("other", "onnxruntime")], QUICK).rows
    assert good.skipped is None
    assert skipped.skipped is not None
    assert "onnxruntime runs artifacts of kind onnx" in skipped.skipped


def test_control_c_keeps_what_was_measured(use: Callable) -> None:
    left = iter(range(3))  # the second runner is stopped in its first window

    def interrupted() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    runners = use({"a": lambda: None, "b": interrupted, "c": lambda: None})
    report = measure([entry("a"), entry("b"), entry("c")], QUICK)
    assert report.interrupted
    a, b, c = report.rows
    assert a.latency_ms is not None
    assert not a.stable
    assert b.latency_ms is not None
    assert [len(window) for window in b.windows_ms] == [1]
    assert c.skipped == "interrupted before it was measured"
    assert all(runner.closed for runner in runners.values())


class TimedFake(FakeRunner):
    """A runner that knows the times of its parts, and says how it runs."""

    def __init__(self, on_infer: Callable[[], None]) -> None:
        super().__init__(on_infer)
        self.settings = {"cuda_graph": True, "spin_wait": True}
        self.calls: list[str] = []

    def infer_timed(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], DeviceTimings]:
        self.calls.append("infer")
        return self.infer(batch), DeviceTimings((0, 1), (0, 2), (2, 9), (9, 12))

    def compute_again(self) -> DeviceTimings:
        self.calls.append("compute")
        return DeviceTimings.of_compute((0, 1), (2, 9))


def on_gpu(name: str = "a", **changed: bool) -> BenchEntry:
    return dataclasses.replace(entry(name, "torch-cuda-graph"), **changed)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[TimedFake]:
    """The runners that were opened, each with what it was told."""
    opened: list[TimedFake] = []

    def open_with(artifact: Artifact, runtime: str, options: OpenOptions) -> TimedFake:
        opened.append(TimedFake(lambda: None))
        opened[-1].settings["spin_wait"] = options.spin_wait
        return opened[-1]

    monkeypatch.setattr(measure_module, "open_with", open_with)
    monkeypatch.setattr(measure_module, "reason_unavailable", lambda *_: None)
    return opened


@pytest.mark.parametrize("spin_wait", [True, False])
def test_a_runner_that_times_its_parts_is_asked_for_them(timed: list[TimedFake], spin_wait: bool) -> None:
    (row,) = measure([on_gpu()], dataclasses.replace(QUICK, spin_wait=spin_wait)).rows
    assert row.metrics["GPU Compute Time"]["median"] == row.gpu_compute_ms == 7
    assert row.metrics["Latency"]["p99"] == 12
    assert row.settings == {"cuda_graph": True, "spin_wait": spin_wait, "transfers": True, "torch": ANY}
    assert row.warnings == ()
    assert row.latency_ms is not None
    assert row.latency_ms.median < 7  # what the host saw


def test_without_transfers_only_the_first_picture_is_copied(timed: list[TimedFake]) -> None:
    copied, resident = measure([on_gpu(), on_gpu(transfers=False)], QUICK).rows
    assert set(timed[0].calls) == {"infer"}
    assert set(timed[1].calls) == {"compute"}  # after one plain inference
    assert (copied.transfers, resident.transfers) == (True, False)
    assert resident.settings == copied.settings | {"transfers": False}
    for part in ("H2D Latency", "D2H Latency"):
        assert resident.metrics[part]["max"] == 0
    assert resident.metrics["Latency"]["median"] == resident.metrics["GPU Compute Time"]["median"] == 7
    assert resident.metrics["Enqueue Time"]["median"] == 1


def test_only_like_is_held_against_like(timed: list[TimedFake]) -> None:
    copied, resident = measure([on_gpu(), on_gpu(transfers=False)], QUICK).rows
    assert copied.ratio == 1
    assert resident.latency_ms is not None
    assert resident.ratio is resident.ratio_ci is None
    first, second = measure([on_gpu(transfers=False), on_gpu("b", transfers=False)], QUICK).rows
    assert first.ratio == 1
    assert second.ratio is not None


def test_a_row_without_transfers_that_cannot_run_says_so_and_what_it_is() -> None:
    (row,) = measure([on_gpu(transfers=False)], QUICK).rows
    assert row.skipped
    assert not row.transfers


def test_energy_and_memory_of_the_gpu_are_shared_out(use: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    joules, used = iter(range(0, 1000, 6)), iter([100 * 2**20, 350 * 2**20])
    gpu = SimpleNamespace(
        energy_joules=lambda: next(joules), used_bytes=lambda: next(used), conditions=lambda: {"sm_mhz": 1500}
    )
    monkeypatch.setattr(measure_module, "gpu_sensors", lambda: nullcontext(gpu))
    use({"a": lambda: None})
    config = BenchConfig(SMALL, warmup_ms=0, duration_ms=0, min_iterations=9, max_windows=3, tolerance=9e9)
    report = measure([entry("a")], config)
    (row,) = report.rows
    assert row.joules_per_frame == pytest.approx(2)  # 6 J for the 3 inferences of each window
    assert row.memory_mib["device"] == 250
    assert report.device["before"]["gpu"] == report.device["after"]["gpu"] == {"sm_mhz": 1500}


def test_the_device_is_that_outside_the_pinning(use: Callable) -> None:
    use({"a": lambda: None})
    device = measure([entry("a")], QUICK).device
    assert device["cores"] == usable_cores()
    assert len(device["pinned_to"]) == 1
    assert device["before"].keys() == device["after"].keys()


def test_json_has_the_documented_keys(use: Callable) -> None:
    use({"a": lambda: None})
    plain = measure([entry("a"), entry("a", "onnxruntime")], QUICK).as_json()
    assert plain.keys() == {"device", "baseline", "results"}
    assert plain["baseline"] == {"artifact": "a", "runtime": "torch"}
    keys = {"artifact", "runtime", "res", "latency_ms", "throughput_fps", "ratio", "ratio_ci", "stable", "skipped"}
    keys |= {"batch", "is_baseline", "memory_mib", "joules_per_frame", "floor", "over_floor", "settings"}
    measured, skipped = plain["results"]
    assert measured.keys() == skipped.keys() == keys
    assert measured["latency_ms"].keys() == {"median", "p90", "p95", "p99"}
    assert measured["res"] == "32x16"
    assert skipped["latency_ms"] is None
    assert plain["device"]["threads"] == 1
    assert plain["device"]["artifacts"] == {"a": "sha-a"}
    json.dumps(plain, allow_nan=False)


def test_jsonl_holds_every_sample_and_the_machine(use: Callable, tmp_path: Path) -> None:
    use({"a": lambda: None})
    report = measure([entry("a")], QUICK)
    path = tmp_path / "results" / "a.jsonl"
    write_jsonl(report_records(report), path)
    (line,) = path.read_text().splitlines()
    row = json.loads(line)
    assert row["sha256"] == "sha-a"
    assert [tuple(window) for window in row["windows_ms"]] == list(report.rows[0].windows_ms)
    assert row["device"]["cpu"]
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_jsonl(report_records(report), path / "below-a-file.jsonl")


def test_the_machine_is_described() -> None:
    facts = device_facts()
    assert facts.keys() == {"cpu", "instruction_sets", "cores", "memory_gib", "gpu", "os", "python", "libraries"}
    assert facts["cores"] == usable_cores() >= 1
    assert facts["libraries"]["numpy"] == np.__version__


def test_a_real_network_is_timed_on_every_runtime_for_it(tmp_path: Path, tiny_config: SRNConfig) -> None:
    torch.manual_seed(0)
    net = SRN(tiny_config)
    artifact = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    entries = all_entries([artifact])
    assert [e.runtime for e in entries] == ["torch", "torch-channels-last"]
    for row in measure(entries, QUICK).rows:
        assert row.skipped is None
        assert row.latency_ms is not None
        assert 0 < row.latency_ms.median <= row.latency_ms.p99


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing to measure"):
        measure([], QUICK)
    with pytest.raises(ConfigError, match="no runtime 'pytorch'"):
        measure([entry("a", "pytorch")], QUICK)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": 0},
        {"batch": 0},
        {"warmup_ms": -1},
        {"min_iterations": 0},
        {"windows": 0},
        {"windows": 3, "max_windows": 2},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        BenchConfig(**wrong)
