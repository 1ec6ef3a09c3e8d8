"""Interlaced PNG as the seven pictures that it is made of.

libpng puts them together itself, but warns on the terminal where it is asked for a whole picture, as imagecodecs does.
Each pass is filtered by itself (PNG specification, third edition, section 8.2), so each is made a small PNG.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.infer.png_chunks import SIGNATURE, chunk

_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column, and steps from row to row and from column to column."""

_SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}
"""Samples of a pixel by colour type."""


def is_interlaced(content: bytes) -> bool:
    """Whether a PNG is."""
    return content[28:29] == b"\x01"


def decode_passes(content: bytes, decode: Callable[[bytes], NDArray[Any]]) -> NDArray[Any]:
    """An interlaced PNG with 16 bits: (H, W, C) or (H, W).

    Args:
        content: The file.
        decode: Decodes a PNG that is not interlaced.

    Raises:
        ValueError: It ends too early.
    """
    width, height, depth, color = struct.unpack(">IIBB", content[16:26])
    sizes = [(len(range(top, height, down)), len(range(left, width, right))) for top, left, down, right in _PASSES]
    lengths = [rows * (1 + columns * _SAMPLES[color] * depth // 8) if columns else 0 for rows, columns in sizes]
    unpacked = zlib.decompressobj().decompress(b"".join(_pixels(content)), sum(lengths))
    whole: NDArray[Any] | None = None
    begin = 0
    for (top, left, down, right), (rows, columns), length in zip(_PASSES, sizes, lengths, strict=True):
        if not length:
            continue
        filtered = unpacked[begin : begin + length]
        if len(filtered) < length:
            raise ValueError("its pixels end too early")
        begin += length
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, depth, color, 0, 0, 0))
        pixels = chunk(b"IDAT", zlib.compress(filtered, 0))
        part = decode(b"".join((SIGNATURE, header, pixels, chunk(b"IEND", b""))))
        if whole is None:
            whole = np.empty((height, width, *part.shape[2:]), part.dtype)
        whole[top::down, left::right] = part
    assert whole is not None  # the first pass has the first pixel
    return whole


def _pixels(content: bytes) -> Iterator[bytes]:
    begin = len(SIGNATURE)
    while begin + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[begin : begin + 8])
        if kind == b"IDAT":
            yield content[begin + 8 : begin + 8 + length]
        begin += length + 12
