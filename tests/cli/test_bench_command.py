"""``deblur-deploy bench``: its modes, its files and its gates, on a tiny network."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from deblur_deploy.bench import sweep as sweep_module
from deblur_deploy.core.images import Resolution
from deblur_deploy.runtime.eager import TorchRunner

QUICK = ("--runtime", "torch", "--res", "32x16", "--seconds", 0.02, "--no-floor")

RIVAL = "import torch\n\n\ndef blur():\n    return torch.nn.Conv2d(3, 3, 3, padding=1)\n"


@pytest.fixture
def slowed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What every inference in PyTorch does first: nothing, until a test says otherwise."""
    action: dict[str, Any] = {"do": lambda: None}
    infer = TorchRunner.infer

    def slowly(self: TorchRunner, batch: Any) -> Any:
        action["do"]()
        return infer(self, batch)

    monkeypatch.setattr(TorchRunner, "infer", slowly)
    return action


def test_everything_that_was_measured_is_written(run, made, tmp_path):
    files = {name: tmp_path / "out" / name for name in ("rows.jsonl", "rows.csv", "rows.md", "times.json")}
    jsonl, table, markdown, times = files.values()
    options = ("--save", jsonl, "--csv", table, "--markdown", markdown, "--export-times", times)

    outcome = run("bench", made["import"], *QUICK, *options).done()

    (record,) = map(json.loads, jsonl.read_text().splitlines())
    assert record["sha256"] == record["device"]["artifacts"][str(made["import"])]
    assert record["metrics"]["Latency"]["median"] > 0
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert float(row["median_ms"]) == record["latency_ms"]["median"]
    assert f"| {record['latency_ms']['median']:.2f} |" in markdown.read_text()
    counted = [sample for window in record["windows_ms"][-3:] for sample in window]
    assert [entry["latencyMs"] for entry in json.loads(times.read_text())] == pytest.approx(counted)
    assert all(f"wrote     {path}" in outcome.out for path in files.values())


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class ByWidth:
    """A clock by arithmetic: a network takes as many ms as it has thousands of parameters, on a card of its own."""

    card = "RTX 4090"

    def __init__(self, source, config):
        precision, res = "int8" if config.int8 else "fp32", f"{config.width}x{config.height}"
        self.identity = {"network": source.sha256, "runtime": config.runtime, "precision": precision, "res": res}
        self.identity |= {"gpu": self.card}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def time(self, net):
        return 1 + sum(array.numel() for array in net.parameters()) / 1000, 0.01


def test_a_latency_table_of_another_card_is_made_there_and_used_here(run, made, tmp_path, monkeypatch):
    monkeypatch.setattr("deblur_deploy.pipeline.frame_clock.FrameClock", ByWidth)
    file, size = tmp_path / "tables" / "card.json", ("--res", "64x48", "--int8")

    there = run("bench", made["import"], "--latency-table", file, *size, "--runs", tmp_path, "--json").done().json

    table = json.loads(file.read_text())
    assert there["networks"] == len(table["timed"]) >= 12
    assert (there["gpu"], there["precision"], there["whole_ms"]) == ("RTX 4090", "int8", table["timed"][0]["ms"])
    monkeypatch.setattr(ByWidth, "card", None)
    monkeypatch.setattr(ByWidth, "time", lambda *_: pytest.fail("nothing is timed here"))
    here = ("prune", made["import"], *size, "--scan-images", 1, "--scan-size", 48, "--runs", tmp_path, "--json")
    elsewhere = ("--latency-table", file, "--other-device")
    planned = run(*here, *elsewhere, "--max-ms", 0.8 * there["whole_ms"], "--dry-run").done().json
    assert planned["predicted_ms"] <= 0.8 * there["whole_ms"]
    assert 'gpu is null and the table\'s "RTX 4090"' in run(*here, *elsewhere[:2], "--max-ms", 5).refusal(2)

    file.write_text(json.dumps(table | {"timed": table["timed"][:4], "missing": len(table["timed"]) - 4}))
    assert f"has 4 of {len(table['timed'])} networks" in run(*here, *elsewhere, "--max-ms", 5).refusal(2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--int8",), "--int8 and --round-to are for --latency-table"),
        (("--round-to", 16), "--int8 and --round-to are for --latency-table"),
        (("--latency-table", "t.json", "--sweep"), "is a measurement of its own"),
        (("--latency-table", "t.json", "--threads", 1), "is a measurement of its own"),
        (("--latency-table", "t.json", "--csv", "t.csv"), "is a measurement of its own"),
        (("--latency-table", "t.json", "--budget-ms", 5), "is a measurement of its own"),
        (("--latency-table", "t.json", "--runtime", "torch", "--runtime", "openvino"), "one runtime, not 2"),
        (("--latency-table", "t.json", "another"), "one network, not 2"),
        (("--latency-table", "t.json", "--runtime", "gpu-of-dreams", "--res", "32x16"), "no runtime 'gpu-of-dreams'"),
    ],
)
def test_what_does_not_go_with_a_latency_table_is_refused(refuse, made, in_tmp_path, options, complaint):
    assert complaint in refuse(2, "bench", made["import"], *options)
    assert not (in_tmp_path / "t.json").exists()


