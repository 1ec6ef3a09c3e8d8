"""Text that a film carries, without what describes how its own file was written."""

from __future__ import annotations

from typing import Any

_OF_THE_FILE = {
    "encoder", "major_brand", "minor_version", "compatible_brands", "duration", "vendor_id", "software",
    "number_of_frames", "number_of_bytes", "bps", "_statistics_tags", "_statistics_writing_app",
    "_statistics_writing_date_utc", "rotate", "alpha_mode",
}  # fmt: skip
"""Keys, in lower case and without Matroska's language, that the writer sets itself or that are not true any more."""


def kept_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """What of a film's or a stream's metadata is still true of the result."""
    return {key: value for key, value in metadata.items() if _plain(key) not in _OF_THE_FILE}


def time_code_of(reader: Any) -> dict[str, str]:
    """The time code of the first picture, where a track of its own holds it."""
    codes = [stream.metadata["timecode"] for stream in reader.streams if "timecode" in stream.metadata]
    return {"timecode": codes[0]} if codes else {}


def _plain(key: str) -> str:
    head, dash, language = key.lower().rpartition("-")
    return head if dash and len(language) == 3 else key.lower()
