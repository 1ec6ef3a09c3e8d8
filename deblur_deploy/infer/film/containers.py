"""Which container a result is written into, and which codecs it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.film_suffixes import FILM_SUFFIXES
from deblur_deploy.infer.film.source import FilmFacts

_FAMILIES = {
    "matroska": ("matroska", "webm"),
    "mov": ("mov", "mp4", "3gp", "3g2"),
    "mpeg": ("vob", "mpeg"),
    "jpeg_pipe": ("mjpeg",),
    "mpegvideo": ("mpeg2video", "mpeg1video"),
}
"""Muxers of one kind of file by the first name of FFmpeg's demuxer; the suffix decides which."""

_CODECS = {
    "mpegts": {"h264", "hevc", "mpeg2video", "mpeg1video", "mpeg4"},
    "vob": {"mpeg2video", "mpeg1video", "h264"},
    "mpeg": {"mpeg1video", "mpeg2video"},
    "ogg": {"vp8"},
    "mxf": {"mpeg2video", "dnxhd", "h264", "jpeg2000", "prores"},
    "dv": {"dvvideo"},
    "mjpeg": {"mjpeg"},
    "yuv4mpegpipe": {"rawvideo"},
    "rm": {"rv10", "rv20"},
    "3gp": {"h264", "mpeg4", "h263"},
    "3g2": {"h264", "mpeg4", "h263"},
}
"""Codecs of containers that hold only one, as far as FFmpeg knows."""

_FIRST = {"asf": "wmv2", "flv": "libx264"}


def muxer_for(path: Path, demuxer: str, codec: str) -> str:
    """FFmpeg's muxer for the result of a film: the kind of file that it is, whatever its suffix says.

    Args:
        path: The result.
        demuxer: FFmpeg's names of the film's container, such as ``matroska,webm``.
        codec: The film's codec.

    Raises:
        ArtifactError: FFmpeg reads the kind and does not write it.
    """
    names = demuxer.split(",")
    by_suffix = FILM_SUFFIXES.get(path.suffix.lower())
    family = _FAMILIES.get(names[0], tuple(names))
    if names[0] == "mpegvideo":
        return codec if codec in family else "mpeg2video"
    if by_suffix in family:
        muxer = "mpeg" if by_suffix == "vob" and codec == "mpeg1video" else by_suffix
        return str(muxer)
    writable = [name for name in family if name in av.formats_available and _can_write(name)]
    if not writable:
        raise ArtifactError(
            f"files of the kind {demuxer} can be read and not written",
            hint="copy the film into Matroska first: ffmpeg -i FILM -map 0 -c copy FILM.mkv",
        )
    return writable[0]


def _can_write(name: str) -> bool:
    try:
        return bool(av.ContainerFormat(name, "w").is_output)
    except ValueError:
        return False


def takes(writer: Any, codec: str, encoder: str) -> bool:
    """Whether a container holds a codec that players expect there."""
    known = _CODECS.get(writer.format.name)
    return codec in known if known is not None else encoder in writer.supported_codecs


def preferred(muxer: str) -> str | None:
    """The encoder that plays most widely in a container, where it is not the usual one."""
    return _FIRST.get(muxer)


def container_options(muxer: str, source: Path, facts: FilmFacts, metadata: dict[str, str]) -> dict[str, str]:
    """Options of a muxer that keep what the film's own container holds."""
    options: dict[str, str] = {}
    if muxer == "mpegts":
        options["mpegts_copyts"] = "1"
        if _has_time_codes(source):
            options["mpegts_m2ts_mode"] = "1"
    if muxer in ("mov", "mp4"):
        if any(name.startswith("com.") for name in metadata):
            options["movflags"] = "+use_metadata_tags"
        if {"STEREO3D", "SPHERICAL"} & set(facts.side_data):
            options["strict"] = "unofficial"
    return options


def _has_time_codes(source: Path) -> bool:
    """Whether the packets of a transport stream are those of Blu-ray and AVCHD, with four bytes before each."""
    with source.open("rb") as file:
        head = file.read(200)
    return len(head) > 196 and head[0] != 0x47 and head[4] == head[196] == 0x47
