"""Writing PNG files some rows at a time, at any depth; Pillow writes no 16-bit colour, and whole pictures only."""

from __future__ import annotations

import struct
import zlib
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.infer.picture import Layout, Metadata, row_bands
from deblur_deploy.infer.png_chunks import SIGNATURE, chunk, describe

_LEVEL = 6
COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Colour types by channels (PNG specification, third edition, section 11.2.1)."""


class PngWriter:
    """A PNG file that is written from top to bottom, within a ``with`` block.

    Args:
        file: The destination.
        layout: 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA) channels of uint8 or uint16.
        metadata: What the file says about the picture.
    """

    def __init__(self, file: BinaryIO, layout: Layout, metadata: Metadata) -> None:
        (height, width, channels), dtype = layout.shape, layout.dtype
        self._file = file
        self._packer = zlib.compressobj(_LEVEL)
        self._pixel_bytes = channels * dtype.itemsize
        self._above = np.zeros(width * self._pixel_bytes, np.uint8)
        header = struct.pack(">IIBBBBB", width, height, 8 * dtype.itemsize, COLOR_TYPES[channels], 0, 0, 0)
        file.write(SIGNATURE + chunk(b"IHDR", header) + describe(metadata))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._put(self._packer.flush())
            self._file.write(chunk(b"IEND", b""))

    def write(self, rows: NDArray[Any]) -> None:
        """Write the next rows, (n, W, C) at the layout's depth."""
        for part in row_bands(*rows.shape[:2]):
            stored = np.ascontiguousarray(rows[part], rows.dtype.newbyteorder(">"))
            lines = stored.view(np.uint8).reshape(len(stored), -1)
            filtered = _filter(lines, self._above, self._pixel_bytes)
            self._above = lines[-1].copy()
            self._put(self._packer.compress(filtered))

    def _put(self, packed: bytes) -> None:
        if packed:
            self._file.write(chunk(b"IDAT", packed))


def _filter(lines: NDArray[np.uint8], above: NDArray[np.uint8], pixel_bytes: int) -> bytes:
    """Rows as differences from their neighbours, each by the one of five filters with the least sum of magnitudes.

    Source: PNG specification, third edition, sections 9.2 and 12.7.

    Args:
        lines: (n, bytes of a row).
        above: The row before the first.
        pixel_bytes: Bytes of a pixel.

    Returns:
        The rows, each after the number of its filter.
    """
    up = np.concatenate([above[None], lines[:-1]])
    left, corner = np.zeros_like(lines), np.zeros_like(lines)
    left[:, pixel_bytes:], corner[:, pixel_bytes:] = lines[:, :-pixel_bytes], up[:, :-pixel_bytes]
    mean = ((left.astype(np.uint16) + up) >> 1).astype(np.uint8)
    best = np.empty((len(lines), 1 + lines.shape[1]), np.uint8)
    best[:, 0], best[:, 1:] = 0, lines
    least = _magnitude(lines)
    for number, predicted in enumerate((left, up, mean, _paeth(left, up, corner)), start=1):
        difference = lines - predicted
        cost = _magnitude(difference)
        better = cost < least
        best[better, 0], best[better, 1:] = number, difference[better]
        least = np.minimum(least, cost)
    return best.tobytes()


def _magnitude(rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    magnitudes: NDArray[np.int64] = np.minimum(rows, -rows).sum(axis=1, dtype=np.int64)  # as signed bytes
    return magnitudes


def _paeth(left: NDArray[np.uint8], up: NDArray[np.uint8], corner: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The one of three neighbours that is nearest to left + up - corner (PNG specification, section 9.4)."""
    a, b, c = (plane.astype(np.int16) for plane in (left, up, corner))
    to_left, to_up, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    nearest = np.where(to_up <= to_corner, up, corner)
    predicted: NDArray[np.uint8] = np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest)
    return predicted
