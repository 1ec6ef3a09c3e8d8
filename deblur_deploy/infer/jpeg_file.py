"""A JPEG file segment by segment: what Pillow would drop, and what follows the picture.

Sources: ITU-T T.81, annex B; CIPA DC-007 (Multi-Picture Format); XMP specification, part 3; Ultra HDR image format.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass, replace
from xml.etree import ElementTree

from deblur_deploy.infer.picture import Metadata, Own, Trailer, sound_exif

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_APP0, APP1, APP2, _APP14, _APP15, _COM, _SOS, _SOF2 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE, 0xDA, 0xC2
_ALONE = {0x01, *range(0xD0, 0xD8)}
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""The end of entropy-coded data: a marker other than a restart."""

_EXIF, _ICC, MPF = b"Exif\0\0", b"ICC_PROFILE\0", b"MPF\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MAX_SEGMENT = 65533

_THUMBNAIL_TYPES = {0x010001, 0x010002}
"""Types of pictures in a multi-picture file that are smaller copies of the first (CIPA DC-007, table 4)."""

_PROMISES = (
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.adobe.com/hdr-gain-map/1.0/",
    "http://ns.google.com/photos/1.0/camera/",
)
"""XMP namespaces that describe what follows the picture in the file."""


@dataclass(frozen=True)
class JpegFile:
    """A JPEG file taken apart.

    Args:
        segments: Markers and data of the segments before the first scan.
        end: Where the picture ends in the file, or None where it is cut off.
        trailer: What follows it.
        mpf_base: Where the offsets of its index of pictures count from, or 0.
        progressive: Whether it is coded in scans that refine each other.
    """

    segments: Own
    end: int | None
    trailer: bytes
    mpf_base: int
    progressive: bool

    @property
    def shows_previews(self) -> bool:
        """Whether what follows are smaller copies of the picture, which would show the unrestored one."""
        return any(kind in _THUMBNAIL_TYPES for kind, *_ in self._pictures)

    @property
    def pictures(self) -> int:
        """How many pictures its index lists."""
        return max(1, len(self._pictures))

    @property
    def _pictures(self) -> list[tuple[int, int, int]]:
        data = next((data for marker, data in self.segments if marker == APP2 and data.startswith(MPF)), b"")
        return [(attributes & 0xFFFFFF, size, start) for _, attributes, size, start in index_entries(data)]

    def metadata(self) -> tuple[Metadata, tuple[str, ...]]:
        """The metadata of the picture, and notes on what is not kept."""
        block = next((data for marker, data in self.segments if marker == APP1 and data.startswith(_EXIF)), None)
        exif, notes = sound_exif(block)
        xmp = next((data for marker, data in self.segments if marker == APP1 and data.startswith(_XMP)), None)
        xmp = xmp[len(_XMP) :] if xmp else None
        profiles = [data for marker, data in self.segments if marker == APP2 and data.startswith(_ICC)]
        own = tuple(item for item in self.segments if _is_own(*item))
        trailer = Trailer(self.trailer, self.end or 0, self.mpf_base) if self.trailer else None
        if self.shows_previews:
            notes += ("not kept: the previews after the picture, which show it unrestored",)
            trailer, xmp = None, without_promises(xmp)
        elif self.pictures > 1:
            notes += (f"only the first of its {self.pictures} pictures is restored; the others are as they were",)
        if trailer is None:
            own = tuple((marker, data) for marker, data in own if not (marker == APP2 and data.startswith(MPF)))
        icc = b"".join(data[len(_ICC) + 2 :] for data in sorted(profiles, key=lambda data: data[len(_ICC)]))
        metadata = Metadata(exif, icc or None, self._dpi, xmp, own=own, trailer=trailer)
        return replace(metadata, progressive=self.progressive), notes

    @property
    def _dpi(self) -> tuple[float, float] | None:
        data = next((data for marker, data in self.segments if marker == _APP0 and data.startswith(b"JFIF\0")), b"")
        if len(data) < 12:
            return None
        unit, *density = struct.unpack_from(">BHH", data, 7)
        per_inch = {1: 1.0, 2: 2.54}.get(unit)
        return (density[0] * per_inch, density[1] * per_inch) if per_inch and all(density) else None


