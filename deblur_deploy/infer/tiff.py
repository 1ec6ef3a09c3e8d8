"""Writing TIFF at any depth with every tag: Pillow writes no 16-bit colour, and camera data only uncompressed."""

from __future__ import annotations

import zlib
from fractions import Fraction
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, TiffTags

from deblur_deploy.infer.picture import DESCRIPTIVE_TAGS, Metadata

_STRIP_BYTES = 1 << 20
_DEFLATE, _UNCOMPRESSED, _HORIZONTAL_DIFFERENCES = 8, 1, 2
_DIRECTORIES = (34665, 34853)
_STRIP_OFFSETS, _STRIP_SIZES = 273, 279
_INCH, _UNASSOCIATED_ALPHA, _GRAY, _RGB = 2, 2, 1, 2


class TiffWriter:
    """A little-endian TIFF that is written from top to bottom in strips, within a ``with`` block.

    Compressed, it is deflated after taking differences between neighbours (TIFF 6.0, sections 8, 14; Technote 2).

    Args:
        file: Where to; it can be rewound.
        shape: Height, width and channels: gray or RGB, with or without alpha.
        dtype: uint8 or uint16.
        metadata: What the file says about the picture.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int, int], dtype: np.dtype[Any], metadata: Metadata) -> None:
        height, width, channels = shape
        self._file, self._compressed = file, metadata.compressed
        self._strip_rows = max(1, _STRIP_BYTES // (width * channels * dtype.itemsize))
        self._sizes: list[int] = []
        self._waiting = np.empty((0, width, channels), dtype)
        self._tags = _describe(shape, dtype, metadata)
        self._tags[278] = self._strip_rows
        # The tags come first and tell of strips that are not written yet: as many bytes are kept free.
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
        """Write the next rows, (n, W, C) of the depth that was said."""
        rows = np.concatenate([self._waiting, rows]) if len(self._waiting) else rows
        whole = len(rows) // self._strip_rows * self._strip_rows
        for top in range(0, whole, self._strip_rows):
            self._put_strip(rows[top : top + self._strip_rows])
        self._waiting = rows[whole:].copy()

    def _put_strip(self, rows: NDArray[Any]) -> None:
        strip = _encode(rows, self._compressed)
        self._file.write(strip)
        self._sizes.append(len(strip))

    def _put_tags(self, sizes: list[int]) -> None:
        starts = np.cumsum([0, *sizes[:-1]])  # from the end of the tags, as Pillow has it
        self._tags[_STRIP_OFFSETS], self._tags[_STRIP_SIZES] = tuple(map(int, starts)), tuple(sizes)
        self._file.seek(0)
        self._tags.save(self._file)


def _describe(
    shape: tuple[int, int, int], dtype: np.dtype[Any], metadata: Metadata
) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags, without those of the strips."""
    height, width, channels = shape
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    for tag in exif:
        if tag not in DESCRIPTIVE_TAGS:  # how the file that it comes from is built
            continue
        tags[tag] = exif.get_ifd(tag) if tag in _DIRECTORIES else exif[tag]
    for tag in (_STRIP_OFFSETS, _STRIP_SIZES):
        tags.tagtype[tag] = TiffTags.LONG  # else their length would go by their values
    tags[256], tags[257], tags[277] = width, height, channels
    tags[258] = (8 * dtype.itemsize,) * channels
    tags[259] = _DEFLATE if metadata.compressed else _UNCOMPRESSED
    tags[262] = _RGB if channels > 2 else _GRAY
    if metadata.compressed:
        tags[317] = _HORIZONTAL_DIFFERENCES
    if channels in (2, 4):
        tags[338] = _UNASSOCIATED_ALPHA
    if metadata.dpi:
        tags[282], tags[283] = (Fraction(value).limit_denominator(1000) for value in metadata.dpi)
        tags[296] = _INCH
    if metadata.xmp:
        tags[700] = metadata.xmp
    if metadata.icc_profile:
        tags[34675] = metadata.icc_profile
    return tags


def _encode(rows: NDArray[Any], compressed: bool) -> bytes:
    if compressed:
        rows = np.concatenate([rows[:, :1], np.diff(rows, axis=1)], axis=1)  # wraps around, as it should
    data = rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes()
    return zlib.compress(data, 6) if compressed else data
