"""Settings of a whole run over files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.infer.encode import EncodeConfig
from deblur_deploy.infer.restore import RestoreConfig

LARGEST_CRF = 64
"""The worst quality on any encoder's scale."""


@dataclass(frozen=True)
class VideoConfig:
    """How films are written, and which part of them.

    Args:
        codec: FFmpeg's name of an encoder, such as ``libx264``, or None for the codec of the input.
        crf: Quality on the encoder's own scale, lower is better and larger; None is visually lossless.
        pixel_format: FFmpeg's name of a pixel format, or None for that of the input.
        profile: Profile of the encoder, such as ``high422``, or None for what fits.
        preset: Preset of the encoder, such as ``slow``, or None for its usual one.
        deinterlace: Deinterlace films instead of refusing them.
        drop_alpha: Leave out transparency where the result cannot hold it, instead of refusing.
        start: Where the part begins, in seconds after the first picture.
        end: Where it ends, or None for the end of the film.
    """

    codec: str | None = None
    crf: int | None = None
    pixel_format: str | None = None
    profile: str | None = None
    preset: str | None = None
    deinterlace: bool = False
    drop_alpha: bool = False
    start: Fraction = Fraction(0)
    end: Fraction | None = None

    def __post_init__(self) -> None:
        if self.crf is not None and not 0 <= self.crf <= LARGEST_CRF:
            raise ConfigError(f"crf is {self.crf}", hint=f"give 0 (best) to {LARGEST_CRF}, as the encoder counts")
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise ConfigError(
                f"the part from {float(self.start):g} s to {float(self.end or 0):g} s is empty",
                hint="give an out point after the in point",
            )


def parse_time(text: str) -> Fraction:
    """A time in a film, such as ``90``, ``1:30`` or ``0:01:30.5``, in seconds.

    Raises:
        ConfigError: The text has another form.
    """
    match = re.fullmatch(r"(?:(?:(\d{1,4}):)?(\d{1,4}):)?(\d{1,6}(?:\.\d{1,9})?)", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a time", hint="write seconds or hours:minutes:seconds, such as 0:01:30.5")
    hours, minutes, seconds = (Fraction(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def parse_part(in_point: str | None, out_point: str | None) -> tuple[Fraction, Fraction | None]:
    """Where a part of a film begins and ends, in seconds; None is the film's own beginning or end."""
    return parse_time(in_point) if in_point else Fraction(0), parse_time(out_point) if out_point else None


@dataclass(frozen=True)
class DicomConfig:
    """How DICOM files are written.

    Args:
        keep_uid: Keep the UID of the picture (SOPInstanceUID), instead of giving the result one of its own.
    """

    keep_uid: bool = False


@dataclass(frozen=True)
class InferConfig:
    """How files are restored.

    Args:
        restore: Memory and tiles.
        encode: Format and quality of pictures.
        video: Codec, quality and part of films.
        dicom: The UID of DICOM files.
        resume: Skip files that are done.
        keep_going: Restore a JPEG that is cut off as far as it goes.
        temporal: Give the network the frame before, in films and in folders of numbered frames.
    """

    restore: RestoreConfig = field(default_factory=RestoreConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    video: VideoConfig = VideoConfig()
    dicom: DicomConfig = DicomConfig()
    resume: bool = False
    keep_going: bool = False
    temporal: bool = False
