"""Samples that Pillow reads with 8 bits or not at all: deep PNG, AVIF and HEIF, and TIFF of any type.

imagecodecs has libpng's and libavif's full depth and is one wheel with no dependency but numpy; tifffile, by the same
author, reads TIFF with it. The alternative, OpenCV, is more than twice as large and loses ICC profiles.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import MissingDependencyError
from deblur_deploy.infer.picture import straight_colors
from deblur_deploy.infer.png_passes import decode_passes, is_interlaced

try:
    import imagecodecs
    import tifffile
except ModuleNotFoundError as err:
    raise MissingDependencyError(
        f"pictures of more than 8 bits per colour need {err.name}", hint="pip install 'deblur-deploy[deep]'"
    ) from err

_PREMULTIPLIED = 1
"""Value of ExtraSamples for an alpha channel that the colours were multiplied by (TIFF 6.0, section 18)."""

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2


def decode_png(content: bytes, transparent: bytes | None) -> NDArray[Any]:
    """A PNG with 16 bits: (H, W, C) uint16.

    Args:
        content: The file.
        transparent: The gray level or colour that is transparent, as the file has it; alpha is made of it.
    """
    decode = imagecodecs.png_decode
    samples = decode_passes(content, decode) if is_interlaced(content) else decode(content)
    samples = samples[:, :, None] if samples.ndim == 2 else samples
    if transparent is not None and samples.shape[2] in (1, 3):
        key = np.frombuffer(transparent, ">u2")[: samples.shape[2]]
        alpha = np.where((samples == key).all(axis=2, keepdims=True), 0, 65535).astype(np.uint16)
        samples = np.concatenate([samples, alpha], axis=2)
    return _writeable(samples)


def decode_avif(content: bytes) -> NDArray[Any]:
    """An AVIF picture at its depth: (H, W, C), uint16 where there are more than 8 bits."""
    samples = imagecodecs.avif_decode(content)
    return _writeable(samples[:, :, None] if samples.ndim == 2 else samples)


def encode_avif(samples: NDArray[Any], bits: int, level: int, cicp: tuple[int, int, int] | None) -> bytes:
    """An AVIF picture without metadata, of 4:4:4.

    Args:
        samples: (H, W, C).
        bits: Of a sample: 8, 10 or 12.
        level: Quality from 1 to 100; 100 is without loss.
        cicp: Primaries, transfer and matrix, or None.
    """
    primaries, transfer, matrix = cicp or (None, None, None)
    stored = samples[:, :, 0] if samples.shape[2] == 1 else samples
    if stored.ndim == 3 and stored.shape[2] == 2:
        stored = np.concatenate([np.repeat(stored[:, :, :1], 3, axis=2), stored[:, :, 1:]], axis=2)
    options: dict[str, Any] = {"primaries": primaries, "transfer": transfer, "matrix": matrix if level < 100 else None}
    layout = "400" if stored.ndim == 2 else "444"
    encoded = imagecodecs.avif_encode(
        np.ascontiguousarray(stored), level, bitspersample=bits, pixelformat=layout, **options
    )
    return bytes(encoded)


def decode_tiff(content: BinaryIO, index: int) -> tuple[NDArray[Any], int]:
    """A page of a TIFF: (H, W, C) of its own type, with black at zero, and the bits of a sample.

    Args:
        content: The file.
        index: The page.

    Raises:
        ValueError: Its colours are not supported, such as CMYK.
    """
    content.seek(0)
    with tifffile.TiffFile(content) as file:
        page = file.pages[index]
        if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
            raise ValueError(f"{page.photometric.name} with {page.bitspersample} bits is not supported")
        samples = np.asarray(page.asarray())
        if page.axes == "SYX":
            samples = np.moveaxis(samples, 0, -1)
        samples = np.array(samples[:, :, None] if samples.ndim == 2 else samples)
        if samples.ndim != 3 or samples.dtype.kind not in "iuf":
            raise ValueError(f"samples of {samples.dtype} in {samples.ndim} dimensions are not supported")
        bits = int(page.bitspersample)
        if page.photometric == _WHITE_IS_ZERO:
            if samples.dtype.kind != "u":
                raise ValueError(f"{samples.dtype} that counts from white is not supported")
            np.subtract(2**bits - 1, samples, out=samples)
        if page.extrasamples[:1] == (_PREMULTIPLIED,) and len(page.extrasamples) == 1 and samples.dtype.kind == "u":
            samples = straight_colors(samples, 2**bits - 1)
        return samples, bits


def _writeable(samples: NDArray[Any]) -> NDArray[Any]:
    return samples if samples.flags.writeable else np.array(samples)
