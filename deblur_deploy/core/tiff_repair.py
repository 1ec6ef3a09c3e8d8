"""A TIFF with damaged tags: tags that point behind the end of the file are lost, and the picture is not.

Readers of TIFF stop at the first missing value, or silently leave out what follows it. So damaged
entries are taken out of their directories (TIFF 6.0, section 2) before a reader sees the file.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, cast

from PIL import ExifTags, TiffImagePlugin, TiffTags

Tags = TiffImagePlugin.ImageFileDirectory_v2

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BIG = (b"II+\0", b"MM\0+")

EXIF_DIRECTORY, GPS_DIRECTORY = 34665, 34853
WIDTH, HEIGHT = 256, 257
_DIRECTORIES = {EXIF_DIRECTORY: ("EXIF", ExifTags.TAGS), GPS_DIRECTORY: ("GPS", ExifTags.GPSTAGS)}
_PLACES_OF_PIXELS = {273, 324, 513}
"""Offsets of strips, of tiles, and of an old-style JPEG."""

_ESSENTIAL = {WIDTH, HEIGHT, 258, 259, 262, 266, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 325, 338, 339, 347}
_ESSENTIAL |= {*_PLACES_OF_PIXELS, *range(514, 522), *range(529, 533)}
"""Tags without which the pixels are others, or are not found."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of a value by its type (TIFF 6.0, section 2; the last is of BigTIFF)."""

_WHOLE_NUMBERS, _NUMBERS, _BYTES = {3, 4, 16}, {3, 4, 5, 8, 9, 10, 11, 12, 16}, {1, 7}
_TYPES = {254: _WHOLE_NUMBERS, 255: _WHOLE_NUMBERS, 274: _WHOLE_NUMBERS, 296: _WHOLE_NUMBERS}
_TYPES |= {282: _NUMBERS, 283: _NUMBERS, 700: {*_BYTES, 2}, 34675: _BYTES}
_TYPES |= {tag: {4, 13, 16} for tag in _DIRECTORIES}
"""Types of the tags that are understood here, and not only copied."""

_MAX_PAGES, _MAX_ENTRIES = 10_000, 65_535


