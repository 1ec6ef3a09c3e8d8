"""Rows of latencies in JSONL files as ``bench`` writes them, for everything that compares or shows them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deblur_deploy.core.errors import ArtifactError

Record = dict[str, Any]
"""One row of latencies: a line of a JSONL file."""

_HINT = "measure again with `deblur-deploy bench`"

_IDENTITY = ("cpu", "instruction_sets", "cores", "memory_gib", "threads")
"""Facts of a machine in which two must agree; the GPU's name is the other."""


def read_rows(path: Path) -> list[Record]:
    """Read the rows of latencies in a file; rows of streams, which measure something else, are left out.

    Returns:
        The rows, every field of its type; none where the file's first line is not a row of a benchmark.

    Raises:
        ArtifactError: The file cannot be read, or a line of it is damaged; the line is named.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as err:
        raise ArtifactError(f"{path} cannot be read: {err}", hint="remove it, or measure again") from err
    rows: list[Record] = []
    is_ours = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as err:
            if not is_ours:
                return []
            raise ArtifactError(
                f"line {number} of {path} is damaged: {err}", hint="remove the line, or measure again"
            ) from err
        if not is_ours and not (isinstance(row, dict) and {"runtime", "latency_ms"} <= row.keys()):
            return []
        is_ours = True
        if complaint := _complaint(row):
            raise ArtifactError(f"line {number} of {path} {complaint}", hint=_HINT)
        if "stream_fps" not in row:
            rows.append(row)
    return rows


def batch_of(row: Mapping[str, Any]) -> int:
    """Frames in one inference of a row; files of old have no such field."""
    return int(row.get("batch", 1))


def has_transfers(row: Mapping[str, Any]) -> bool:
    """Whether a row's time takes in the copies of its pictures, or they stay on the GPU; files of old do not say."""
    return bool(row.get("settings", {}).get("transfers", True))


def device_identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two machines, or two settings of one, comparable; versions of libraries are not part of it."""
    return {name: facts.get(name) for name in _IDENTITY} | {"gpu": (facts.get("gpu") or {}).get("name")}


def _complaint(row: Any) -> str | None:
    """What is wrong with a line, or None."""
    if not isinstance(row, dict):
        return "is not a row of a benchmark"
    if "stream_fps" in row:
        return None
    if missing := [name for name in _FIELDS if name not in row]:
        return f"lacks {', '.join(missing)}"
    for name, (is_right, expected) in (_FIELDS | _OPTIONAL).items():
        if name in row and not is_right(row[name]):
            return f"has {name} = {json.dumps(row[name])[:80]}, not {expected}"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """A finite number that is not negative, as times and counts are."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _or_none(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_right(value)


def _is_table_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_right, value.values()))


def _is_latency(value: Any) -> bool:
    return _is_table_of(_is_number)(value) and value.get("median", 0) > 0


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _is_windows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, list) and all(map(_is_number, part)) for part in value)


def _is_device(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    gpu = value.get("gpu")
    named = gpu is None or (isinstance(gpu, dict) and _or_none(_is_text)(gpu.get("name")))
    return named and isinstance(value.get("libraries", {}), dict)


Check = tuple[Callable[[Any], bool], str]

_FIELDS: dict[str, Check] = {
    "artifact": (_is_text, "a name"),
    "sha256": (_is_text, "a hash"),
    "runtime": (_is_text, "a name"),
    "res": (_is_text, "a size"),
    "latency_ms": (_or_none(_is_latency), "null or positive milliseconds with a median"),
    "stable": (_is_bool, "true or false"),
    "skipped": (_or_none(_is_text), "null or a reason"),
    "windows_ms": (_is_windows, "lists of milliseconds"),
    "device": (_is_device, "the facts of a machine"),
}

_OPTIONAL: dict[str, Check] = {
    "batch": (_is_count, "a whole number from 1"),
    "throughput_fps": (_or_none(_is_number), "null or a number"),
    "ratio": (_or_none(_is_number), "null or a number"),
    "ratio_ci": (_or_none(_is_interval), "null or two numbers"),
    "memory_mib": (_is_table_of(_is_number), "a table of numbers"),
    "joules_per_frame": (_or_none(_is_number), "null or a number"),
    "over_floor": (_or_none(_is_number), "null or a number"),
    "settings": (lambda value: isinstance(value, dict), "a table"),
}
