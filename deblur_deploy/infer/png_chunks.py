"""The chunks of a PNG besides its pixels; a damaged one is lost by itself, and the picture is not."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from deblur_deploy.core.curves import icc_gamma
from deblur_deploy.infer.picture import Metadata, Own, Tones, sound_exif
from deblur_deploy.infer.tones import gamma_tones, transfer_note, transfer_tones

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_INCHES_PER_METRE = 39.3701
_METRE = 1
_MAX_UNPACKED = 64 << 20
"""Largest text or profile, in bytes; those of cameras and editors are far smaller."""

_XMP_KEYWORD = b"XML:com.adobe.xmp"
_RAW_EXIF = (b"Raw profile type exif", b"Raw profile type APP1")

_FOR_PIXELS = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}
"""Ancillary chunks that the values of the pixels depend on."""

_OF_COLOR_TYPE = {b"sBIT", b"bKGD"}
"""Chunks that are valid only while the colour type and the depth stay."""

_STALE = {b"hIST", b"iDOT"}
"""Chunks that refer to the palette and to offsets in the old file."""

_LENGTHS = {b"gAMA": 4, b"cHRM": 32, b"cICP": 4, b"sRGB": 1, b"pHYs": 9, b"tIME": 7, b"mDCV": 24, b"cLLI": 8}

_COPIED = {*_LENGTHS, *_OF_COLOR_TYPE, b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"sPLT"}
_COPIED |= {b"oFFs", b"pCAL", b"sCAL", b"sTER"}
"""Chunks of the specification and its extensions that stay valid; others stay if marked safe to copy."""


@dataclass(frozen=True)
class PngHeader:
    """The first chunk (PNG specification, third edition, section 11.2.1)."""

    width: int
    height: int
    depth: int
    color_type: int

    @property
    def is_deep_color(self) -> bool:
        """Whether there are 16 bits and more than gray, which Pillow would cut down to 8."""
        return self.depth == 16 and self.color_type != 0


@dataclass(frozen=True)
class PngParts:
    """A PNG file taken apart.

    Args:
        header: The first chunk.
        pixels: A PNG of nothing but what the pixels need.
        beside: Names and data of the other chunks that are undamaged.
        transparent: Gray level, or colour, that is transparent; of 16 bits.
        frames: Pictures in it.
        notes: What is not kept.
    """

    header: PngHeader
    pixels: BinaryIO
    beside: Own
    transparent: bytes | None
    frames: int
    notes: tuple[str, ...]

    @property
    def metadata(self) -> Metadata:
        """What the file says about its picture."""
        found = dict(reversed(self.beside))
        dpi = None
        if b"pHYs" in found:
            *per_metre, unit = struct.unpack(">IIB", found[b"pHYs"])
            dpi = (per_metre[0] / _INCHES_PER_METRE, per_metre[1] / _INCHES_PER_METRE) if unit == _METRE else None
        texts = {keyword: text for kind, data in self.beside if (keyword := _keyword(kind, data)) for text in [data]}
        exif = found.get(b"eXIf")
        exif = b"Exif\0\0" + exif if exif else next((_raw_exif(texts[key]) for key in _RAW_EXIF if key in texts), None)
        return Metadata(
            exif=exif or None,
            icc_profile=_inflated(found[b"iCCP"], 2) if b"iCCP" in found else None,
            dpi=dpi if dpi and all(dpi) else None,
            xmp=_itxt_text(texts[_XMP_KEYWORD]) if _XMP_KEYWORD in texts else None,
            own=tuple((kind, data) for kind, data in self.beside if kind != b"eXIf" and not _is_raw_exif(kind, data)),
        )

    @property
    def tones(self) -> tuple[Tones | None, str | None]:
        """The tone curve, and a note on it (section 4.3: which chunk has precedence)."""
        found, white = dict(reversed(self.beside)), 255 if self.header.depth <= 8 else 65535
        if b"cICP" in found:
            transfer = found[b"cICP"][1]
            return transfer_tones(transfer, white), transfer_note(transfer)
        if b"iCCP" in found:
            return gamma_tones(icc_gamma(_inflated(found[b"iCCP"], 2)), white), None
        if b"gAMA" in found and b"sRGB" not in found:
            (encoding,) = struct.unpack(">I", found[b"gAMA"])
            return gamma_tones(100_000 / encoding if encoding else None, white), None
        return None, None


def read_header(file: BinaryIO) -> PngHeader:
    """The header of a PNG, from its beginning.

    Raises:
        ValueError: There is none.
    """
    file.seek(8)
    length, kind = struct.unpack(">I4s", file.read(8))
    if kind != b"IHDR" or length != 13:
        raise ValueError("its header is damaged")
    return PngHeader(*struct.unpack(">IIBB", file.read(10)))


def take_apart(file: BinaryIO) -> PngParts:
    """Read a PNG; a damaged chunk other than the pixels is left out, with a note.

    Raises:
        ValueError: There is no header.
    """
    header = read_header(file)
    needed, beside, notes, frames = [SIGNATURE], [], [], 1
    transparent = None
    for kind, data, checksum in _chunks(file):
        whole = zlib.crc32(kind + data) == checksum
        if kind[:1].isupper() or (kind == b"tRNS" and whole):
            needed.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))
            transparent = data if kind == b"tRNS" else transparent
        elif kind == b"acTL" and len(data) == 8:
            (frames,) = struct.unpack(">I", data[:4])
        elif kind in _FOR_PIXELS:
            continue
        elif not whole or not _is_sound(kind, data):
            notes.append(f"its metadata are damaged and left out: {_called(kind, data)}")
        elif _is_kept(kind, header, transparent is not None):
            beside.append((kind, data))
        elif kind not in _STALE | _OF_COLOR_TYPE:
            notes.append(f"not kept: chunk {kind.decode('latin-1')}, which speaks of the old pixels")
    return PngParts(header, io.BytesIO(b"".join(needed)), tuple(beside), transparent, frames, tuple(notes))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and checksum (PNG specification, third edition, section 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def describe(metadata: Metadata) -> bytes:
    """The chunks that come before the pixels (PNG specification, third edition, section 11.3)."""
    chunks, own = b"", {kind for kind, _ in metadata.own}
    if metadata.icc_profile and b"iCCP" not in own:
        chunks += chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc_profile))
    for kind, data in metadata.own:
        chunks += chunk(kind, data)
    if metadata.dpi and b"pHYs" not in own:
        per_metre = (round(value * _INCHES_PER_METRE) for value in metadata.dpi)
        chunks += chunk(b"pHYs", struct.pack(">IIB", *per_metre, _METRE))
    if metadata.xmp and not any(_keyword(kind, data) == _XMP_KEYWORD for kind, data in metadata.own):
        chunks += chunk(b"iTXt", _XMP_KEYWORD + bytes(5) + metadata.xmp)
    if metadata.exif:
        chunks += chunk(b"eXIf", metadata.exif.removeprefix(b"Exif\0\0"))
    return chunks


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes, int]]:
    """Names, data and checksums; of a file that is cut off the last one is shorter than it says."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        data, checksum = file.read(length), file.read(4)
        if len(checksum) < 4:  # the decoder finds out that it is cut off
            yield kind, data, 0
            return
        yield kind, data, int.from_bytes(checksum, "big")
        if kind == b"IEND":
            return


