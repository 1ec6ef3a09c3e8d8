"""The tags of a TIFF: which of its pages is the picture, how it is stored, and what else the file says."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image

from deblur_deploy.core.tiff_repair import EXIF_DIRECTORY, GPS_DIRECTORY, Tags, read_pages, repair
from deblur_deploy.infer.bad_files import BAD_FILE_ERRORS
from deblur_deploy.infer.picture import Metadata, Own

BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, EXTRA, FORMAT, ORIENTATION = 258, 259, 262, 277, 338, 339, 274
_SUBFILE, _OLD_SUBFILE, _X_RESOLUTION, _Y_RESOLUTION, _UNIT = 254, 255, 282, 283, 296
_XMP, _IPTC, _ICC, _NODATA, _DNG, _SUB_DIRECTORIES, _LAYERS = 700, 33723, 34675, 42113, 50706, 330, 37724

DESCRIPTIVE_TAGS = (270, 271, 272, 274, 305, 306, 315, 316, 33432, EXIF_DIRECTORY, GPS_DIRECTORY)
"""Tags of a TIFF that EXIF has too (TIFF 6.0, Exif 2.32): description, camera, orientation,
software, date, artist, computer, copyright, and the Exif and GPS directories."""

_BUILT = {254, 255, *range(256, 260), *range(262, 267), 273, *range(277, 280), 284, *range(288, 294), 317, 320, 321}
_BUILT |= {*range(322, 326), *range(332, 335), 336, *range(338, 340), *range(342, 348), 351, *range(512, 522)}
_BUILT |= {*range(529, 533), _XMP, _ICC, EXIF_DIRECTORY, GPS_DIRECTORY}
"""Tags that describe how the file is built, or that are written from fields of the metadata."""

_REDUCED_OR_MASK, _OLD_REDUCED = 0b101, 2
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, _COLOR_FILTER, _LINEAR_RAW = 0, 1, 2, 3, 32803, 34892
_INCH, _CENTIMETRE = 2, 3
_INTEROPERABILITY = 40965
_ASCII, _LONG, _UNDEFINED, _DIRECTORY_TYPES, _LONG8 = 2, 4, 7, (13, 18), (16, 17)


@dataclass(frozen=True)
class TiffPage:
    """The page of a TIFF that is its picture.

    Args:
        index: Its place among the pages.
        tags: What it says.
        pages: How many of the file's pages are pictures of their own.
        notes: What of the file is not kept.
        file: The file without what is damaged; the one that was given where nothing is.
    """

    index: int
    tags: Tags
    pages: int
    notes: tuple[str, ...]
    file: BinaryIO

    def numbers(self, tag: int, default: Sequence[int]) -> tuple[int, ...]:
        """The numbers of a tag."""
        value = self.tags.get(tag, default)
        return tuple(int(item) for item in value) if isinstance(value, (tuple, list)) else (int(value),)

    def number(self, tag: int, default: int) -> int:
        """The first number of a tag."""
        return self.numbers(tag, (default,))[0]

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of each sample of a pixel."""
        bits = self.numbers(BITS, (1,))
        return bits * self.number(SAMPLES, 1) if len(bits) == 1 else bits

    @property
    def extra(self) -> tuple[int, ...]:
        """Kinds of the samples after the colours; unspecified where the file does not say."""
        colors = 3 if self.number(PHOTOMETRIC, BLACK_IS_ZERO) in (RGB, 6, 8) else 1
        count = max(0, len(self.bits) - colors)
        return (self.numbers(EXTRA, ()) + (0,) * count)[:count]

    @property
    def is_raw(self) -> bool:
        """Whether these are the samples of a camera's sensor."""
        return _DNG in self.tags or self.number(PHOTOMETRIC, BLACK_IS_ZERO) in (_COLOR_FILTER, _LINEAR_RAW)

    @property
    def suits_pillow(self) -> bool:
        """Whether Pillow reads every sample of it at its depth."""
        plain = self.number(PHOTOMETRIC, BLACK_IS_ZERO) in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, 6)
        unsigned = set(self.numbers(FORMAT, (1,))) <= {1, 4}
        bits = set(self.bits) in ({8}, {1}, {2}, {4}) or self.bits == (16,)
        return not plain or (unsigned and bits and len(self.extra) <= 1 and 0 not in self.extra)

    @property
    def missing(self) -> tuple[float, float] | None:
        """The value of missing pixels, as GDAL records it."""
        try:
            value = float(str(self.tags[_NODATA]).strip("\0 "))
        except (KeyError, ValueError):
            return None
        return value, value

    @property
    def metadata(self) -> Metadata:
        """What the file says about its picture."""
        xmp = self.tags.get(_XMP)
        return Metadata(
            exif=self._exif,
            icc_profile=self.tags.get(_ICC),
            dpi=self._dpi,
            xmp=xmp.encode("latin-1") if isinstance(xmp, str) else xmp or None,
            compressed=self.number(COMPRESSION, 1) != 1,
            own=self._own,
        )

    @property
    def _dpi(self) -> tuple[float, float] | None:
        per_inch = {_INCH: 1.0, _CENTIMETRE: 2.54}.get(self.number(_UNIT, _INCH))
        if per_inch is None or _X_RESOLUTION not in self.tags or _Y_RESOLUTION not in self.tags:
            return None
        across, down = float(self.tags[_X_RESOLUTION]), float(self.tags[_Y_RESOLUTION])
        return (across * per_inch, down * per_inch) if across > 0 and down > 0 else None

    @property
    def _exif(self) -> bytes | None:
        """The tags that describe the picture, as an EXIF block; :func:`find_page` has read the directories."""
        kept = Image.Exif()
        for tag in DESCRIPTIVE_TAGS:
            value = self.tags.get(tag)
            if isinstance(value, dict):
                kept.get_ifd(tag).update(value)
                kept[tag] = kept.get_ifd(tag)
            elif value is not None and tag not in (EXIF_DIRECTORY, GPS_DIRECTORY):
                kept[tag] = value
        return kept.tobytes() if len(kept) else None

    @property
    def _own(self) -> Own:
        """The tags that are copied, with their types."""
        own = []
        for tag, value in self.tags.items():
            kind = self.tags.tagtype[tag]
            if tag in _BUILT or tag in (_SUB_DIRECTORIES, _LAYERS) or kind in _DIRECTORY_TYPES:
                continue
            if kind == _ASCII:
                value = str(value).encode("latin-1", "replace")
            elif tag == _IPTC and kind == _LONG:  # its bytes stand in numbers, which must not be turned
                order = "<" if self.tags.prefix == b"II" else ">"
                values = value if isinstance(value, tuple) else (value,)
                kind, value = _UNDEFINED, struct.pack(f"{order}{len(values)}I", *values)
            elif kind in _LONG8:
                kind = _LONG
            own.append((tag, (kind, value)))
        return tuple(own)


