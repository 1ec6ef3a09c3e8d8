"""What a result has lost of its film, as notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deblur_deploy.infer.film.metadata import kept_metadata
from deblur_deploy.infer.film.source import FilmFacts, film_stream, is_still, opened, read_facts

_SIDE_DATA = {
    "DISPLAYMATRIX": "how the picture is turned for display",
    "MASTERING_DISPLAY_METADATA": "the mastering display of HDR",
    "CONTENT_LIGHT_LEVEL": "the content light level of HDR",
    "DYNAMIC_HDR_PLUS": "the dynamic metadata of HDR10+",
    "DYNAMIC_HDR_VIVID": "the dynamic metadata of HDR Vivid",
    "DOVI_METADATA": "the metadata of Dolby Vision",
    "DOVI_RPU_BUFFER": "the metadata of Dolby Vision",
    "AMBIENT_VIEWING_ENVIRONMENT": "the viewing environment of HDR",
    "STEREO3D": "how both views of 3D are stored",
    "SPHERICAL": "the projection of 360 degree video",
    "ICC_PROFILE": "the colour profile",
    "A53_CC": "closed captions",
    "S12M_TIMECODE": "time codes of pictures",
    "AFD": "the active format description",
}
_COLORS = {
    "colorspace": "colour space",
    "color_range": "range",
    "color_primaries": "primaries",
    "color_trc": "transfer characteristics",
}
_UNSPECIFIED = {"colorspace": (2,), "color_range": (0,), "color_primaries": (0, 2), "color_trc": (0, 2)}


def losses(source: Path, facts: FilmFacts, result: Path, colors: dict[str, int]) -> list[str]:
    """Compare a result with its film.

    Args:
        source: The film.
        facts: What is known about it.
        result: The result.
        colors: The colours that the result was to have.

    Returns:
        One sentence for each thing that is not there any more.
    """
    found = read_facts(result)
    notes = [
        f"the {words} of the colours cannot be kept here"
        for name, words in _COLORS.items()
        if colors[name] not in _UNSPECIFIED[name] and found.colors[name] != colors[name]
    ]
    if (facts.aspect or 1) != (found.aspect or 1):
        notes.append(f"the pixel aspect ratio {facts.aspect} cannot be kept here")
    missing = [words for kind, words in _SIDE_DATA.items() if kind in facts.side_data and kind not in found.side_data]
    notes += [f"{words} cannot be kept here" for words in dict.fromkeys(missing)]
    return notes + _lost_texts(source, result)


def _lost_texts(source: Path, result: Path) -> list[str]:
    notes = []
    with opened(source) as before, opened(result) as after:
        texts = [(before.metadata, after.metadata, "")]
        texts.append((film_stream(before, source).metadata, film_stream(after, result).metadata, " of the video"))
        for old, new, of_what in texts:
            there = {key.lower() for key in new}
            lost = sorted(key for key in kept_metadata(old) if key.lower() not in there)
            if lost:
                notes.append(f"metadata{of_what} that this container has no place for: {', '.join(map(repr, lost))}")
        if len(before.chapters()) != len(after.chapters()):
            notes.append("chapters cannot be kept here")
        if _still_pictures(before) > _still_pictures(after):
            notes.append("the cover cannot be kept here")
    return notes


def _still_pictures(reader: Any) -> int:
    return sum(is_still(stream) for stream in reader.streams.video)
