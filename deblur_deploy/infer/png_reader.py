"""Reading PNG files some rows at a time.

pypng does that too, but in pure Python; so does libvips, a second large library beside Pillow. zlib and the readers
that are needed anyway suffice.

The compressed stream is unpacked as far as it is needed, and each band of rows becomes a small PNG, which the usual
reader decodes. Since rows are stored as differences from the row above, the band begins with the last row of the one
before, stored as it is.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from deblur_deploy.core.images import MAX_PIXELS
from deblur_deploy.infer.bad_files import decoding
from deblur_deploy.infer.picture import Layout, Metadata, Tones, row_bands
from deblur_deploy.infer.png_chunks import SIGNATURE, chunk
from deblur_deploy.infer.read import read_picture

_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Channels by colour type; without palettes (PNG specification, third edition, section 11.2.1)."""

_NOT_IN_ROWS = {b"tRNS", b"acTL"}
"""Chunks of transparent colours and of animations, which need the whole picture."""

_MAX_BESIDE_BYTES = 64 << 20
"""Largest sum of everything besides the pixels, in bytes; profiles and camera data are far smaller."""

_PART_BYTES = 1 << 16


@dataclass(frozen=True)
class _PngFile:
    """The layout of a PNG file.

    Args:
        width: Width in pixels.
        height: Height.
        depth: Bits per sample, 8 or 16.
        color: Colour type.
        beside: Chunks other than the header and the pixels, as they are in the file.
        pixels: Offset and length of the data of each IDAT chunk.
    """

    width: int
    height: int
    depth: int
    color: int
    beside: bytes
    pixels: tuple[tuple[int, int], ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, without that of its filter."""
        return self.width * _CHANNELS[self.color] * self.depth // 8

    def header(self, height: int) -> bytes:
        """The header chunk of a picture of another height."""
        return chunk(b"IHDR", struct.pack(">IIBBBBB", self.width, height, self.depth, self.color, 0, 0, 0))


class PngReader:
    """A PNG file that is decoded from top to bottom.

    Args:
        path: The file.
        layout: Its layout.

    Raises:
        ArtifactError: The chunks besides the pixels cannot be read.
        MissingDependencyError: 16-bit colour, and the extra ``deep`` is not installed.
    """

    kind = "PNG"

    def __init__(self, path: Path, layout: _PngFile) -> None:
        self._path, self._layout = path, layout
        black = self._decode(layout.beside, bytes(1 + layout.row_bytes), 1)
        self.layout = Layout.plain((layout.height, *black.samples.shape[1:]), black.samples.dtype)
        self.metadata: Metadata = black.metadata
        self.tones: Tones | None = black.tones
        self.notes: tuple[str, ...] = black.notes

    def bands(self) -> Iterator[NDArray[Any]]:
        """The rows in order, some at a time: (n, W, C).

        Raises:
            ArtifactError: The file is damaged.
        """
        layout, above = self._layout, b""
        with decoding(self._path), self._path.open("rb") as file:
            stream = _Inflated(file, layout.pixels)
            for rows in row_bands(layout.height, layout.width):
                count = rows.stop - rows.start
                filtered = above + stream.read(count * (1 + layout.row_bytes))
                samples = self._decode(b"", filtered, count + bool(above)).samples[bool(above) :]
                above = b"\0" + samples[-1].astype(samples.dtype.newbyteorder(">")).tobytes()
                yield samples

    def _decode(self, beside: bytes, filtered: bytes, height: int) -> Any:
        pixels = chunk(b"IDAT", zlib.compress(filtered, 0))
        parts = (SIGNATURE, self._layout.header(height), beside, pixels, chunk(b"IEND", b""))
        return read_picture(self._path, io.BytesIO(b"".join(parts)))


def open_png(path: Path) -> PngReader | None:
    """A reader of a PNG row by row; None where that cannot be: interlaced, with a palette, or damaged.

    Raises:
        ArtifactError: As :class:`PngReader`.
        MissingDependencyError: Likewise.
    """
    try:
        with path.open("rb") as file:
            layout = _find_chunks(file) if file.read(8) == SIGNATURE else None
    except (OSError, struct.error):
        return None
    return PngReader(path, layout) if layout is not None else None


def _find_chunks(file: BinaryIO) -> _PngFile | None:
    header, beside, pixels, begun = b"", b"", [], 0
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IDAT":
            pixels.append((file.tell(), length))
            file.seek(length + 4, io.SEEK_CUR)
            continue
        begun += length + 12
        if kind in _NOT_IN_ROWS or begun > _MAX_BESIDE_BYTES:
            return None
        if kind == b"IEND":
            break
        data = file.read(length + 4)
        if kind == b"IHDR":
            header = data
        else:
            beside += struct.pack(">I4s", length, kind) + data
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    if depth not in (8, 16) or color not in _CHANNELS or interlaced or not 0 < width * height <= MAX_PIXELS:
        return None
    return _PngFile(width, height, depth, color, beside, tuple(pixels))


class _Inflated:
    """The unpacked bytes of a PNG's pixels."""

    def __init__(self, file: BinaryIO, chunks: tuple[tuple[int, int], ...]) -> None:
        self._parts = _packed_parts(file, chunks)
        self._unpacker = zlib.decompressobj()
        self._packed = b""

    def read(self, count: int) -> bytes:
        """Exactly so many bytes.

        Raises:
            ValueError: There are fewer, or a checksum is wrong.
        """
        found = bytearray()
        while len(found) < count:
            if not self._packed:
                self._packed = next(self._parts, b"")
            part = self._unpacker.decompress(self._packed, count - len(found))
            if not part and (self._unpacker.eof or not self._packed):
                raise ValueError("its pixels end too early")
            self._packed = self._unpacker.unconsumed_tail
            found += part
        return bytes(found)


def _packed_parts(file: BinaryIO, chunks: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
    """The data of chunks, some at a time; a damaged one lacks its last part."""
    for start, length in chunks:
        file.seek(start)
        checksum, left = zlib.crc32(b"IDAT"), length
        while left:
            part = file.read(min(left, _PART_BYTES))
            checksum, left = zlib.crc32(part, checksum), left - len(part)
            if not part or (not left and file.read(4) != struct.pack(">I", checksum)):
                raise ValueError("a checksum is wrong" if part else "its pixels end too early")
            yield part
