"""Pictures that Pillow decodes, as arrays, and the metadata of formats without a reader of their own here."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.infer.picture import Metadata, row_bands, sound_exif

_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def pillow_samples(image: Image.Image, path: Path) -> NDArray[Any]:
    """(H, W, C) uint8, or uint16 for 16-bit gray.

    Raises:
        ArtifactError: Its colours or range are not known.
    """
    if image.mode.startswith("I;16"):
        samples = np.array(image, dtype=np.uint16)[:, :, None]
        return _black_at_zero(samples, image) if image.format == "TIFF" else samples
    transparent = image.mode in {"LA", "PA", "La", "RGBA", "RGBa"} or "transparency" in image.info
    if image.mode in {"1", "L", "LA", "La"}:
        mode = "LA" if transparent else "L"
    elif image.mode in {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"}:
        mode = "RGBA" if transparent else "RGB"
    else:
        raise ArtifactError(
            f"{path} is of kind {image.mode}, whose colours or range are not known",
            hint="save it as sRGB or gray with 8 or 16 bits",
        )
    if "transparency" in image.info and image.mode in {"1", "L"}:
        image = image.convert("RGBA")  # Pillow has no direct way from a transparent gray level to an alpha channel
    image.load()
    decoded = np.empty((image.height, image.width, len(mode)), np.uint8)
    for rows in row_bands(image.height, image.width):
        band = image.crop((0, rows.start, image.width, rows.stop))
        decoded[rows] = np.asarray(band if band.mode == mode else band.convert(mode)).reshape(decoded[rows].shape)
    return decoded


def _black_at_zero(samples: NDArray[np.uint16], image: Image.Image) -> NDArray[np.uint16]:
    """Gray of 16 bits as Pillow reads it, inverted where the TIFF counts from white (TIFF 6.0, WhiteIsZero)."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        np.subtract(2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1, samples, out=samples)
    return samples


def to_stored_orientation(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A TIFF that Pillow turned upright, as it is stored.

    Args:
        samples: (H, W, C), upright.
        orientation: Tag 274 (TIFF 6.0, section 8).
    """
    back = _BACK.get(orientation)
    return samples if back is None else np.ascontiguousarray(back(samples))


_BACK: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: np.rot90,
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def other_metadata(image: Image.Image, content: bytes) -> tuple[Metadata, tuple[str, ...]]:
    """The metadata of a picture as Pillow has read it, and notes on what is not kept.

    Args:
        image: The open file.
        content: Its bytes.
    """
    exif, xmp, dpi = image.info.get("exif"), image.info.get("xmp"), image.info.get("dpi")
    exif = exif.tobytes() if isinstance(exif, Image.Exif) else exif
    if exif and not exif.startswith(b"Exif\0\0"):
        exif = b"Exif\0\0" + exif
    sound, notes = sound_exif(exif)
    metadata = Metadata(
        exif=sound,
        icc_profile=image.info.get("icc_profile") or None,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi else None,
        xmp=(xmp.encode() if isinstance(xmp, str) else xmp) or None,
        lossless=image.format == "WEBP" and _is_lossless_webp(content),
    )
    return metadata, notes


def _is_lossless_webp(content: bytes) -> bool:
    """Whether the picture is in a VP8L chunk (WebP container specification)."""
    place, kinds = 12, set()
    while place + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, place)
        kinds.add(kind)
        place += 8 + length + length % 2
    return b"VP8L" in kinds and b"VP8 " not in kinds
