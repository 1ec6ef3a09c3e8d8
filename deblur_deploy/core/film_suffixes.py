"""What films are called, and what FFmpeg calls the containers of those names."""

from __future__ import annotations

from pathlib import Path

_SYNC = 0x47
"""First byte of every packet of an MPEG transport stream; in those of Blu-ray the fifth."""

FILM_SUFFIXES: dict[str, str | None] = {
    ".mp4": "mp4", ".m4v": "mp4", ".f4v": "mp4", ".mov": "mov", ".qt": "mov", ".3gp": "3gp", ".3g2": "3g2",
    ".mkv": "matroska", ".mk3d": "matroska", ".webm": "webm", ".avi": "avi", ".divx": "avi",
    ".ts": "mpegts", ".mts": "mpegts", ".m2ts": "mpegts", ".m2t": "mpegts", ".tp": "mpegts", ".trp": "mpegts",
    ".mpg": "vob", ".mpeg": "vob", ".mpe": "vob", ".vob": "vob", ".evo": "vob",
    ".wmv": "asf", ".asf": "asf", ".flv": "flv", ".ogv": "ogg", ".ogm": "ogg", ".mxf": "mxf",
    ".rm": "rm", ".rmvb": "rm", ".dv": "dv", ".nut": "nut",
    ".m1v": None, ".m2v": None, ".h264": None, ".264": None, ".avc": None, ".h265": None, ".265": None, ".hevc": None,
    ".ivf": None, ".obu": None, ".y4m": None, ".mjpg": None, ".mjpeg": None,
}  # fmt: skip
"""Suffixes that folders are searched for, with FFmpeg's muxer; None is a bare stream, whose codec decides."""


def is_film_name(path: Path) -> bool:
    """Whether a file is named like a film; one in ``.ts`` must also begin like a film, since TypeScript ends so too."""
    suffix = path.suffix.lower()
    if suffix != ".ts":
        return suffix in FILM_SUFFIXES
    try:
        with path.open("rb") as file:
            head = file.read(5)
    except OSError:
        return True  # it is reported when it is read
    return len(head) < 5 or _SYNC in (head[0], head[4])