def find_page(file: BinaryIO) -> TiffPage:
    """The page that is the picture; smaller versions and masks of it do not count.

    Args:
        file: The TIFF.

    Raises:
        Exception: One of ``BAD_FILE_ERRORS``: a tag is damaged without which there is no picture.
    """
    repaired = repair(file)
    pages = read_pages(repaired.file)
    full = [index for index, tags in enumerate(pages) if not _is_reduced(tags)]
    index = full[0] if full else 0
    damage = repaired.pages[index]
    damage.check()
    tags, notes = pages[index], list(damage.notes)
    if len(pages) > max(1, len(full)):
        notes.append("not kept: its smaller versions, which show it unrestored")
    for tag, what in ((_SUB_DIRECTORIES, "its sub-images"), (_LAYERS, "its layers")):
        if tag in tags:
            notes.append(f"not kept: {what}, which show it unrestored")
    for directory in (EXIF_DIRECTORY, GPS_DIRECTORY):
        if directory in tags:
            try:
                tags[directory] = _directory(repaired.file, tags, directory)
            except BAD_FILE_ERRORS:
                del tags[directory]
                notes.append("its EXIF data are damaged and left out")
    return TiffPage(index, tags, max(1, len(full)), tuple(notes), repaired.file)


def _is_reduced(tags: Tags) -> bool:
    return bool(int(tags.get(_SUBFILE, 0)) & _REDUCED_OR_MASK) or tags.get(_OLD_SUBFILE) == _OLD_REDUCED


def _directory(file: BinaryIO, tags: Tags, tag: int) -> dict[int, Any]:
    """The Exif or GPS directory of a page."""
    file.seek(0)
    found = Tags(file.read(16 if tags._bigtiff else 8), group=tag)
    file.seek(int(tags[tag]))
    found.load(file)
    return {name: value for name, value in found.items() if name != _INTEROPERABILITY}
