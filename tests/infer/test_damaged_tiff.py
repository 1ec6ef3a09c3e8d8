"""A TIFF whose tags are damaged: what its pixels do not need costs itself, with a note, and the picture is restored."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import Resolution, load_rgb
from deblur_deploy.infer.encode import EncodeConfig, write_picture
from deblur_deploy.infer.read import decoding_bytes, read_picture
from deblur_deploy.infer.restore import RestoreConfig, Restorer
from deblur_deploy.infer.streaming import open_streaming, restore_streaming
from deblur_deploy.infer.tiff_tags import find_page
from tests.infer.stand_ins import Identity

pytest.importorskip("tifffile", reason="16-bit colour needs the extra `deep`")

ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 2, 3, 4, 5, 7
SIZES = {ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1}
WIDTH, HEIGHT, BITS, STRIP_OFFSETS, EXIF, GPS, ARTIST = 256, 257, 258, 273, 34665, 34853, 315
FORMS = [("<", False), (">", False), ("<", True)]
FORM_NAMES = ["little-endian", "big-endian", "BigTIFF"]

OTHERS = {
    282: (RATIONAL, (300, 1), "XResolution"),
    ARTIST: (ASCII, b"Somebody with a long name\0", "Artist"),
    700: (UNDEFINED, b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>", "XMP"),
    33432: (ASCII, b"All rights are reserved\0", "Copyright"),
    33723: (UNDEFINED, b"\x1c\x02\x05\0\x05title", "IptcNaaInfo"),
    34675: (UNDEFINED, bytes(200), "ICCProfile"),
    34735: (SHORT, (1, 1, 0, 1, 1024, 0, 1, 1), "GeoKeyDirectoryTag"),
    65000: (UNDEFINED, b"a private tag of nobody", "tag 65000"),
}
"""Tags that pixels do not need: type, value, and what they are called."""


class TiffFile:
    """A TIFF that is built byte by byte, so that anything in it can be wrong."""

    def __init__(self, form: tuple[str, bool] = ("<", False)) -> None:
        self.order, self.big = form
        self.pointer = struct.Struct(self.order + ("Q" if self.big else "I"))
        mark = b"II" if self.order == "<" else b"MM"
        numbers = struct.pack(self.order + "HHHQ", 43, 8, 0, 0) if self.big else struct.pack(self.order + "HI", 42, 0)
        self.data = bytearray(mark + numbers)

    def add(self, data: bytes) -> int:
        """Append some bytes; returns where they are."""
        self.data += bytes(len(self.data) % 2)
        place = len(self.data)
        self.data += data
        return place

    def directory(self, tags: dict[int, tuple], following: int = 0, damage: dict[int, str] | None = None) -> int:
        """Append a directory, of whose tags some point behind the end (``behind``) or have no type (``type``)."""
        entries = []
        for tag, (kind, value, *_) in sorted(tags.items()):
            letter = {SHORT: "H", LONG: "I", RATIONAL: "I"}.get(kind)
            packed = value if letter is None else struct.pack(f"{self.order}{len(value)}{letter}", *value)
            count, what = len(packed) // SIZES[kind], (damage or {}).get(tag)
            if what == "behind":
                count, packed = 1000, self.pointer.pack(1 << 24)
            elif len(packed) > self.pointer.size:
                packed = self.pointer.pack(self.add(packed))
            head = struct.pack(self.order + "HH", tag, 99 if what == "type" else kind) + self.number(count)
            entries.append(head + packed.ljust(self.pointer.size, b"\0"))
        count = struct.pack(self.order + ("Q" if self.big else "H"), len(entries))
        return self.add(count + b"".join(entries) + self.pointer.pack(following))

    def number(self, value: int) -> bytes:
        return self.pointer.pack(value)

    def page(self, samples: np.ndarray, compress: bool, tags: dict[int, tuple], **options) -> int:
        """Append a page of RGB."""
        stored = samples.astype(samples.dtype.newbyteorder(self.order)).tobytes()
        strip = zlib.compress(stored) if compress else stored
        height, width, _ = samples.shape
        built = {WIDTH: (SHORT, (width,)), HEIGHT: (SHORT, (height,)), BITS: (SHORT, (8 * samples.itemsize,) * 3)}
        built |= {259: (SHORT, (8 if compress else 1,)), 262: (SHORT, (2,)), 277: (SHORT, (3,))}
        built |= {STRIP_OFFSETS: (LONG, (self.add(strip),)), 278: (SHORT, (height,)), 279: (LONG, (len(strip),))}
        return self.directory(built | tags, **options)

    def write(self, path: Path, first: int) -> Path:
        self.pointer.pack_into(self.data, 8 if self.big else 4, first)
        path.write_bytes(self.data)
        return path


def noise(dtype=np.uint8, shape=(40, 50, 3)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


def read_whole(path: Path, samples: np.ndarray):
    """The picture, which must have all its pixels, also as `eval` reads it."""
    picture = read_picture(path)
    assert np.array_equal(picture.samples, samples)
    assert decoding_bytes(path) > 0
    eight_bit = samples if samples.dtype == np.uint8 else samples // 256
    assert np.array_equal(load_rgb(path), eight_bit)
    return picture


@pytest.mark.parametrize("damage", ["behind", "type"])
@pytest.mark.parametrize("damaged", OTHERS)
@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_a_damaged_tag_costs_itself_alone(tmp_path, form, damaged, damage, capfd):
    for dtype in (np.uint8, np.uint16):
        for compress in (False, True):
            if compress and form[1] and dtype == np.uint8:
                continue  # deflated BigTIFF is what libtiff reads, and this loop is of what stands in every file
            file = TiffFile(form)
            place = file.page(noise(dtype), compress, OTHERS, damage={damaged: damage})
            picture = read_whole(file.write(tmp_path / "a.tif", place), noise(dtype))
            assert picture.notes == (f"its metadata are damaged and left out: {OTHERS[damaged][2]}",)
            write_picture(tmp_path / "b.tif", picture, EncodeConfig())
            again = read_picture(tmp_path / "b.tif")
            assert again.notes == ()
            assert np.array_equal(again.samples, picture.samples)
            kept = set(find_page(io.BytesIO((tmp_path / "b.tif").read_bytes())).tags)
            assert damaged not in kept
            assert set(OTHERS) - {damaged} <= kept
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize(
    ("tag", "name"),
    [(WIDTH, "ImageWidth"), (HEIGHT, "ImageLength"), (BITS, "BitsPerSample"), (STRIP_OFFSETS, "StripOffsets")],
)
def test_a_damaged_tag_that_the_pixels_need_refuses_the_picture(tmp_path, form, tag, name):
    file = TiffFile(form)
    path = file.write(tmp_path / "a.tif", file.page(noise(), False, {}, damage={tag: "behind"}))
    by_rows = [] if form[1] else [lambda path: open_streaming(path, None)]  # which BigTIFF is never read by
    for read in (read_picture, decoding_bytes, load_rgb, *by_rows):
        with pytest.raises(ArtifactError, match=f"a.tif cannot be read: of its tags, {name} cannot be read"):
            read(path)


CAMERA = {33434: (RATIONAL, (1, 250)), 36867: (ASCII, b"2020:01:02 03:04:05\0"), 37500: (UNDEFINED, b"maker's notes")}
PLACE = {1: (ASCII, b"N\0"), 2: (RATIONAL, (50, 1, 7, 1, 0, 1))}


def with_directories(form, **damage: dict[int, str]) -> tuple[TiffFile, dict[int, tuple]]:
    file = TiffFile(form)
    camera = file.directory(CAMERA, damage=damage.get("camera"))
    place = file.directory(PLACE, damage=damage.get("place"))
    return file, {EXIF: (LONG, (camera,)), GPS: (LONG, (place,)), ARTIST: OTHERS[ARTIST]}


def exif_of(picture) -> tuple[dict, dict]:
    block = Image.Exif()
    block.load(picture.metadata.exif)
    assert block[ARTIST] == "Somebody with a long name"
    return dict(block.get_ifd(EXIF)), dict(block.get_ifd(GPS))


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize(
    ("damage", "name", "left"),
    [
        ({"camera": {33434: "behind"}}, "EXIF ExposureTime", ([36867, 37500], [1, 2])),
        ({"camera": {36867: "type"}}, "EXIF DateTimeOriginal", ([33434, 37500], [1, 2])),
        ({"place": {2: "behind"}}, "GPS GPSLatitude", ([33434, 36867, 37500], [1])),
    ],
)
def test_of_damaged_exif_data_what_is_sound_stays(tmp_path, form, damage, name, left):
    file, tags = with_directories(form, **damage)
    picture = read_whole(file.write(tmp_path / "a.tif", file.page(noise(), False, tags)), noise())
    assert picture.notes == (f"its metadata are damaged and left out: {name}",)
    assert tuple(sorted(found) for found in exif_of(picture)) == left


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize(("tag", "what"), [(EXIF, "EXIF"), (GPS, "GPS")])
def test_a_directory_behind_the_end_costs_itself_alone(tmp_path, form, tag, what):
    file, tags = with_directories(form)
    tags[tag] = (LONG, (1 << 24,))
    picture = read_whole(file.write(tmp_path / "a.tif", file.page(noise(), True, tags)), noise())
    assert picture.notes == (f"its {what} data are damaged and left out",)
    camera, place = exif_of(picture)
    assert (len(camera), len(place)) == ((0, 2) if tag == EXIF else (3, 0))


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_exif_data_that_the_end_cuts_off_stay_as_far_as_they_go(tmp_path, form):
    file = TiffFile(form)
    page = file.page(noise(), False, {ARTIST: OTHERS[ARTIST], EXIF: (LONG, (0,))})
    long = dict.fromkeys(CAMERA, (ASCII, b"a\x00"))
    place = file.directory(long)
    entry = file.data.index(struct.pack(file.order + "HH", EXIF, LONG), page)
    struct.pack_into(file.order + "I", file.data, entry + (12 if file.big else 8), place)
    del file.data[-file.pointer.size - 5 :]  # into its last tag
    picture = read_whole(file.write(tmp_path / "a.tif", page), noise())
    assert picture.notes == ("its metadata are damaged and left out: EXIF at its end",)
    assert sorted(exif_of(picture)[0]) == sorted(long)[:2]


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize("where", ["behind", "pixels", "itself"])
def test_a_broken_pointer_to_the_next_page_leaves_the_first(tmp_path, form, where):
    file = TiffFile(form)
    place = file.page(noise(), False, {ARTIST: OTHERS[ARTIST]}, following=1 << 24)
    following = {"behind": 1 << 24, "pixels": 100, "itself": place}[where]
    file.pointer.pack_into(file.data, len(file.data) - file.pointer.size, following)
    picture = read_whole(file.write(tmp_path / "a.tif", place), noise())
    assert picture.notes == ("what it says of further pages is damaged, and they are left out",)
    assert exif_of(picture) == ({}, {})


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_tags_that_the_end_cuts_off_are_left_out_where_the_pixels_do_not_need_them(tmp_path, form):
    file = TiffFile(form)
    place = file.page(noise(), False, {ARTIST: (ASCII, b"me\0"), 65000: (ASCII, b"a\0"), 65001: (ASCII, b"b\0")})
    del file.data[-file.pointer.size - 5 :]
    picture = read_whole(file.write(tmp_path / "a.tif", place), noise())
    assert picture.notes == ("1 of its tags are cut off and left out",)
    assert [tag for tag, _ in picture.metadata.own if tag >= 65000] == [65000]


def test_a_big_endian_bigtiff_is_refused_as_what_it_is(tmp_path):
    file = TiffFile((">", True))
    path = file.write(tmp_path / "a.tif", file.page(noise(), False, {}))
    for read in (read_picture, load_rgb):
        with pytest.raises(ArtifactError, match="a big-endian BigTIFF, which is not supported"):
            read(path)


def test_two_pages_are_refused_whatever_else_is_damaged(tmp_path):
    file = TiffFile()
    second = file.page(noise(), False, {})
    first = file.page(noise(), False, OTHERS, following=second, damage={ARTIST: "behind"})
    with pytest.raises(ArtifactError, match="holds 2 pictures"):
        read_picture(file.write(tmp_path / "a.tif", first))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_large_pictures_lose_the_same_in_rows(tmp_path, dtype):
    file, tags = with_directories(("<", False), camera={33434: "behind"})
    place = file.page(noise(dtype), False, tags | OTHERS, following=1 << 24, damage={33432: "type"})
    path = file.write(tmp_path / "a.tif", place)
    reader = open_streaming(path, None)
    assert reader is not None
    assert reader.notes == read_whole(path, noise(dtype)).notes
    restorer = Restorer(Identity(), RestoreConfig(tile=Resolution(48, 48), count_process=False), {"margin": 4})
    _, notes = restore_streaming(reader, tmp_path / "b.tif", None, restorer)
    assert "Copyright, EXIF ExposureTime" in notes[0]
    assert "further pages" in notes[1]
    assert np.array_equal(read_picture(tmp_path / "b.tif").samples, noise(dtype))
