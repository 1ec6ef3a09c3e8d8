"""Rows of latencies from files of strangers: what is not of its type is refused by name, before it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deblur_deploy.core.bench_rows import device_identity, read_rows
from deblur_deploy.core.errors import ArtifactError

ROW = {
    **{"artifact": "a", "sha256": "b", "runtime": "torch", "res": "1x1", "latency_ms": {"median": 1.5}},
    **{"stable": True, "skipped": None, "windows_ms": [[1.5]], "device": {"cpu": "c"}},
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("artifact", None),
        ("runtime", 5),
        ("device", []),
        ("device", {"gpu": "card"}),
        ("device", {"libraries": 1}),
        ("latency_ms", 5),
        ("latency_ms", {"median": "x"}),
        ("latency_ms", {"median": 0}),
        ("latency_ms", {"p99": 1.0}),
        ("latency_ms", {"median": float("nan")}),
        ("latency_ms", {"median": 10**400}),
        ("res", []),
        ("stable", "yes"),
        ("windows_ms", [1.5]),
        ("windows_ms", [["x"]]),
        ("batch", 0),
        ("ratio_ci", [1]),
        ("memory_mib", []),
        ("settings", []),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {name: value}) + "\n")
    with pytest.raises(ArtifactError, match=f"line 2 of .*rows.jsonl has {name} = "):
        read_rows(path)


def test_a_missing_field_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({name: value for name, value in ROW.items() if name != "windows_ms"}))
    with pytest.raises(ArtifactError, match="lacks windows_ms"):
        read_rows(path)


def test_rows_of_streams_are_left_out_wherever_they_stand(tmp_path: Path) -> None:
    stream = {"runtime": "torch", "latency_ms": None, "stream_fps": 30}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (stream, ROW, stream)))
    assert read_rows(path) == [ROW]


def test_a_card_is_part_of_a_machine_and_libraries_are_not() -> None:
    here = {"cpu": "c", "gpu": {"name": "A", "driver": "1"}, "libraries": {"torch": "2"}}
    assert device_identity(here) == device_identity(here | {"libraries": {}, "gpu": {"name": "A", "driver": "2"}})
    assert device_identity(here) != device_identity(here | {"gpu": None})