def _is_kept(kind: bytes, header: PngHeader, has_transparent_color: bool) -> bool:
    if kind in _OF_COLOR_TYPE:
        return header.depth >= 8 and header.color_type != 3 and not has_transparent_color
    return kind == b"eXIf" or kind in _COPIED or (kind not in _STALE and kind[3:].islower())


def _is_sound(kind: bytes, data: bytes) -> bool:
    """Whether a chunk holds what its name says."""
    if kind in _LENGTHS:
        return len(data) == _LENGTHS[kind]
    try:
        if kind == b"iCCP":
            return len(_inflated(data, 2)) > 0
        if kind == b"eXIf":
            return not sound_exif(b"Exif\0\0" + data)[1]
        if kind == b"zTXt":
            _inflated(data, 2)
        if _is_raw_exif(kind, data):
            return not sound_exif(_raw_exif(data))[1]
        if kind == b"iTXt":
            _itxt_text(data).decode()
    except (ValueError, IndexError, zlib.error):
        return False
    return kind not in (b"tEXt", b"zTXt", b"iTXt") or b"\0" in data


def _called(kind: bytes, data: bytes) -> str:
    keyword = _keyword(kind, data)
    return f"{kind.decode('latin-1')} {keyword.decode('latin-1')!r}" if keyword else kind.decode("latin-1")


def _keyword(kind: bytes, data: bytes) -> bytes | None:
    return data.split(b"\0", 1)[0][:79] if kind in (b"tEXt", b"zTXt", b"iTXt") else None


def _inflated(data: bytes, header: int) -> bytes:
    """The compressed data after a keyword, a zero byte and the method."""
    return _unpacked(data[data.index(b"\0") + header :])


def _unpacked(data: bytes) -> bytes:
    """Decompressed data, unless it is of a size that only a decompression bomb has.

    Raises:
        ValueError: It is larger, or cut off.
    """
    unpacker = zlib.decompressobj()
    found = unpacker.decompress(data, _MAX_UNPACKED)
    if not unpacker.eof:
        raise ValueError("the compressed data is cut off or of an absurd size")
    return found


def _is_raw_exif(kind: bytes, data: bytes) -> bool:
    return _keyword(kind, data) in _RAW_EXIF


def _raw_exif(data: bytes) -> bytes:
    """EXIF as ImageMagick writes it into text: a name, a length and hexadecimal digits."""
    text = data[data.index(b"\0") + 1 :]
    if text[:1] == b"\0":
        text = _unpacked(text[1:])
    block = bytes.fromhex("".join(text.decode("ascii").split("\n")[3:]))
    return block if block.startswith(b"Exif\0\0") else b"Exif\0\0" + block


def _itxt_text(data: bytes) -> bytes:
    """The text of an iTXt chunk (section 11.3.3.4): after the keyword two flags, a language and a translation."""
    after = data.index(b"\0") + 1
    compressed = data[after]
    text = data[after + 2 :].split(b"\0", 2)[2]
    return _unpacked(text) if compressed else text
