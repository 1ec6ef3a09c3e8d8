"""Whether a file ends before its container says that it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_PACKETS = (188, 192, 204)
"""Bytes of a packet of MPEG transport streams: plain, with time codes, with check bytes."""


def is_cut_off(path: Path) -> bool:
    """Whether bytes are missing at the end of a film; False where its container does not say.

    The sizes of top-level parts are followed: boxes of MP4 and QuickTime (ISO/IEC 14496-12, section 4.2), the Segment
    of Matroska (RFC 9559), chunks of RIFF, objects of ASF; a transport stream must be whole packets.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(192 * 4)
        if head[:4] == _EBML:
            return _walk(file, size, _next_element)
        if head[:4] == b"RIFF":
            return _walk(file, size, _next_chunk)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
            return _walk(file, size, _next_box)
        if head[:16] == _ASF:
            return _walk(file, size, _next_object)
        for length in _PACKETS:
            start = length - 188 if length == 192 else 0
            if len(head) > 3 * length and all(head[start + length * index] == 0x47 for index in range(3)):
                return size % length != 0
    return False


def _walk(file: BinaryIO, size: int, end_of: Callable[[BinaryIO, int, int], int | None]) -> bool:
    position = 0
    while position < size:
        file.seek(position)
        end = end_of(file, position, size)
        if end is None or end <= position:
            return False
        position = end
    return position > size


def _next_box(file: BinaryIO, position: int, size: int) -> int | None:
    head = file.read(16)
    if len(head) < 8:
        return size + 1
    length = int.from_bytes(head[:4], "big")
    if length == 1:
        length = int.from_bytes(head[8:16], "big")
    return size if length == 0 else position + length


def _next_chunk(file: BinaryIO, position: int, size: int) -> int | None:
    head = file.read(8)
    if head[:4] not in (b"RIFF", b"JUNK", b"idx1"):
        return None  # padding that somebody appended
    length = int.from_bytes(head[4:8], "little")
    return None if length in (0, 0xFFFFFFFF) else position + 8 + length


def _next_object(file: BinaryIO, position: int, size: int) -> int | None:
    head = file.read(24)
    return position + int.from_bytes(head[16:24], "little") if len(head) == 24 else None


def _next_element(file: BinaryIO, position: int, size: int) -> int | None:
    head = file.read(12)
    if head[:4] not in (_EBML, _SEGMENT) or len(head) < 5:
        return None
    width = 9 - head[4].bit_length()
    value = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
    return None if value == (1 << 7 * width) - 1 else position + 4 + width + value  # all ones: a live stream
