"""The encoders that films are written with: one row each, with what controls their quality."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Scale = Literal["crf", "quantizer", "lossless", "fixed"]

MPEG_RATES = frozenset({"mpeg1video", "mpeg2video"})
"""Codecs whose streams know a few frame rates only; the times of their pictures are the container's."""


@dataclass(frozen=True)
class VideoEncoder:
    """One encoder.

    Args:
        name: FFmpeg's name.
        codec: FFmpeg's name of the codec.
        scale: What ``--crf`` means to it: its own constant rate factor, its quantizer, or nothing: it is lossless, or
            its quality is fixed by its profile.
        best: The best value of ``--crf``.
        worst: The worst.
        default: Value without ``--crf``: 40 dB or more to what it is given.
        options: Options that are always given.
        even: Whether width and height must be even where chroma is subsampled.
    """

    name: str
    codec: str
    scale: Scale
    best: int = 0
    worst: int = 0
    default: int = 0
    options: dict[str, str] = field(default_factory=dict)
    even: bool = False


def _quantizer(name: str, codec: str, default: int = 1, **options: str) -> VideoEncoder:
    return VideoEncoder(name, codec, "quantizer", 1, 31, default, options)


ENCODERS = (
    VideoEncoder("libx264", "h264", "crf", 0, 51, 10, even=True),
    VideoEncoder("libx264rgb", "h264", "crf", 0, 51, 10),
    VideoEncoder("libx265", "hevc", "crf", 0, 51, 12, {"x265-params": "log-level=none"}, even=True),
    VideoEncoder("libvpx-vp9", "vp9", "crf", 0, 63, 14, {"b": "0", "cpu-used": "3", "row-mt": "1"}),
    VideoEncoder("libsvtav1", "av1", "crf", 0, 63, 4, {"preset": "8"}, even=True),
    # VP8 takes the bit rate for a ceiling of its quality.
    VideoEncoder("libvpx", "vp8", "crf", 4, 63, 8, {"b": "200000000", "cpu-used": "2"}),
    _quantizer("mpeg4", "mpeg4"),
    _quantizer("mpeg2video", "mpeg2video", 2),
    _quantizer("mpeg1video", "mpeg1video", 2),
    _quantizer("mjpeg", "mjpeg", strict="unofficial"),
    _quantizer("wmv2", "wmv2"),
    _quantizer("wmv1", "wmv1"),
    _quantizer("msmpeg4", "msmpeg4v3"),
    _quantizer("msmpeg4v2", "msmpeg4v2"),
    _quantizer("flv", "flv1"),
    _quantizer("h263", "h263"),
    _quantizer("h263p", "h263p"),
    _quantizer("rv20", "rv20"),
    _quantizer("rv10", "rv10"),
    VideoEncoder("prores_ks", "prores", "quantizer", 1, 64, 2),
    VideoEncoder("dnxhd", "dnxhd", "fixed"),
    VideoEncoder("ffv1", "ffv1", "lossless"),
    VideoEncoder("qtrle", "qtrle", "lossless"),
    VideoEncoder("png", "png", "lossless"),
    VideoEncoder("utvideo", "utvideo", "lossless"),
    VideoEncoder("magicyuv", "magicyuv", "lossless"),
    VideoEncoder("ffvhuff", "ffvhuff", "lossless"),
    VideoEncoder("huffyuv", "huffyuv", "lossless"),
    VideoEncoder("rawvideo", "rawvideo", "lossless"),
    VideoEncoder("v210", "v210", "lossless"),
    VideoEncoder("r210", "r210", "lossless"),
    VideoEncoder("zlib", "zlib", "lossless"),
    VideoEncoder("flashsv", "flashsv", "lossless"),
    VideoEncoder("ljpeg", "ljpeg", "lossless"),
    VideoEncoder("jpeg2000", "jpeg2000", "lossless", options={"pred": "1"}),
)
"""In order of preference where a film's own codec cannot be written: what plays widely comes first.

Quantizers keep ``qmin`` at ``qmax``. No default changes the mean of a plane by more than 0.1 level over five passes;
the usual advice of 18 for x264 does. CineForm is left out: FFmpeg's encoder loses 0.3 level a pass.
"""

DEEP_FIRST = ("libx265", "libsvtav1", "libx264")
"""Preferred for more than 8 bits: HEVC Main 10 plays more widely than H.264 High 10."""

NEAREST = {"cfhd": "prores_ks"}
"""Preferred for codecs that have a near relative."""

ALPHA_FIRST = ("prores_ks", "libvpx-vp9", "qtrle", "ffv1", "utvideo", "png")
"""Preferred for pictures with transparency."""

_SVT_LOG, _ERRORS_ONLY = "SVT_LOG", "1"


def own_encoders(codec: str) -> list[VideoEncoder]:
    """The encoders that write a codec."""
    return [row for row in ENCODERS if row.codec == codec]


def encoder_named(name: str) -> VideoEncoder:
    """A row by the name of its encoder or codec; of another encoder of FFmpeg, one whose quality is fixed."""
    rows = [row for row in ENCODERS if row.name == name] or own_encoders(name)
    return rows[0] if rows else VideoEncoder(name, name, "fixed")


@contextmanager
def quiet_encoders() -> Iterator[None]:
    """Silence SVT-AV1's own log by the environment variable that it reads; a user's setting stays."""
    if _SVT_LOG in os.environ:
        yield
        return
    os.environ[_SVT_LOG] = _ERRORS_ONLY
    try:
        yield
    finally:
        os.environ.pop(_SVT_LOG, None)
