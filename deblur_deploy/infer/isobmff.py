"""AVIF and HEIF files as boxes (ISO/IEC 14496-12, 23008-12): how their pixels are stored, and adding metadata.

The encoder of deep AVIF writes pixels alone; EXIF, XMP, the colour profile and the orientation are added to its file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from deblur_deploy.infer.picture import Metadata

_FULL_BOXES = {b"meta": 4, b"iprp": 0, b"ipco": 0}
"""Boxes that hold boxes, and the bytes of version and flags before these."""

_UNSPECIFIED, _BT709, _SRGB, _IDENTITY = 2, 1, 13, 0
_ORIENTATION = 274
_TURNS = {3: 2, 5: 1, 6: 3, 7: 3, 8: 1}
"""Quarter turns against the clock by EXIF orientation (``irot``)."""

_MIRRORS = {2: 1, 4: 0, 5: 0, 7: 0}
"""Axis of mirroring by EXIF orientation (``imir``): 0 turns top to bottom."""


@dataclass(frozen=True)
class PixelFacts:
    """What the boxes of a picture say about its pixels.

    Args:
        bits: Of a sample.
        cicp: Primaries, transfer and matrix where they are not sRGB's, or None (ITU-T H.273).
        is_lossless: Whether the colours are coded as RGB, as lossless encoders do.
    """

    bits: int
    cicp: tuple[int, int, int] | None
    is_lossless: bool


def read_facts(content: bytes) -> PixelFacts:
    """What a file says about its pixels; 8 bits of sRGB where it says nothing."""
    bits, cicp, lossless = 8, None, False
    for kind, data in _boxes(content):
        if kind == b"av1C" and bits == 8 and len(data) > 2:
            bits = (12 if data[2] & 0x20 else 10) if data[2] & 0x40 else 8
        elif kind == b"hvcC" and bits == 8 and len(data) > 17:
            bits = 8 + (data[17] & 7)
        elif kind == b"colr" and data.startswith(b"nclx"):
            primaries, transfer, matrix = struct.unpack_from(">HHH", data, 4)
            lossless = matrix == _IDENTITY
            if lossless or {primaries, transfer} - {_UNSPECIFIED, _BT709, _SRGB}:
                cicp = primaries, transfer, matrix
    return PixelFacts(bits, cicp, lossless)


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of a file that hold no others, depth first."""
    place = 0
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        header = 8
        if length == 1 and place + 16 <= len(content):
            (length,) = struct.unpack_from(">Q", content, place + 8)
            header = 16
        end = place + length if length >= header else len(content)
        data = content[place + header : end]
        if kind in _FULL_BOXES:
            yield from _boxes(data[_FULL_BOXES[kind] :])
        else:
            yield kind, data
        place = end


def add_metadata(content: bytes, metadata: Metadata) -> bytes:
    """A picture with EXIF, XMP, profile and orientation.

    Args:
        content: As libavif writes it: ``ftyp``, ``meta`` and ``mdat``, with offsets of four bytes from the start of the
            file.
        metadata: What is added.
    """
    start = struct.unpack_from(">I", content, 0)[0]
    length = struct.unpack_from(">I", content, start)[0]
    parts = dict(_children(content[start + 12 : start + length]))
    properties = _properties(metadata)
    if properties:
        parts[b"iprp"] = _with_properties(parts[b"iprp"], properties)
    items = _items(metadata)
    first = 1 + max(struct.unpack_from(">H", parts[b"iloc"], place)[0] for place in _entries(parts[b"iloc"]))
    parts[b"iinf"], references = _with_infos(parts[b"iinf"], items, first)
    parts[b"iref"] = parts.get(b"iref", bytes(4)) + references
    locations = parts[b"iloc"]
    added = sum(len(data) for *_, data in items)
    parts[b"iloc"] = locations + bytes(14 * len(items))  # as long as it will be
    meta = _box(b"meta", bytes(4) + b"".join(_box(kind, data) for kind, data in parts.items() if data != bytes(4)))
    moved = len(meta) - length
    parts[b"iloc"] = _located(locations, moved, [(first + n, item) for n, (*_, item) in enumerate(items)], len(content))
    meta = _box(b"meta", bytes(4) + b"".join(_box(kind, data) for kind, data in parts.items() if data != bytes(4)))
    tail = _box(b"mdat", b"".join(data for *_, data in items)) if added else b""
    return content[:start] + meta + content[start + length :] + tail


