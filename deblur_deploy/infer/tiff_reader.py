"""Reading TIFF files some rows at a time: a few strips become a small TIFF, which the usual reader decodes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin, TiffTags

from deblur_deploy.core.curves import icc_gamma
from deblur_deploy.infer.bad_files import decoding, quiet_libraries
from deblur_deploy.infer.picture import Layout, Metadata, Tones, band_rows
from deblur_deploy.infer.read import read_picture
from deblur_deploy.infer.tiff_tags import TiffPage, find_page
from deblur_deploy.infer.tones import gamma_tones

_CLASSIC = (b"II*\0", b"MM\0*")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 259, 262, 277
_STRIP_OFFSETS, _STRIP_ROWS, _STRIP_SIZES, _ORIENTATION, _PLANES = 273, 278, 279, 274, 284
_FORMAT = 339
_KEPT = (_WIDTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, 266, _PLANES, 317, 338, 339)
"""Tags that say how a strip is stored (TIFF 6.0); the others: order of bits, predictor, kind of alpha, of samples."""

_UNCOMPRESSED = 1
_COMPRESSIONS = {_UNCOMPRESSED: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate"}
_GRAY_OR_RGB = (0, 1, 2)
_MAX_STRIP_PIXELS = 1 << 22


@dataclass(frozen=True)
class _TiffStrips:
    """The layout of a TIFF file.

    Args:
        tags: What the file says.
        height: Height in pixels.
        strip_rows: Rows of every strip but the last.
        strips: Offset and length of each strip; of an uncompressed file of each row.
        page: What the file says.
    """

    tags: TiffImagePlugin.ImageFileDirectory_v2
    height: int
    strip_rows: int
    strips: tuple[tuple[int, int], ...]
    page: TiffPage


class TiffReader:
    """A TIFF file that is decoded from top to bottom.

    Args:
        path: The file.
        layout: Its layout.

    Raises:
        ArtifactError: The first rows cannot be read.
        MissingDependencyError: 16-bit colour, and the extra ``deep`` is not installed.
    """

    kind = "TIFF"

    def __init__(self, path: Path, layout: _TiffStrips) -> None:
        self._path, self._layout = path, layout
        first = next(self.bands())
        self.layout = Layout.plain((layout.height, *first.shape[1:]), first.dtype)
        self.metadata: Metadata = layout.page.metadata
        self.tones: Tones | None = gamma_tones(icc_gamma(self.metadata.icc_profile), 2**self.layout.bits - 1)
        self.notes = layout.page.notes

    def bands(self) -> Iterator[NDArray[Any]]:
        """The rows in order, some at a time: (n, W, C).

        Raises:
            ArtifactError: The file is damaged.
        """
        layout = self._layout
        with decoding(self._path), self._path.open("rb") as file:
            strips = max(1, band_rows(int(layout.tags[_WIDTH])) // layout.strip_rows)
            for first in range(0, len(layout.strips), strips):
                data = [_read(file, *place) for place in layout.strips[first : first + strips]]
                height = min(len(data) * layout.strip_rows, layout.height - first * layout.strip_rows)
                yield read_picture(self._path, self._small(data, height)).samples

    def _small(self, strips: list[bytes], height: int) -> BinaryIO:
        """A TIFF of nothing but these strips."""
        source = self._layout.tags
        tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=source.prefix)
        with quiet_libraries():
            for tag in filter(source.__contains__, _KEPT):
                tags.tagtype[tag] = source.tagtype[tag]
                tags[tag] = source[tag]
        for tag in (_STRIP_OFFSETS, _STRIP_SIZES):
            tags.tagtype[tag] = TiffTags.LONG
        sizes = [len(strip) for strip in strips]
        tags[_HEIGHT], tags[_STRIP_ROWS], tags[_STRIP_SIZES] = height, self._layout.strip_rows, tuple(sizes)
        tags[_STRIP_OFFSETS] = tuple(int(start) for start in np.cumsum([0, *sizes[:-1]]))  # from the end of the tags
        content = io.BytesIO()
        tags.save(content)
        content.writelines(strips)
        content.seek(0)
        return content


def open_tiff(path: Path) -> TiffReader | None:
    """A reader of a TIFF row by row; None where that cannot be: tiles, turned, few large strips, or unusual samples.

    Raises:
        ArtifactError: Its header or its first rows cannot be read.
        MissingDependencyError: 16-bit colour, and the extra ``deep`` is not installed.
    """
    with decoding(path), quiet_libraries(), path.open("rb") as file:
        if file.read(4) not in _CLASSIC:
            return None
        layout = _find_strips(find_page(file))
    return TiffReader(path, layout) if layout is not None else None


def _find_strips(page: TiffPage) -> _TiffStrips | None:
    tags, bits = page.tags, page.bits
    samples, compression = len(bits), page.number(_COMPRESSION, _UNCOMPRESSED)
    plain = page.number(_PLANES, 1) == 1 and page.number(_ORIENTATION, 1) == 1
    plain = plain and page.number(_PHOTOMETRIC, -1) in _GRAY_OR_RGB and page.missing is None and page.pages == 1
    plain = plain and set(page.numbers(_FORMAT, (1,))) == {1} and page.extra in ((), (1,), (2,)) and not page.is_raw
    if not plain or set(bits) not in ({8}, {16}) or compression not in _COMPRESSIONS:
        return None
    if _STRIP_OFFSETS not in tags or _STRIP_SIZES not in tags:
        return None
    width, height = page.number(_WIDTH, 0), page.number(_HEIGHT, 0)
    rows = min(int(tags.get(_STRIP_ROWS, height)), height)
    strips = tuple(zip(page.numbers(_STRIP_OFFSETS, ()), page.numbers(_STRIP_SIZES, ()), strict=True))
    if rows < 1 or len(strips) != -(-height // rows):
        return None
    if compression == _UNCOMPRESSED:
        length = width * samples * bits[0] // 8
        starts = [strips[row // rows][0] + row % rows * length for row in range(height)]
        strips, rows = tuple((start, length) for start in starts), 1
    elif rows * width > _MAX_STRIP_PIXELS:
        return None
    return _TiffStrips(tags, height, rows, strips, page)


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) < length:
        raise ValueError("a strip is cut off")
    return data
