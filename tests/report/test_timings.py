"""Latencies as ``bench`` left them: matched by hash, and never two machines together."""

from __future__ import annotations

import pytest

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.report.stages import read_stages
from deblur_deploy.report.timings import device_name, read_sessions
from tests.report.conftest import DEVICE, Run


def test_rows_belong_to_stages_by_hash_and_come_in_their_order(whole_run: Run) -> None:
    (session,) = read_sessions(whole_run.folder, read_stages(whole_run.folder))
    assert [row.name for row in session.rows] == [
        "original · openvino",
        "original · torch",
        "pruned · openvino",
        "int8 · onnxruntime",
        "int8 · openvino",
    ]
    assert session.skipped == (("fp16 engine · tensorrt-rtx", "no such card"),)
    assert session.device == "Test CPU, 2 cores"


def test_two_machines_and_two_sizes_are_sessions_of_their_own(whole_run: Run) -> None:
    whole_run.time("onnx-int8", "openvino", 10.0, device=DEVICE | {"cpu": "Other"})
    whole_run.time("onnx-int8", "openvino", 11.0, device=DEVICE | {"gpu": {"name": "Card", "driver": "1"}})
    whole_run.time("onnx-int8", "openvino", 12.0, device=DEVICE | {"threads": 1})
    whole_run.time("onnx-int8", "openvino", 13.0, res="1280x720")
    sessions = read_sessions(whole_run.folder, read_stages(whole_run.folder))
    assert [len(session.rows) for session in sessions] == [5, 1, 1, 1, 1]
    assert [session.device for session in sessions[1:4]] == [
        "Other, 2 cores",
        "Test CPU, 2 cores, Card",
        "Test CPU, 2 cores, 1 thread",
    ]


def test_the_latest_of_two_measurements_counts(whole_run: Run) -> None:
    whole_run.time("onnx-int8", "openvino", 10.0)
    (session,) = read_sessions(whole_run.folder, read_stages(whole_run.folder))
    assert [row.latency_ms["median"] for row in session.rows if row.name == "int8 · openvino"] == [10.0]


def test_another_network_beside_ours_has_the_name_of_its_directory(whole_run: Run) -> None:
    whole_run.time("onnx-int8", "openvino", 10.0, artifact="nets/rival", sha256="0" * 64)
    (session,) = read_sessions(whole_run.folder, read_stages(whole_run.folder))
    assert (session.rows[-1].name, session.rows[-1].stage) == ("rival · openvino", None)


def test_other_programs_files_are_passed_over_and_damaged_ones_named(whole_run: Run) -> None:
    stages = read_stages(whole_run.folder)
    (whole_run.folder / "log.jsonl").write_text('{"step": 1}\n')
    (whole_run.folder / "text.jsonl").write_text("no JSON\n")
    assert len(read_sessions(whole_run.folder, stages)) == 1
    with (whole_run.folder / "bench.jsonl").open("a") as file:
        file.write('{"runtime": "torch", "latency_')
    with pytest.raises(ArtifactError, match=r"line 7 of .*bench\.jsonl is damaged"):
        read_sessions(whole_run.folder, stages)
    (whole_run.folder / "bench.jsonl").write_text('{"runtime": "torch", "latency_ms": null}\n')
    with pytest.raises(ArtifactError, match="lacks artifact, sha256, res, "):
        read_sessions(whole_run.folder, stages)


def test_streams_batches_and_what_stays_on_the_gpu_are_no_latencies_of_a_frame(whole_run: Run) -> None:
    whole_run.time("onnx-int8", "openvino", 9.0, settings={"transfers": False})
    whole_run.time("onnx-int8", "openvino", 10.0, batch=4)
    whole_run.time("onnx-int8", "openvino", 11.0, stream_fps=30.0)
    (session,) = read_sessions(whole_run.folder, read_stages(whole_run.folder))
    assert [row.median for row in session.rows if row.name == "int8 · openvino"] == [75.0]


def test_a_machine_without_facts_has_a_name_too() -> None:
    assert device_name({}) == "unknown processor, ? cores"
