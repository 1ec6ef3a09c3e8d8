"""Text that a film carries, without what describes how its own file was written."""

from __future__ import annotations

_OF_THE_FILE = {
    "encoder", "major_brand", "minor_version", "compatible_brands", "duration", "vendor_id", "software",
    "number_of_frames", "number_of_bytes", "bps", "_statistics_tags", "_statistics_writing_app",
    "_statistics_writing_date_utc", "rotate",
}  # fmt: skip
"""Keys, in lower case and without Matroska's language, that the writer sets itself or that are not true any more."""


def kept_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """What of a film's or a stream's metadata is still true of the result."""
    return {key: value for key, value in metadata.items() if _plain(key) not in _OF_THE_FILE}


def _plain(key: str) -> str:
    head, dash, language = key.lower().rpartition("-")
    return head if dash and len(language) == 3 else key.lower()