def test_times_of_several_rows_are_files_of_their_own(run, made, tmp_path):
    options = (*QUICK, "--runtime", "torch-channels-last", "--export-times", tmp_path / "times.json")

    run("bench", made["import"], *options).done()

    names = sorted(path.name for path in tmp_path.iterdir())
    name = made["import"].name
    assert names == [f"times-{name}-torch-32x16-1.json", f"times-{name}-torch-channels-last-32x16-1.json"]


def test_rows_stand_over_the_machine_s_floor(run, made):
    options = ("--runtime", "torch", "--res", "32x16", "--seconds", 0)

    (row,) = run("bench", made["import"], *options, "--json").done().json["results"]

    assert row["over_floor"] == pytest.approx(row["latency_ms"]["median"] / row["floor"]["floor_ms"])
    assert "ceilings  cpu: fp32" in run("bench", made["import"], *options).done().out


def test_a_rival_stands_beside_ours(run, made, tmp_path, monkeypatch):
    (tmp_path / "rivals_of_ours.py").write_text(RIVAL)
    monkeypatch.syspath_prepend(tmp_path)

    answer = run("bench", made["import"], "rivals_of_ours:blur", *QUICK, "--json").done().json

    assert [row["artifact"] for row in answer["results"]] == [str(made["import"]), "rivals_of_ours:blur"]
    assert answer["results"][1]["ratio"] > 0


def test_every_runtime_has_a_row_and_says_what_it_lacks(run, made, monkeypatch):
    monkeypatch.setattr("deblur_deploy.runtime.runner.find_spec", lambda name: None if name == "openvino" else name)

    outcome = run("bench", made["export-onnx"], "--res", "64x48", "--seconds", 0, "--no-floor", "--json").done()

    rows = {row["runtime"]: row for row in outcome.json["results"]}
    assert rows.keys() >= {"onnxruntime", "openvino", "openvino-bf16"}
    assert rows["onnxruntime"]["latency_ms"] is not None
    assert rows["openvino"]["skipped"] == "openvino needs openvino; pip install openvino onnx"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes only when a test says so."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("deblur_deploy.bench.measure.time", clock)
    return clock


def test_a_slower_network_fails_the_gate(run, made, tmp_path, slowed, clock):
    def take(seconds: float) -> None:
        slowed["do"] = lambda: setattr(clock, "now", clock.now + seconds)

    options = (made["import"], *QUICK, "--json")
    gate = ("--compare", tmp_path / "baseline.jsonl")
    take(0.100)
    run("bench", *options, "--save", tmp_path / "baseline.jsonl").done()
    take(0.105)
    kept = run("bench", *options, *gate).done()
    take(0.106)
    lost = run("bench", *options, *gate, "--save", tmp_path / "now.jsonl")

    (comparison,) = kept.json["comparison"]
    assert (comparison["verdict"], comparison["ratio"]) == ("kept", pytest.approx(100 / 105))
    assert comparison["ratio_ci"] == pytest.approx([100 / 105] * 2)
    assert lost.json["comparison"][0]["verdict"] == "slower"
    assert "torch at 32x16 has 0.94 of the baseline's speed" in lost.refusal(3)
    assert (tmp_path / "now.jsonl").exists()


def test_a_baseline_of_another_device_is_refused_before_anything_is_measured(run, made, tmp_path):
    baseline = tmp_path / "baseline.jsonl"
    run("bench", made["import"], *QUICK, "--save", baseline).done()
    record = json.loads(baseline.read_text())
    record["device"]["cpu"] = "Another Processor"
    baseline.write_text(json.dumps(record))

    refusal = run("bench", made["import"], *QUICK, "--compare", baseline, "--save", tmp_path / "now.jsonl").refusal(2)
    allowed = run("bench", made["import"], *QUICK, "--compare", baseline, "--other-device", "--fail-below", 1e-9)

    assert "was measured on another device" in refusal
    assert "was Another Processor" in refusal
    assert not (tmp_path / "now.jsonl").exists()
    assert "warning   baseline.jsonl was measured on another device" in allowed.out


def test_a_budget_of_milliseconds(run, made):
    missed = run("bench", made["import"], *QUICK, "--budget-ms", 1e-6, "--json")

    assert missed.code == 3
    assert missed.json["results"][0]["latency_ms"] is not None


@pytest.mark.parametrize("pipelined", [(), ("--pipelined",)])
def test_a_stream(run, made, tmp_path, pipelined):
    options = (*QUICK, "--seconds", 0.3, "--stream", "20,60", *pipelined, "--save", tmp_path / "stream.jsonl")

    answer = run("bench", made["import"], *options, "--json").done().json

    assert [(row["stream_fps"], row["frames"]) for row in answer["streams"]] == [(20, 6), (60, 18)]
    assert all(row["pipelined"] is bool(pipelined) for row in answer["streams"])
    first, _ = map(json.loads, (tmp_path / "stream.jsonl").read_text().splitlines())
    assert len(first["samples_ms"]) == first["frames"] - first["dropped"]
    assert first["device"]["cpu"]


