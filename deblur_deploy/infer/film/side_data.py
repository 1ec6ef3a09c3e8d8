"""HDR's static side data, as encoders take it in their parameters."""

from __future__ import annotations

import struct
from fractions import Fraction

from deblur_deploy.infer.film.source import Facts

MASTERING, LIGHT = "MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"

IN_CONTAINER = frozenset({MASTERING, LIGHT, "STEREO3D", "SPHERICAL", "ICC_PROFILE", "AMBIENT_VIEWING_ENVIRONMENT"})
"""Side data that containers hold for the whole film."""

DOLBY_VISION = frozenset({"DOVI_METADATA", "DOVI_RPU_BUFFER"})

_PARAMETERS = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}


def hdr_options(encoder: str, facts: Facts) -> dict[str, str]:
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
