"""Photographs as files hold them: samples at their own depth, alpha, and what the file says about the picture.

Pixels stay as they are stored and an EXIF orientation stays with them, so that nothing is turned twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deblur_deploy.infer.bad_files import BAD_FILE_ERRORS, quiet_libraries

_BAND_PIXELS = 1 << 18

UNASSOCIATED_ALPHA = 2
"""Value of ExtraSamples for a channel of transparency (TIFF 6.0, section 18)."""

_DAMAGED_EXIF = "its EXIF data are damaged and left out"

Own = tuple[tuple[Any, Any], ...]


@dataclass(frozen=True)
class Trailer:
    """What follows a JPEG in its file: other pictures, or a film.

    Args:
        data: As it stands there.
        picture_end: Where the picture ended in its file.
        index_base: Where the offsets of its index of pictures counted from, or 0.
    """

    data: bytes
    picture_end: int
    index_base: int


@dataclass(frozen=True)
class Metadata:
    """What a file says about its picture.

    Args:
        exif: EXIF block, with the orientation.
        icc_profile: Colour profile.
        dpi: Resolution in pixels per inch, horizontal and vertical.
        xmp: XMP packet.
        compressed: Whether a TIFF was compressed.
        lossless: Whether a WebP or AVIF file was compressed without loss.
        progressive: Whether a JPEG was coded in scans that refine each other.
        own: What only files of this format say, in order: names and data of PNG chunks, markers and data of JPEG
            segments, tags and (type, values) of TIFF. It is written where the format stays.
        trailer: What follows a JPEG in its file, or None.
        cicp: Primaries, transfer and matrix of AVIF (ITU-T H.273), or None.
    """

    exif: bytes | None = None
    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    compressed: bool = True
    lossless: bool = False
    progressive: bool = False
    own: Own = ()
    trailer: Trailer | None = None
    cicp: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Tones:
    """Which stored values are black and white, and the curve between them.

    Args:
        low: Stored value of black.
        high: Stored value of white.
        gamma: Exponent that makes a value linear, where the curve is not near that of sRGB; 1 for linear pictures.
        missing: Range of stored values that mark missing pixels, both ends included. NaN and infinity always do.
    """

    low: float
    high: float
    gamma: float | None = None
    missing: tuple[float, float] | None = None


@dataclass(frozen=True)
class Picture:
    """A decoded photograph.

    Args:
        samples: (H, W, C), one or three colours and then what else a pixel has, such as alpha. uint8 or uint16; TIFF
            also has signed and floating samples. Writable.
        format: Pillow's name of the file format.
        metadata: What the file says about it.
        bits: Significant bits of a sample, where the type has more, such as 12 of uint16.
        extra: What the channels after the colours are, as TIFF's ExtraSamples says it; None for alpha in the second or
            fourth of two or four.
        tones: Black and white where they are not 0 and the largest code, or where the curve is not that of sRGB.
        notes: What of the file is not kept, as sentences.
    """

    samples: NDArray[Any]
    format: str
    metadata: Metadata = Metadata()
    bits: int | None = None
    extra: tuple[int, ...] | None = None
    tones: Tones | None = None
    notes: tuple[str, ...] = ()

    @property
    def extra_samples(self) -> tuple[int, ...]:
        """What each channel after the colours is."""
        if self.extra is not None:
            return self.extra
        return (UNASSOCIATED_ALPHA,) if self.samples.shape[2] in (2, 4) else ()

    @property
    def colors(self) -> int:
        """Number of channels that the network works on, 1 or 3."""
        return int(self.samples.shape[2]) - len(self.extra_samples)

    @property
    def white(self) -> int:
        """The largest code of a sample."""
        return int(2 ** (self.bits or 8 * self.samples.itemsize)) - 1


@dataclass(frozen=True)
class Layout:
    """How the samples of a picture lie in a file.

    Args:
        shape: Height, width and channels.
        dtype: Type of a sample.
        bits: As of :class:`Picture`.
        extra: What each channel after the colours is.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    bits: int
    extra: tuple[int, ...]

    @classmethod
    def of(cls, picture: Picture) -> Layout:
        """The layout of a picture in memory."""
        height, width, channels = picture.samples.shape
        dtype = picture.samples.dtype
        return cls((height, width, channels), dtype, picture.bits or 8 * dtype.itemsize, picture.extra_samples)

    @classmethod
    def plain(cls, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Layout:
        """Gray or RGB, with alpha where there are two or four channels, at the full depth of the type."""
        return cls(shape, dtype, 8 * dtype.itemsize, (UNASSOCIATED_ALPHA,) if shape[2] in (2, 4) else ())


def band_rows(width: int) -> int:
    """Rows of about a quarter of a megapixel."""
    return max(1, _BAND_PIXELS // width)


def row_bands(height: int, width: int) -> Iterator[slice]:
    """The rows of a picture in parts of a quarter of a megapixel, so that what is computed from them stays small."""
    rows = band_rows(width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def straight_colors(samples: NDArray[Any], white: int) -> NDArray[Any]:
    """Undo the multiplication of colours by the alpha channel that follows them, in place.

    Where alpha is zero there is no colour to find, and the stored one stays (TIFF 6.0, section 18).
    """
    for rows in row_bands(*samples.shape[:2]):
        colors, alpha = samples[rows, :, :-1], samples[rows, :, -1:].astype(np.float64)
        divided = np.rint(colors * float(white) / np.maximum(alpha, 1)).clip(0, white)
        samples[rows, :, :-1] = np.where(alpha > 0, divided, colors)
    return samples


def sound_exif(exif: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    """An EXIF block where it can be read and holds anything, else None; and a note on a damaged one."""
    if not exif or exif.removeprefix(b"Exif\0\0")[8:10] == bytes(2):
        return None, ()
    block = Image.Exif()
    try:
        with quiet_libraries():
            block.load(exif)
            for directory in (34665, 34853):
                block.get_ifd(directory)
    except BAD_FILE_ERRORS:
        return None, (_DAMAGED_EXIF,)
    return (exif, ()) if len(block) else (None, (_DAMAGED_EXIF,))
