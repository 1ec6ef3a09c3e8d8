"""What films are called, and what FFmpeg calls the containers of those names."""

from __future__ import annotations

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
