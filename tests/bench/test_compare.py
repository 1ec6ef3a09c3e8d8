"""Results in files, and what two of them say of each other."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from deblur_deploy.bench.compare import (
    check_comparison,
    check_latency_budget,
    compare,
    device_differences,
    refuse_other_device,
)
from deblur_deploy.bench.measure import BenchReport
from deblur_deploy.bench.records import as_csv, as_markdown, read_jsonl, report_records, stream_records, write_jsonl
from deblur_deploy.bench.stream import StreamRow
from deblur_deploy.core.errors import ArtifactError, BudgetError, ConfigError


def record(ms: float | None, runtime: str = "torch", **changed: Any) -> dict[str, Any]:
    """A row as it stands in a file; without ``ms`` one that could not run."""
    quantiles = None if ms is None else dict.fromkeys(("median", "p90", "p95", "p99"), ms)
    row = {
        **{"artifact": "runs/net", "sha256": "abc", "runtime": runtime, "res": "640x360", "batch": 1},
        **{"latency_ms": quantiles, "windows_ms": [] if ms is None else [[ms, ms, ms]] * 3},
        **{"throughput_fps": None, "ratio": None, "ratio_ci": None, "stable": ms is not None},
        **{"skipped": None if ms else "torch gave up", "device": {"cpu": "a processor", "cores": 2}},
    }
    return row | changed


def verdicts(now: list[dict[str, Any]], then: list[dict[str, Any]]) -> list[str]:
    return [row.verdict for row in compare(now, then, fail_below=0.95)]


def test_a_report_is_read_back_as_it_was_written(tiny_report: BenchReport, tmp_path: Path) -> None:
    records = report_records(tiny_report)
    write_jsonl([*records, *stream_records([StreamRow("a", "b", "torch", "1x1", 30, False)], {})], tmp_path / "a.jsonl")
    again = read_jsonl(tmp_path / "a.jsonl")
    assert again == json.loads(json.dumps(records))
    assert again[0]["device"]["pinned_to"] is not None
    assert again[0]["device"]["artifacts"] == {again[0]["artifact"]: again[0]["sha256"]}
    assert {"before", "after", "libraries", "gpu"} <= again[0]["device"].keys()


@pytest.mark.parametrize("text", ["", "\n", "{", "[]", '{"runtime": "torch"}', '{"stream_fps": 30}'])
def test_a_file_without_results_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ArtifactError, match="holds no"):
        read_jsonl(tmp_path / "a.jsonl")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_jsonl(tmp_path / "missing.jsonl")


def test_tables_are_rendered_from_records(tiny_report: BenchReport) -> None:
    records = [*report_records(tiny_report), record(None, skipped="no torch | pip install torch")]
    rows = list(csv.DictReader(io.StringIO(as_csv(records))))
    assert [row["runtime"] for row in rows] == [row["runtime"] for row in records]
    assert float(rows[0]["median_ms"]) == records[0]["latency_ms"]["median"]
    assert rows[-1]["median_ms"] == ""
    lines = as_markdown(records).splitlines()
    assert len(lines) == 2 + len(records)
    assert "x baseline" in lines[0]
    assert "J/frame" not in lines[0]  # of no row
    assert lines[-1].endswith("no torch \\| pip install torch |")
    assert f"| {records[0]['latency_ms']['median']:.2f} |" in lines[2]


@pytest.mark.parametrize(("ms", "verdict"), [(105.2, "kept"), (105.4, "slower"), (50.0, "kept")])
def test_a_row_may_lose_a_twentieth(ms: float, verdict: str) -> None:
    (row,) = compare([record(ms)], [record(100.0)], fail_below=0.95)
    assert row.verdict == verdict
    assert row.ratio == pytest.approx(100 / ms)
    assert row.ratio_ci == pytest.approx((100 / ms, 100 / ms))


def test_rows_belong_together_by_artifact_runtime_size_and_batch() -> None:
    then = [record(100.0), record(100.0, batch=4), record(100.0, "openvino"), record(None, "onnxruntime")]
    now = [record(200.0, res="1280x720"), record(90.0, artifact="elsewhere/net", sha256="def"), record(90.0, batch=4)]
    first, second, third = compare(now, then, fail_below=0.95)
    assert (first.verdict, first.note) == ("kept", "the payload differs")
    assert second.name.endswith("in batches of 4")
    assert third.verdict == "not measured"


def test_rows_with_and_without_transfers_are_two() -> None:
    resident = {"settings": {"transfers": False}}
    then = [record(100.0, "tensorrt"), record(50.0, "tensorrt", **resident)]
    kept, slower = compare([record(100.0, "tensorrt", **resident), record(100.0, "tensorrt")], then, fail_below=0.95)
    assert (kept.name, kept.verdict) == ("net on tensorrt at 640x360", "kept")
    assert (slower.name, slower.verdict) == ("net on tensorrt at 640x360 without transfers", "slower")


def test_another_way_of_waiting_is_not_compared_silently() -> None:
    awake, asleep = ({"transfers": True, "spin_wait": spin} for spin in (True, False))
    (row,) = compare([record(100.0, settings=asleep)], [record(100.0, settings=awake)], fail_below=0.95)
    assert (row.verdict, row.note) == ("kept", "spin_wait is False and was True")
    (row,) = compare([record(100.0, settings=asleep)], [record(100.0)], fail_below=0.95)
    assert row.note == ""


def test_a_picture_that_stays_on_the_gpu_keeps_no_budget() -> None:
    rows = [record(40.0, "tensorrt"), record(10.0, "tensorrt", settings={"transfers": False})]
    with pytest.raises(BudgetError, match=r"the fastest row takes 40\.00 ms"):
        check_latency_budget(rows, 15)


def test_tables_show_how_a_gpu_was_used() -> None:
    settings = {"cuda_graph": True, "transfers": False, "spin_wait": True}
    metrics = {"GPU Compute Time": {"median": 4.25}}
    records = [record(9.0, "torch"), record(5.0, "tensorrt", settings=settings, metrics=metrics)]
    plain, engine = csv.DictReader(io.StringIO(as_csv(records)))
    names = ("cuda_graph", "transfers", "spin_wait", "gpu_compute_ms")
    assert [plain[name] for name in names] == [""] * 4
    assert [engine[name] for name in names] == ["True", "False", "True", "4.25"]
    head, _, _, row = as_markdown(records).splitlines()
    assert "| CUDA graph | transfers | spin wait |" in head
    assert "| yes | no | yes |" in row
    assert "| 4.25 |" in row
    assert "spin wait" not in as_markdown(records[:1])


def test_what_ran_and_fails_now_is_a_loss() -> None:
    comparisons = compare([record(None)], [record(100.0)], fail_below=0.95)
    assert comparisons[0].verdict == "failed"
    with pytest.raises(BudgetError, match="fails now"):
        check_comparison(comparisons, 0.95)


def test_unstable_figures_prove_nothing() -> None:
    assert verdicts([record(300.0, stable=False)], [record(100.0)]) == ["unstable"]
    assert verdicts([record(100.0)], [record(100.0, stable=False)]) == ["unstable"]
    with pytest.raises(BudgetError, match="no row of the baseline could be compared"):
        check_comparison(compare([record(100.0, stable=False)], [record(100.0)], 0.95), 0.95)


def test_a_gate_names_what_got_slower() -> None:
    check_comparison(compare([record(100.0)], [record(100.0)], 0.95), 0.95)
    with pytest.raises(BudgetError, match=r"net on torch at 640x360 has 0.50 of the baseline's speed"):
        check_comparison(compare([record(200.0)], [record(100.0)], 0.95), 0.95)


def test_a_budget_is_kept_by_the_fastest_stable_row() -> None:
    rows = [record(40.0), record(14.9, "openvino"), record(3.0, "onnxruntime", stable=False), record(None)]
    check_latency_budget(rows, 15)
    with pytest.raises(BudgetError, match=r"the fastest row takes 14\.90 ms"):
        check_latency_budget(rows, 14)
    with pytest.raises(BudgetError, match="no stable figure"):
        check_latency_budget(rows[2:], 15)


def test_two_devices_are_told_apart() -> None:
    here = {"cpu": "a", "cores": 2, "threads": 2, "gpu": {"name": "H100", "driver": "1"}, "libraries": {"torch": "2"}}
    same = here | {"libraries": {"torch": "3"}, "gpu": {"name": "H100", "driver": "2"}}
    assert device_differences(here, same) == []
    assert device_differences(here, here | {"cpu": "b"}) == ["cpu is a and was b"]
    assert device_differences(here, here | {"threads": 1}) == ["threads is 2 and was 1"]
    assert device_differences(here, here | {"gpu": None}) == ["gpu is H100 and was None"]
    refuse_other_device([], Path("a.jsonl"))
    with pytest.raises(ConfigError, match="another device: cpu is a and was b"):
        refuse_other_device(["cpu is a and was b"], Path("a.jsonl"))
