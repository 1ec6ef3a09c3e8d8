"""16-bit colour in PNG and TIFF, which Pillow reads with 8 bits and does not write.

imagecodecs has libpng's full depth and is one wheel with no dependency but numpy; tifffile, by the same author, reads
TIFF with it. The alternative with both formats, OpenCV, is more than twice as large and loses ICC profiles.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.errors import ArtifactError, MissingDependencyError
from deblur_deploy.infer.bad_files import BAD_FILE_ERRORS
from deblur_deploy.infer.picture import Metadata, Picture, row_bands

try:
    import imagecodecs
    import tifffile
except ModuleNotFoundError as err:
    raise MissingDependencyError(
        f"pictures with 16 bits per colour need {err.name}", hint="pip install 'deblur-deploy[deep]'"
    ) from err

_IHDR_END = 33
"""Length of a PNG's signature and header chunk (PNG specification, sections 5.2 and 11.2.1)."""

_INCHES_PER_METRE = 39.3701

_PREMULTIPLIED = 1
"""What ExtraSamples says of an alpha channel with which the colours were multiplied (TIFF 6.0, section 18)."""


def read_deep(path: Path, kind: str) -> NDArray[np.uint16]:
    """Decode a PNG or TIFF with 16 bits and several channels: (H, W, 2 to 4) uint16.

    Raises:
        ArtifactError: It is damaged, or has another depth.
    """
    try:
        samples = imagecodecs.png_decode(path.read_bytes()) if kind == "PNG" else _read_tiff(path)
    except BAD_FILE_ERRORS as err:
        raise ArtifactError(
            f"{path} cannot be read: {err}", hint="the file is cut off or damaged; copy it again"
        ) from err
    if samples.dtype != np.uint16 or samples.ndim != 3 or not 2 <= samples.shape[2] <= 4:
        raise ArtifactError(
            f"{path} has samples of {samples.dtype} in the shape {samples.shape}",
            hint="save it as gray or RGB with 8 or 16 bits",
        )
    return samples if samples.flags.writeable else np.array(samples)


def _read_tiff(path: Path) -> NDArray[Any]:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        samples = np.asarray(page.asarray())
        if page.photometric not in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK) or (
            page.bitspersample != 16
        ):
            raise ValueError(f"{page.photometric.name} with {page.bitspersample} bits is not supported")
        samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples
        return _straight(np.array(samples)) if _PREMULTIPLIED in page.extrasamples else samples


def _straight(samples: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Colours that were multiplied with the alpha channel, as they are without it (TIFF 6.0, section 18).

    Where alpha is zero there is no colour to find, and the stored one stays.
    """
    for rows in row_bands(*samples.shape[:2]):
        colors, alpha = samples[rows, :, :-1], samples[rows, :, -1:].astype(np.float64)
        divided = np.rint(colors * 65535.0 / np.maximum(alpha, 1)).clip(0, 65535)
        samples[rows, :, :-1] = np.where(alpha > 0, divided, colors)
    return samples


def write_deep_png(path: Path, picture: Picture) -> None:
    """Encode uint16 samples with several channels as PNG, with the metadata."""
    encoded = memoryview(imagecodecs.png_encode(picture.samples))
    with path.open("wb") as file:
        file.write(encoded[:_IHDR_END])
        file.write(_png_chunks(picture.metadata))
        file.write(encoded[_IHDR_END:])


def _png_chunks(metadata: Metadata) -> bytes:
    """The chunks that come before the pixels: iCCP, pHYs, eXIf (PNG specification, third edition, section 11.3)."""
    chunks = b""
    if metadata.icc_profile:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc_profile))
    if metadata.dpi:
        per_metre = (round(value * _INCHES_PER_METRE) for value in metadata.dpi)
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if metadata.exif:
        chunks += _chunk(b"eXIf", metadata.exif.removeprefix(b"Exif\0\0"))
    return chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