def _items(metadata: Metadata) -> list[tuple[bytes, bytes, bytes]]:
    """Type, what follows it in its entry, and data of each item of metadata."""
    items = []
    if metadata.exif:
        items.append((b"Exif", b"\0", bytes(4) + metadata.exif.removeprefix(b"Exif\0\0")))
    if metadata.xmp:
        items.append((b"mime", b"\0application/rdf+xml\0", metadata.xmp))
    return items


def _properties(metadata: Metadata) -> list[tuple[bytes, bool]]:
    """Property boxes, and whether a reader must understand them."""
    found = []
    if metadata.icc_profile:
        found.append((_box(b"colr", b"prof" + metadata.icc_profile), False))
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    orientation = exif.get(_ORIENTATION, 1)
    if orientation in _TURNS:
        found.append((_box(b"irot", bytes([_TURNS[orientation]])), True))
    if orientation in _MIRRORS:
        found.append((_box(b"imir", bytes([_MIRRORS[orientation]])), True))
    return found


def _with_properties(iprp: bytes, properties: list[tuple[bytes, bool]]) -> bytes:
    """Properties added to every item that has a size: the colours and, so that both turn, the transparency."""
    children = dict(_children(iprp))
    count = len(list(_children(children[b"ipco"])))
    children[b"ipco"] += b"".join(box for box, _ in properties)
    ipma = children[b"ipma"]
    written, place = bytearray(ipma[:8]), 8
    for _ in range(struct.unpack_from(">I", ipma, 4)[0]):
        used = ipma[place + 2]
        written += ipma[place : place + 2] + bytes([used + len(properties)]) + ipma[place + 3 : place + 3 + used]
        written += bytes(count + 1 + n + (0x80 if needed else 0) for n, (_, needed) in enumerate(properties))
        place += 3 + used
    children[b"ipma"] = bytes(written)
    return b"".join(_box(kind, data) for kind, data in children.items())


def _with_infos(iinf: bytes, items: list[tuple[bytes, bytes, bytes]], first: int) -> tuple[bytes, bytes]:
    """Entries for the items, and the references by which they describe the picture, which is item 1."""
    count = struct.unpack_from(">H", iinf, 4)[0]
    entries = references = b""
    for number, (kind, after, _) in enumerate(items, start=first):
        entries += _box(b"infe", b"\2\0\0\1" + struct.pack(">HH", number, 0) + kind + after)
        references += _box(b"cdsc", struct.pack(">HHH", number, 1, 1))
    return iinf[:4] + struct.pack(">H", count + len(items)) + iinf[6:] + entries, references


def _entries(iloc: bytes) -> Iterator[int]:
    """Offsets of the entries of an item location table: version 0, fields of four bytes, one extent each."""
    if iloc[0] != 0 or iloc[4:6] != b"\x44\x00":
        raise ValueError("the encoder wrote item locations of another form")
    return iter(range(8, 8 + 14 * struct.unpack_from(">H", iloc, 6)[0], 14))


def _located(iloc: bytes, moved: int, items: list[tuple[int, bytes]], size: int) -> bytes:
    """The item location table with its offsets moved, and new items after the end of a file of ``size`` bytes."""
    table = bytearray(iloc)
    for place in _entries(iloc):
        struct.pack_into(">I", table, place + 6, struct.unpack_from(">I", table, place + 6)[0] + moved)
    start = size + moved + 8
    for number, data in items:
        table += struct.pack(">HHHII", number, 0, 1, start, len(data))
        start += len(data)
    struct.pack_into(">H", table, 6, struct.unpack_from(">H", iloc, 6)[0] + len(items))
    return bytes(table)


def _children(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        yield kind, content[place + 8 : place + length]
        place += length


def _box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data) + 8, kind) + data
