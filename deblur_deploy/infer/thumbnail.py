"""The thumbnail in EXIF data, which has to show the restored picture or go (Exif 2.32, section 4.5.5)."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deblur_deploy.infer.bad_files import BAD_FILE_ERRORS
from deblur_deploy.infer.picture import Picture

_START, _LENGTH = 0x201, 0x202
_HEAD = b"Exif\0\0"
_MAX_BLOCK = 65_500
"""Largest EXIF block with its header that fits into a segment of a JPEG."""


@dataclass(frozen=True)
class _ThumbnailDirectory:
    """The second directory of an EXIF block, which is that of the thumbnail.

    Args:
        order: Byte order for ``struct``.
        link: Where the offset of the directory stands.
        start: Where the entry with the thumbnail's offset has its value, or None.
        length: Where the entry with its length has its value, or None.
    """

    order: str
    link: int
    start: int | None
    length: int | None


def renewed(exif: bytes | None, picture: Picture) -> bytes | None:
    """EXIF data whose thumbnail shows this picture; one that cannot be redrawn is removed from the directories.

    Args:
        exif: The block with its head.
        picture: As it is stored, like the thumbnail.
    """
    try:
        block = (exif or b"").removeprefix(_HEAD)
        found = _find(block)
        if exif is None or found is None:
            return exif
        if found.start is None or found.length is None or (drawn := _draw(block, found, picture)) is None:
            return without(exif)
        data = bytearray(block)
        (start,) = struct.unpack_from(f"{found.order}I", block, found.start)
        (length,) = struct.unpack_from(f"{found.order}I", block, found.length)
        if len(drawn) > length:
            start = len(data)
            data += bytes(len(drawn))
        if len(data) > _MAX_BLOCK:
            return without(exif)
        data[start : start + len(drawn)] = drawn
        struct.pack_into(f"{found.order}I", data, found.start, start)
        struct.pack_into(f"{found.order}I", data, found.length, len(drawn))
        return _HEAD + bytes(data)
    except BAD_FILE_ERRORS:
        return without(exif)


def without(exif: bytes | None) -> bytes | None:
    """EXIF data that list no thumbnail."""
    try:
        block = bytearray((exif or b"").removeprefix(_HEAD))
        if exif is None or (found := _find(bytes(block))) is None:
            return exif
        struct.pack_into(f"{found.order}I", block, found.link, 0)
        return _HEAD + bytes(block)
    except struct.error:
        return exif


def _find(block: bytes) -> _ThumbnailDirectory | None:
    """The directory of the thumbnail, or None where there is none."""
    order = "<" if block[:2] == b"II" else ">"
    if len(block) < 8:
        return None
    (first,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, first)
    link = first + 2 + 12 * count
    if len(block) < link + 4:
        return None
    (second,) = struct.unpack_from(f"{order}I", block, link)
    if not second:
        return None
    (count,) = struct.unpack_from(f"{order}H", block, second)
    entries = range(second + 2, second + 2 + 12 * count, 12)
    places = {struct.unpack_from(f"{order}H", block, entry)[0]: entry + 8 for entry in entries}
    return _ThumbnailDirectory(order, link, places.get(_START), places.get(_LENGTH))


def _draw(block: bytes, found: _ThumbnailDirectory, picture: Picture) -> bytes | None:
    """The picture as a JPEG of the size of the old thumbnail, with black bars where that had another shape."""
    (start,) = struct.unpack_from(f"{found.order}I", block, found.start or 0)
    (length,) = struct.unpack_from(f"{found.order}I", block, found.length or 0)
    with Image.open(io.BytesIO(block[start : start + length])) as old:
        size = old.size
    samples = picture.samples[:, :, : picture.colors]
    step = max(1, min(samples.shape[0] // (4 * size[1]), samples.shape[1] // (4 * size[0])))
    small = samples[::step, ::step].astype(np.float64)
    low, high = (picture.tones.low, picture.tones.high) if picture.tones else (0, picture.white)
    codes = np.rint((small - low) * (255 / max(high - low, 1e-12))).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(codes[:, :, 0] if codes.shape[2] == 1 else codes).convert("RGB")
    image.thumbnail(size)
    if abs(image.width - size[0]) <= 2 and abs(image.height - size[1]) <= 2:
        image = image.resize(size)
    sheet = Image.new("RGB", size)
    sheet.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=85)
    return content.getvalue()