def test_batches_and_a_sweep(run, made, monkeypatch):
    batches = run("bench", made["import"], *QUICK, "--batch", "1,2", "--json").done().json["results"]
    assert [row["batch"] for row in batches] == [1, 2]

    monkeypatch.setattr(sweep_module, "SWEEP", tuple(Resolution(16 * n, 16) for n in (1, 2, 3)))
    answer = run("bench", made["import"], *QUICK, "--sweep", "--json").done().json
    assert [row["res"] for row in answer["results"]] == ["16x16", "32x16", "48x16"]
    assert answer["scaling"][0]["sizes"] == 3


def test_control_c_keeps_what_was_measured(run, made, tmp_path, slowed, clock):
    left = iter(range(8))

    def interrupt() -> None:
        clock.now += 0.1  # two or three inferences warm up, and one is not counted
        if next(left, None) is None:
            raise KeyboardInterrupt

    slowed["do"] = interrupt
    outcome = run("bench", made["import"], *QUICK, "--json", "--save", tmp_path / "rows.jsonl", "--budget-ms", 1e-6)

    assert outcome.code == 130
    (record,) = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert sum(map(len, record["windows_ms"])) > 0
    assert not record["stable"]
    assert outcome.json["results"][0]["latency_ms"] is not None


@pytest.mark.parametrize(
    ("failure", "code"), [(KeyboardInterrupt(), 130), (RuntimeError("no memory"), 0), (ImportError("no onnx"), 0)]
)
def test_what_was_measured_outlives_a_failed_probe(run, made, tmp_path, failure, code):
    with mock.patch("deblur_deploy.bench.limits.measure_cpu_ceilings", side_effect=failure):
        options = [option for option in QUICK if option != "--no-floor"]
        outcome = run("bench", made["import"], *options, "--floor", "--json", "--save", tmp_path / "rows.jsonl")

    assert outcome.code == code, outcome.err
    (record,) = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert record["latency_ms"]["median"] > 0
    assert outcome.json["results"][0]["latency_ms"] is not None


def test_a_path_that_cannot_be_written_is_found_before_measuring(run, made, tmp_path):
    with mock.patch("deblur_deploy.bench.measure.measure", side_effect=AssertionError("it measured")):
        outcome = run("bench", made["import"], *QUICK, "--export-times", tmp_path)
    assert "it is a directory" in outcome.refusal(1)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--batch", "0"), "batch is 0"),
        (("--batch", "1.5"), "--batch is '1.5'"),
        (("--batch", "two"), "--batch is 'two'"),
        (("--stream", "fast"), "--stream is 'fast'"),
        (("--stream", "0"), "a stream of 0 fps"),
        (("--stream", "30", "--sweep"), "--stream is a measurement of its own"),
        (("--stream", "30", "--no-data-transfers"), "--stream is a measurement of its own"),
        (("--stream", "30", "--budget-ms", "9"), "--stream is a measurement of its own"),
        (("--stream", "30", "--csv", "a.csv"), "streams are written as JSONL only"),
        (("--stream", "nan"), "--stream is 'nan'"),
        (("--batch", "inf"), "--batch is 'inf'"),
        (("--seconds", "inf"), "a time to measure is negative or infinite"),
        (("--fail-below", "nan"), "--fail-below is nan"),
        (("--budget-ms", "nan"), "--budget-ms is nan"),
        (("--budget-ms", "5", "--batch", "2,4"), "one frame of 32x16, which is not measured"),
        (("--budget-ms", "5", "--sweep"), "one frame of 32x16, which is not measured"),
        (("--fail-below", "0"), "--fail-below is 0"),
        (("--budget-ms", "-1"), "--budget-ms is -1"),
        (("--runtime", "pytorch"), "no runtime 'pytorch'"),
        (("--runtime", "onnxruntime"), "there is nothing to measure"),
        (("--pipelined",), "--pipelined"),
    ],
)
def test_bad_usage(run, made, options, complaint):
    usual = [] if "--runtime" in options else ["--runtime", "torch"]

    assert complaint in run("bench", made["import"], *usual, "--res", "32x16", "--seconds", 0, *options).refusal(2)


def test_a_baseline_that_is_none_is_an_error(run, made, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")

    assert "holds no latencies" in run("bench", made["import"], *QUICK, "--compare", tmp_path / "empty.jsonl").refusal(
        1
    )
    assert "cannot be read" in run("bench", made["import"], *QUICK, "--compare", tmp_path / "no.jsonl").refusal(1)


def test_an_empty_run_falls_back_on_the_shipped_generator(run, shipped_generator, tmp_path):
    (tmp_path / "runs").mkdir()

    outcome = run("bench", "--runs", tmp_path / "runs", *QUICK, "--json").done()

    assert {row["artifact"] for row in outcome.json["results"]} == {str(shipped_generator)}