def take_apart(data: bytes) -> JpegFile:
    """Read the segments of a JPEG up to the end of its picture.

    Args:
        data: The file.
    """
    segments: list[tuple[int, bytes]] = []
    place, mpf_base, scanned, progressive = 2, 0, False, False
    while place + 4 <= len(data) or data[place : place + 2] == _EOI:
        if data[place] != 0xFF:  # fill bytes between segments, which decoders skip
            place = data.find(b"\xff", place)
            if place < 0:
                break
            continue
        marker = data[place + 1]
        if marker == 0xFF or marker in _ALONE:
            place += 1 if marker == 0xFF else 2
            continue
        if marker == _EOI[1]:
            return JpegFile(tuple(segments), place + 2, data[place + 2 :], mpf_base, progressive)
        (length,) = struct.unpack_from(">H", data, place + 2)
        content = data[place + 4 : place + 2 + length]
        scanned |= marker == _SOS
        progressive |= marker == _SOF2
        if not scanned and len(content) == length - 2 and (_APP0 <= marker <= _APP15 or marker == _COM):
            segments.append((marker, content))
            if marker == APP2 and content.startswith(MPF):
                mpf_base = place + 4 + len(MPF)
        place += 2 + max(length, 2)
        if marker == _SOS:
            found = _MARKER.search(data, place)
            place = found.end() - 2 if found else len(data)
    return JpegFile(tuple(segments), None, b"", mpf_base, progressive)


def _is_own(marker: int, data: bytes) -> bool:
    """Whether a segment is copied; those that describe the coding are written anew."""
    if marker == APP1:
        return not data.startswith((_EXIF, _XMP))
    return marker not in (_APP0, _APP14) and not (marker == APP2 and data.startswith(_ICC))


def extra_segments(own: Own) -> bytes:
    """Segments as they stand in a file."""
    return b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in own)


def append_trailer(written: bytes, trailer: Trailer) -> bytes:
    """A new JPEG with the trailer of the old one, whose index of pictures is corrected."""
    place = written.find(MPF)
    if place < 0:
        return written + trailer.data
    base = place + len(MPF)
    moved = (len(written) - base) - (trailer.picture_end - trailer.index_base)
    index = bytearray(written[place : place + _MAX_SEGMENT])
    for at, _, _, start in index_entries(bytes(index)):
        order = "<" if index[4:6] == b"II" else ">"
        struct.pack_into(f"{order}I", index, at + (8 if start else 4), start + moved if start else len(written))
    return written[:place] + bytes(index) + written[place + len(index) :] + trailer.data


def index_entries(data: bytes) -> list[tuple[int, int, int, int]]:
    """Pictures in a multi-picture index: where the entry is in ``data``, attributes, size, and offset of the picture.

    Args:
        data: The segment from its name on.
    """
    try:
        if not data.startswith(MPF):
            return []
        order = "<" if data[4:6] == b"II" else ">"
        (directory,) = struct.unpack_from(f"{order}I", data, 8)
        (count,) = struct.unpack_from(f"{order}H", data, 4 + directory)
        for entry in range(count):
            tag, _, length, offset = struct.unpack_from(f"{order}HHII", data, 4 + directory + 2 + 12 * entry)
            if tag == 0xB002:
                places = range(4 + offset, 4 + offset + length // 16 * 16, 16)
                return [(at, *struct.unpack_from(f"{order}III", data, at)) for at in places]
    except struct.error:
        pass
    return []


def without_promises(xmp: bytes | None) -> bytes | None:
    """An XMP packet without its references to pictures and films after this one; None where it cannot be read."""
    if xmp is None or not any(namespace.encode() in xmp for namespace in _PROMISES):
        return xmp
    try:
        for _, (prefix, uri) in ElementTree.iterparse(io.BytesIO(xmp), ["start-ns"]):
            ElementTree.register_namespace(prefix, uri)  # so that the packet keeps its prefixes
        root = ElementTree.fromstring(xmp)
    except (ElementTree.ParseError, ValueError):
        return None
    for element in list(root.iter()):
        for child in list(element):
            if child.tag.startswith(tuple(f"{{{name}" for name in _PROMISES)):
                element.remove(child)
        for name in list(element.attrib):
            if name.startswith(tuple(f"{{{name}" for name in _PROMISES)):
                del element.attrib[name]
    return bytes(ElementTree.tostring(root))