@dataclass(frozen=True)
class Damage:
    """The parts of a page that were removed.

    Args:
        essential: Names of tags without which there is no picture, also of those that are missing.
        others: Names of other tags.
        directories: What the directories that cannot be read hold, such as ``EXIF``.
        cut_off: How many tags the end of the file cuts off.
        is_last_by_damage: Whether the pointer to the next page leads to none.
    """

    essential: tuple[str, ...]
    others: tuple[str, ...]
    directories: tuple[str, ...]
    cut_off: int
    is_last_by_damage: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes on a page that can be read without its damaged parts."""
        notes = [f"its {what} data are damaged and left out" for what in self.directories]
        if self.others:
            notes.append(f"its metadata are damaged and left out: {', '.join(self.others)}")
        if self.cut_off:
            notes.append(f"{self.cut_off} of its tags are cut off and left out")
        if self.is_last_by_damage:
            notes.append("what it says of further pages is damaged, and they are left out")
        return tuple(notes)

    def check(self) -> None:
        """Raise a ValueError where the pixels need what is damaged."""
        if self.essential:
            raise ValueError(f"of its tags, {', '.join(self.essential)} cannot be read")


@dataclass(frozen=True)
class Repaired:
    """A TIFF as readers take it.

    Args:
        file: The file itself where it is undamaged, else a copy without what is damaged.
        pages: What was damaged, page by page.
    """

    file: BinaryIO
    pages: tuple[Damage, ...]


def repair(file: BinaryIO) -> Repaired:
    """Remove tags from a TIFF that point behind its end, or are of a type that they cannot have.

    Args:
        file: The TIFF, which has to stay open as long as the result is read.

    Raises:
        ValueError: It has no directory of tags.
    """
    form = _Form.of(file)
    patches: dict[int, bytes] = {}
    pages: list[Damage] = []
    places: set[int] = set()
    directory = form.read_directory(form.first)
    if directory is None or not directory.entries:
        raise ValueError("it has no tags")
    while directory is not None and len(pages) < _MAX_PAGES:
        places.add(directory.place)
        following = form.read_directory(directory.next) if directory.next not in places else None
        if following is not None and not following.is_page:
            following = None
        is_last_by_damage = following is None and directory.next != 0
        sound, damage = _sort(form, directory, patches, is_last_by_damage)
        pages.append(damage)
        if is_last_by_damage or len(sound) < len(directory.entries) or directory.cut_off:
            patches[directory.place] = form.pack(sound, directory.next if following else 0)
        directory = following
    return Repaired(_patched(file, patches, form.length), tuple(pages))


def _sort(
    form: _Form, directory: _Directory, patches: dict[int, bytes], is_last_by_damage: bool
) -> tuple[list[_Entry], Damage]:
    """The sound entries of a page, and its damage; its EXIF and GPS directories are patched."""
    sound: list[_Entry] = []
    others: list[str] = []
    directories: list[str] = []
    found = {entry.tag for entry in directory.entries}
    essential = [tag_name(tag) for tag in (WIDTH, HEIGHT) if tag not in found]
    essential += [] if found & _PLACES_OF_PIXELS else ["StripOffsets"]
    for entry in directory.entries:
        if not form.is_sound(entry, _TYPES):
            (essential if entry.tag in _ESSENTIAL else others).append(tag_name(entry.tag))
        elif entry.tag in _DIRECTORIES and not _mend_directory(form, entry, patches, others):
            directories.append(_DIRECTORIES[entry.tag][0])
        else:
            sound.append(entry)
    damage = Damage(tuple(essential), tuple(others), tuple(directories), directory.cut_off, is_last_by_damage)
    return sound, damage


def _mend_directory(form: _Form, entry: _Entry, patches: dict[int, bytes], others: list[str]) -> bool:
    """Patch the EXIF or GPS directory that an entry points to; whether anything of it is left."""
    directory = form.read_directory(form.number(entry))
    if directory is None:
        return False
    sound = [inner for inner in directory.entries if form.is_sound(inner, {})]
    if not sound:
        return not directory.entries and not directory.cut_off
    what, names = _DIRECTORIES[entry.tag]
    damaged = [inner for inner in directory.entries if inner not in sound]
    others += [f"{what} {names.get(inner.tag, inner.tag)}" for inner in damaged]
    others += [f"{what} at its end"] if directory.cut_off else []
    if damaged or directory.cut_off:
        patches[directory.place] = form.pack(sound, 0)
    return True


def read_pages(file: BinaryIO) -> list[Tags]:
    """The tags of every page of a file whose directories are sound."""
    file.seek(0)
    head = file.read(8)
    head += file.read(8) if head[:4] in _BIG else b""
    ahead = Tags(head)
    pages: list[Tags] = []
    while ahead.next and len(pages) < _MAX_PAGES:
        tags = Tags(head)
        file.seek(ahead.next)
        tags.load(file)
        pages.append(tags)
        ahead = tags
    for tags in pages:
        list(tags.values())  # read from the file only when asked for
    return pages


def tag_name(tag: int) -> str:
    """The name of a tag."""
    name = str(TiffTags.lookup(tag).name)
    return f"tag {tag}" if name == "unknown" else name


class _Entry(NamedTuple):
    """A tag as it stands in a directory; ``data`` is its value, or where that is."""

    tag: int
    kind: int
    values: int
    data: bytes


@dataclass(frozen=True)
class _Directory:
    """A directory: its entries as far as the file goes, the place of the next, and how many are cut off."""

    place: int
    entries: tuple[_Entry, ...]
    next: int
    cut_off: int

    @property
    def is_page(self) -> bool:
        """Whether it describes a picture, and is not the chance contents of a wrong offset."""
        known = sum(entry.kind in _SIZES for entry in self.entries)
        has_size = {WIDTH, HEIGHT} <= {entry.tag for entry in self.entries}
        return has_size and not self.cut_off and 2 * known > len(self.entries)


@dataclass(frozen=True)
class _Form:
    """How numbers are stored in a file: their byte order, and whether offsets have eight bytes."""

    file: BinaryIO
    length: int
    first: int
    count: struct.Struct
    entry: struct.Struct
    pointer: struct.Struct

    @classmethod
    def of(cls, file: BinaryIO) -> _Form:
        length = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(16)
        order, big = "<" if head.startswith(b"II") else ">", head[:4] in _BIG
        if big and order == ">":
            raise ValueError("it is a big-endian BigTIFF, which is not supported")  # nor does Pillow read it
        layouts = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
        count, entry, pointer = (struct.Struct(order + layout) for layout in layouts)
        if len(head) < 8 or (big and len(head) < 16):
            raise ValueError("it has no tags")
        return cls(file, length, pointer.unpack_from(head, 8 if big else 4)[0], count, entry, pointer)

    def read_directory(self, place: int) -> _Directory | None:
        """The directory at a place, or None where there can be none."""
        if not 8 <= place <= self.length - self.count.size:
            return None
        self.file.seek(place)
        (count,) = self.count.unpack(self.file.read(self.count.size))
        if count > _MAX_ENTRIES:
            return None
        body = self.file.read(count * self.entry.size)
        whole = len(body) // self.entry.size
        entries = tuple(_Entry(*fields) for fields in self.entry.iter_unpack(body[: whole * self.entry.size]))
        after = self.file.read(self.pointer.size)
        following = self.pointer.unpack(after)[0] if len(after) == self.pointer.size else 0
        return _Directory(place, entries, following, count - whole)

    def is_sound(self, entry: _Entry, types: Mapping[int, set[int]]) -> bool:
        """Whether the value is of a type that its tag may have, and within the file."""
        if entry.kind not in types.get(entry.tag, _SIZES):
            return False
        size = _SIZES[entry.kind] * entry.values
        return size <= self.pointer.size or 8 <= self.pointer.unpack(entry.data)[0] <= self.length - size

    def number(self, entry: _Entry) -> int:
        """The value of an entry that points to a directory; 0 where it is not one number."""
        size = _SIZES[entry.kind]
        layout = self.pointer.format[0] + ("Q" if size == 8 else "I")
        fits = entry.values == 1 and size <= self.pointer.size
        return int(struct.unpack_from(layout, entry.data)[0]) if fits else 0

    def pack(self, entries: Iterable[_Entry], following: int) -> bytes:
        """A directory as it stands in the file."""
        packed = [self.entry.pack(*entry) for entry in entries]
        return self.count.pack(len(packed)) + b"".join(packed) + self.pointer.pack(following)


def _patched(file: BinaryIO, patches: dict[int, bytes], length: int) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Patched(file, patches, length))) if patches else file


class _Patched(io.RawIOBase):
    """A file with some of its bytes replaced, and others after its end, without a copy of it in memory."""

    def __init__(self, file: BinaryIO, patches: dict[int, bytes], length: int) -> None:
        self._file, self._patches, self._place = file, patches, 0
        self._length = max(length, *(start + len(data) for start, data in patches.items()))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._length - self._place))
        self._file.seek(self._place)
        window = bytearray(self._file.read(count).ljust(count, b"\0"))
        for start, data in self._patches.items():
            first, last = max(start, self._place), min(start + len(data), self._place + count)
            if first < last:
                window[first - self._place : last - self._place] = data[first - start : last - start]
        buffer[:count] = window
        self._place += count
        return count
