"""Curves from stored values to light: which one a picture declares, and which are close enough to that of sRGB."""

from __future__ import annotations

import struct
from typing import BinaryIO

from PIL import Image

LINEAR, PQ, HLG = 8, 16, 18
"""Transfer characteristics (ITU-T H.273, table 3)."""

HDR_CURVES = {PQ: "PQ (SMPTE ST 2084)", HLG: "HLG (BT.2100)"}

_USUAL_GAMMA = (1.7, 2.9)
"""Exponents near enough to sRGB's curve to be taken as it: ProPhoto's 1.8, Adobe RGB's 2.2, BT.470's 2.8."""

_HEAD_BYTES = 1 << 16


def is_like_srgb(gamma: float | None) -> bool:
    """Whether values that are linear when raised to ``gamma`` can be taken as sRGB; so are those of an absurd gamma."""
    return gamma is None or _USUAL_GAMMA[0] <= gamma <= _USUAL_GAMMA[1] or not 0.1 <= gamma <= 10


def icc_gamma(profile: bytes | None) -> float | None:
    """The exponent of an ICC profile's red or gray curve; None where it is a table, or there is none.

    Source: ICC.1:2022, sections 7.3, 10.6 and 10.18.
    """
    try:
        for entry in range(struct.unpack_from(">I", profile or b"", 128)[0]):
            tag, offset, _ = struct.unpack_from(">4sII", profile or b"", 132 + 12 * entry)
            if tag not in (b"rTRC", b"kTRC"):
                continue
            kind, count = struct.unpack_from(">4s4xI", profile or b"", offset)
            if kind == b"curv" and count < 2:
                return struct.unpack_from(">H", profile or b"", offset + 12)[0] / 256 if count else 1.0
            if kind == b"para" and count >> 16 == 0:
                return float(struct.unpack_from(">i", profile or b"", offset + 12)[0] / 65536)
    except struct.error:
        pass
    return None


def curve_unlike_srgb(image: Image.Image, file: BinaryIO) -> str | None:
    """The name of a picture's curve, such as ``linear``; None where it can be taken as sRGB.

    Args:
        image: The picture, open in Pillow.
        file: The file that it comes from.
    """
    transfer = _transfer(file)
    if transfer in HDR_CURVES:
        return HDR_CURVES[transfer]
    gamma = None
    if transfer == LINEAR:
        gamma = 1.0
    elif transfer is None and image.info.get("icc_profile"):
        gamma = icc_gamma(image.info["icc_profile"])
    elif transfer is None and "srgb" not in image.info and (encoding := image.info.get("gamma")):
        gamma = 1 / encoding
    if is_like_srgb(gamma):
        return None
    return "linear" if gamma == 1 else f"gamma {gamma:.3g}"


def _transfer(file: BinaryIO) -> int | None:
    """The transfer characteristics that a PNG (cICP), AVIF or HEIF file (nclx) declares, or None."""
    place = file.tell()  # from which Pillow reads on
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(place)
    if head.startswith(b"\x89PNG"):
        place = head.find(b"\0\0\0\4cICP", 0, head.find(b"IDAT"))
        return head[place + 9] if 0 <= place < len(head) - 9 else None
    place = head.find(b"colrnclx") if head[4:8] == b"ftyp" else -1
    return struct.unpack_from(">H", head, place + 10)[0] if 0 <= place < len(head) - 12 else None
