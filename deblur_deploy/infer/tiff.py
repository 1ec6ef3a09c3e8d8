"""Writing TIFF at any depth with every tag: Pillow writes no 16-bit colour, and camera data only uncompressed."""

from __future__ import annotations

import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from deblur_deploy.infer.picture import Picture

_STRIP_BYTES = 1 << 20
_DEFLATE, _UNCOMPRESSED, _HORIZONTAL_DIFFERENCES = 8, 1, 2
_DIRECTORIES = (34665, 34853)
_INCH, _UNASSOCIATED_ALPHA, _GRAY, _RGB = 2, 2, 1, 2


def write_tiff(path: Path, picture: Picture) -> None:
    """Write a little-endian TIFF in strips: gray or RGB, with or without alpha, of 8 or 16 bits.

    Compressed, it is deflated after taking differences between neighbours (TIFF 6.0, sections 8, 14; Technote 2).
    """
    samples, metadata = picture.samples, picture.metadata
    height, width, channels = samples.shape
    rows = max(1, _STRIP_BYTES // (width * channels * samples.itemsize))
    strips = [_encode(samples[top : top + rows], metadata.compressed) for top in range(0, height, rows)]
    sizes = [len(strip) for strip in strips]

    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    for tag in exif:
        tags[tag] = exif.get_ifd(tag) if tag in _DIRECTORIES else exif[tag]
    tags[256], tags[257], tags[277] = width, height, channels
    tags[258] = (8 * samples.itemsize,) * channels
    tags[259] = _DEFLATE if metadata.compressed else _UNCOMPRESSED
    tags[262] = _RGB if channels > 2 else _GRAY
    tags[278], tags[279] = rows, tuple(sizes)
    tags[273] = tuple(int(start) for start in np.cumsum([0, *sizes[:-1]]))  # from the end of the tags, as Pillow has it
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
    with path.open("wb") as file:
        tags.save(file)
        for strip in strips:
            file.write(strip)


def _encode(rows: np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger]], compressed: bool) -> bytes:
    if compressed:
        rows = np.concatenate([rows[:, :1], np.diff(rows, axis=1)], axis=1)  # wraps around, as it should
    data = rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes()
    return zlib.compress(data, 6) if compressed else data
