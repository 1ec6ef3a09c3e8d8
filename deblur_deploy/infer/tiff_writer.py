"""Writing TIFF at any depth with every tag: Pillow writes no 16-bit colour, and camera data only uncompressed."""

from __future__ import annotations

import zlib
from fractions import Fraction
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, TiffTags

from deblur_deploy.infer.picture import Layout, Metadata
from deblur_deploy.infer.tiff_tags import DESCRIPTIVE_TAGS

_STRIP_BYTES = 1 << 20
_DEFLATE, _UNCOMPRESSED, _HORIZONTAL_DIFFERENCES = 8, 1, 2
_DIRECTORIES = (34665, 34853)
_STRIP_OFFSETS, _STRIP_SIZES = 273, 279
_INCH, _GRAY, _RGB = 2, 1, 2
_X_RESOLUTION = 282
_SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}
"""What a sample is by the kind of its type (TIFF 6.0, section 19)."""


class TiffWriter:
    """A little-endian TIFF that is written from top to bottom in strips, within a ``with`` block.

    Compressed, it is deflated after taking differences between neighbours (TIFF 6.0, sections 8, 14; Technote 2).

    Args:
        file: The destination; it must be seekable.
        layout: Gray or RGB with any other channels, of whole numbers or floats.
        metadata: What the file says about the picture.
    """

    def __init__(self, file: BinaryIO, layout: Layout, metadata: Metadata) -> None:
        (height, width, channels), dtype = layout.shape, layout.dtype
        self._file, self._compressed, self._bits = file, metadata.compressed, layout.bits
        self._strip_rows = max(1, _STRIP_BYTES // (width * channels * dtype.itemsize))
        self._sizes: list[int] = []
        self._waiting = np.empty((0, width, channels), dtype)
        self._tags = _describe(layout, metadata)
        self._tags[278] = self._strip_rows
        # The tags come first and describe strips that are not written yet, so room is reserved for them.
        self._put_tags([0] * -(-height // self._strip_rows))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if len(self._waiting):
                self._put_strip(self._waiting)
            self._put_tags(self._sizes)

    def write(self, rows: NDArray[Any]) -> None:
        """Write the next rows, (n, W, C) at the layout's depth."""
        rows = np.concatenate([self._waiting, rows]) if len(self._waiting) else rows
        whole = len(rows) // self._strip_rows * self._strip_rows
        for top in range(0, whole, self._strip_rows):
            self._put_strip(rows[top : top + self._strip_rows])
        self._waiting = rows[whole:].copy()

    def _put_strip(self, rows: NDArray[Any]) -> None:
        strip = _encode(rows, self._compressed, self._bits)
        self._file.write(strip)
        self._sizes.append(len(strip))

    def _put_tags(self, sizes: list[int]) -> None:
        starts = np.cumsum([0, *sizes[:-1]])  # from the end of the tags, as Pillow has it
        self._tags[_STRIP_OFFSETS], self._tags[_STRIP_SIZES] = tuple(map(int, starts)), tuple(sizes)
        self._file.seek(0)
        self._tags.save(self._file)


def _describe(layout: Layout, metadata: Metadata) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags, without those of the strips."""
    height, width, channels = layout.shape
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    for tag in exif:
        if tag not in DESCRIPTIVE_TAGS:  # how the file that it comes from is built
            continue
        tags[tag] = exif.get_ifd(tag) if tag in _DIRECTORIES else exif[tag]
    for tag, (kind, value) in metadata.own:
        tags.tagtype[tag] = kind
        tags[tag] = value
    for tag in (_STRIP_OFFSETS, _STRIP_SIZES):
        tags.tagtype[tag] = TiffTags.LONG  # otherwise their length would depend on their values
    tags[256], tags[257], tags[277] = width, height, channels
    tags[258] = (layout.bits,) * channels
    tags[259] = _DEFLATE if metadata.compressed else _UNCOMPRESSED
    tags[262] = _RGB if channels - len(layout.extra) > 1 else _GRAY
    if metadata.compressed and _takes_differences(layout.dtype, layout.bits):
        tags[317] = _HORIZONTAL_DIFFERENCES
    if layout.extra:
        tags.tagtype[338] = TiffTags.SHORT
        tags[338] = layout.extra
    if (sample_format := _SAMPLE_FORMATS[layout.dtype.kind]) > 1:
        tags[339] = (sample_format,) * channels
    if metadata.dpi and _X_RESOLUTION not in tags:
        tags[282], tags[283] = (Fraction(value).limit_denominator(1000) for value in metadata.dpi)
        tags[296] = _INCH
    if metadata.xmp:
        tags[700] = metadata.xmp
    if metadata.icc_profile:
        tags[34675] = metadata.icc_profile
    return tags


def _takes_differences(dtype: np.dtype[Any], bits: int) -> bool:
    return dtype.kind in "iu" and bits == 8 * dtype.itemsize


def _encode(rows: NDArray[Any], compressed: bool, bits: int) -> bytes:
    if compressed and _takes_differences(rows.dtype, bits):
        rows = np.concatenate([rows[:, :1], np.diff(rows, axis=1)], axis=1)  # wraps around, as it should
    if rows.dtype.kind == "u" and bits < 8 * rows.itemsize:
        data = _packed(rows, bits)
    else:
        data = rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes()
    return zlib.compress(data, 6) if compressed else data


def _packed(rows: NDArray[Any], bits: int) -> bytes:
    """Samples of so many bits one after the other, the highest bit first, each row from a new byte (TIFF 6.0, 258)."""
    samples = rows.reshape(len(rows), -1, 1)
    digits = ((samples >> np.arange(bits - 1, -1, -1, dtype=rows.dtype)) & 1).astype(np.uint8)
    return np.packbits(digits.reshape(len(rows), -1), axis=1).tobytes()
