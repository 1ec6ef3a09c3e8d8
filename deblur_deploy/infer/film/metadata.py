"""What a film says about itself: its tags, minus those that describe how the file was written, and HDR metadata."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

from deblur_deploy.infer.film.source import FilmFacts

MASTERING, LIGHT = "MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"

IN_CONTAINER = frozenset({MASTERING, LIGHT, "STEREO3D", "SPHERICAL", "ICC_PROFILE", "AMBIENT_VIEWING_ENVIRONMENT"})
"""Side data that containers hold for the whole film."""

DOLBY_VISION = frozenset({"DOVI_METADATA", "DOVI_RPU_BUFFER"})

_PARAMETERS = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}

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


def hdr_options(encoder: str, facts: FilmFacts) -> dict[str, str]:
    """The options that write mastering display (SMPTE ST 2086) and content light level (CTA-861.3) into the stream."""
    option = _PARAMETERS.get(encoder)
    parts = []
    if option is not None and MASTERING in facts.side_data:
        display = _mastering_display(facts.side_data[MASTERING], in_units=encoder != "libsvtav1")
        parts += [f"{'mastering-display' if encoder != 'libx265' else 'master-display'}={display}"] if display else []
    if option is not None and LIGHT in facts.side_data:
        name = {"libx264": "cll", "libx265": "max-cll", "libsvtav1": "content-light"}[encoder]
        parts.append("{}={},{}".format(name, *struct.unpack_from("=2I", facts.side_data[LIGHT])))
    return {str(option): ":".join(parts)} if parts else {}


def _mastering_display(data: bytes, *, in_units: bool) -> str | None:
    """``G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min)`` from FFmpeg's AVMasteringDisplayMetadata.

    Args:
        data: Ten rationals (red, green, blue and white point as x and y; luminance, minimum first), and two flags for
            which of both are there.
        in_units: In steps of 0.00002 and of 0.0001 cd/m2, as H.265 has them, instead of plain numbers.
    """
    numbers = struct.unpack_from("=22i", data)
    if not numbers[20] or not numbers[21]:
        return None
    values = [Fraction(numbers[2 * index], numbers[2 * index + 1] or 1) for index in range(10)]
    scale = [50_000] * 8 + [10_000] * 2 if in_units else [1] * 10
    texts = [
        str(round(value * unit)) if in_units else f"{float(value):.5g}"
        for value, unit in zip(values, scale, strict=True)
    ]
    red, green, blue, white = (f"({texts[2 * index]},{texts[2 * index + 1]})" for index in range(4))
    return f"G{green}B{blue}R{red}WP{white}L({texts[9]},{texts[8]})"
