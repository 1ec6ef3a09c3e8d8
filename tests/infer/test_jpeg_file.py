"""JPEG files: what stands beside the picture in them, what follows it, and what is missing at their end."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.infer import thumbnail
from deblur_deploy.infer.encode import EncodeConfig, write_picture
from deblur_deploy.infer.jpeg_file import index_entries, take_apart, without_promises
from deblur_deploy.infer.picture import Picture
from deblur_deploy.infer.read import read_picture

MARKED = 0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\x0e\x1c\x02x\0\x09synthetic"


def jpeg(samples, *segments, tail=b"", **options) -> bytes:
    """A JPEG with segments after its beginning, and what follows it."""
    content = io.BytesIO()
    Image.fromarray(samples).save(content, "JPEG", quality=95, **options)
    extra = b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments)
    data = content.getvalue()
    return data[:2] + extra + data[2:] + tail


def through(tmp_path, content: bytes, kind=None, **options):
    """A file read and written again without a change; returns what was written and what was said."""
    (tmp_path / "a.jpg").write_bytes(content)
    picture = read_picture(tmp_path / "a.jpg", **options)
    notes = write_picture(tmp_path / "b", picture, EncodeConfig(kind))
    return (tmp_path / "b").read_bytes(), (*picture.notes, *notes)


@pytest.mark.parametrize("progressive", [False, True])
def test_iptc_comments_and_unknown_segments_are_kept(tmp_path, photo, progressive):
    segments = [
        MARKED,
        (0xFE, b"a comment"),
        (0xE5, b"Maker\0\xff\xd9 of the camera"),
        (0xE1, b"http://ns.adobe.com/xmp/"),
    ]
    written, notes = through(tmp_path, jpeg(photo, *segments, progressive=progressive))
    found = take_apart(written)
    for segment in segments:
        assert found.segments.count(segment) == 1
    assert found.progressive == progressive
    assert notes == ()
    with Image.open(io.BytesIO(written)) as image:
        assert image.info["comment"] == b"a comment"
        assert image.info["photoshop"][1028].endswith(b"synthetic")
    _, notes = through(tmp_path, jpeg(photo, *segments), "PNG")
    assert notes == ("not kept in PNG: IPTC, comment, segment APP5, segment APP1",)


def test_no_resolution_is_invented_and_centimetres_become_inches(tmp_path, photo):
    exif = Image.Exif()
    exif[271] = "A camera"
    written, _ = through(tmp_path, jpeg(photo, exif=exif))
    assert read_picture(tmp_path / "a.jpg").metadata.dpi is None
    assert take_apart(written).metadata()[0].dpi is None
    assert read_picture(tmp_path / "a.jpg").metadata.exif is not None
    (tmp_path / "a.jpg").write_bytes(jpeg(photo, dpi=(300, 150)))
    assert read_picture(tmp_path / "a.jpg").metadata.dpi == (300, 150)


@pytest.mark.parametrize("keep", [0.55, 0.98, 1.0])
def test_a_file_that_is_cut_off_is_refused_and_restored_as_far_as_it_goes_with_consent(tmp_path, photo, keep):
    whole = jpeg(photo)
    content = whole[:-2] if keep == 1 else whole[: int(keep * len(whole))]
    with pytest.raises(ArtifactError, match=r"a\.jpg cannot be read: it is cut off") as caught:
        through(tmp_path, content)
    assert "--keep-going" in caught.value.hint
    written, notes = through(tmp_path, content, cut_off=True)
    assert notes == ("it is cut off; it was restored as far as it goes",)
    with Image.open(io.BytesIO(whole)) as before, Image.open(io.BytesIO(written)) as after:
        rows = int(photo.shape[0] * keep * 0.5) if keep < 0.9 else int(photo.shape[0] * 0.8)
        difference = np.abs(np.asarray(before).astype(int) - np.asarray(after))[:rows]
        assert difference.mean() < 3
    assert take_apart(written).end == len(written)


def test_noise_in_the_place_of_segments_is_passed_over_at_once():
    content = b"\xff\xd8\xff\xe0\0\x04ab" + bytes(100_000_000)
    assert take_apart(content).end is None


def test_an_empty_exif_block_is_not_a_damaged_one(tmp_path, photo):
    _, notes = through(tmp_path, jpeg(photo, (0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")))
    assert notes == ()


def test_damaged_camera_data_cost_themselves(tmp_path, photo):
    written, notes = through(tmp_path, jpeg(photo, (0xE1, b"Exif\0\0nothing of the kind")))
    assert notes == ("its EXIF data are damaged and left out",)
    assert not [data for marker, data in take_apart(written).segments if data.startswith(b"Exif")]


def multi_picture(first, second, kind: int) -> bytes:
    """Two pictures in one file with an index of them (CIPA DC-007)."""
    index = struct.pack("<4s4sI", b"MPF\0", b"II*\0", 8) + struct.pack("<H", 3)
    index += struct.pack("<HHI4s", 0xB000, 7, 4, b"0100") + struct.pack("<HHII", 0xB001, 4, 1, 2)
    index += struct.pack("<HHII", 0xB002, 7, 32, 8 + 2 + 36 + 4) + bytes(4)
    behind = jpeg(second)
    length = len(jpeg(first, (0xE2, index + bytes(32))))
    base = jpeg(first, (0xE2, index + bytes(32))).index(b"MPF\0") + 4
    entries = struct.pack("<IIIHH", 0x030000, length, 0, 0, 0)
    entries += struct.pack("<IIIHH", kind, len(behind), length - base, 0, 0)
    return jpeg(first, (0xE2, index + entries), tail=behind)


def test_other_pictures_of_the_file_are_kept_where_they_stay_true(tmp_path, photo):
    content = multi_picture(photo, photo[::-1], 0x020002)  # a stereo pair
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    written, notes = through(tmp_path, content)
    assert notes == ("only the first of its 2 pictures is restored; the others are as they were",)
    with Image.open(io.BytesIO(written)) as image, Image.open(io.BytesIO(content)) as before:
        assert (image.format, image.n_frames) == ("MPO", 2)
        for opened in (image, before):
            opened.seek(1)
        assert np.array_equal(np.asarray(image), np.asarray(before))
    (index,) = [data for _, data in take_apart(written).segments if data.startswith(b"MPF\0")]
    assert index_entries(index)[0][2] == take_apart(written).end
    _, notes = through(tmp_path, content, "PNG")
    assert "what follows the picture in the file" in notes[1]


def test_previews_go_and_what_promises_them(tmp_path, photo):
    written, notes = through(tmp_path, multi_picture(photo, photo[::4, ::4].copy(), 0x010001))
    assert notes == ("not kept: the previews after the picture, which show it unrestored",)
    assert take_apart(written).trailer == b""
    assert not [data for _, data in take_apart(written).segments if data.startswith(b"MPF\0")]


def test_a_film_after_the_picture_is_kept(tmp_path, photo):
    written, notes = through(tmp_path, jpeg(photo, tail=b"\0\0\0\x18ftypmp42 a short film"))
    assert written.endswith(b"\0\0\0\x18ftypmp42 a short film")
    assert notes == ()


def test_a_packet_without_promises_keeps_the_rest():
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"'
        b' xmlns:Container="http://ns.google.com/photos/1.0/container/" xmp:Rating="5" hdrgm:Version="1.0">'
        b"<Container:Directory/></rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    left = without_promises(packet)
    assert b'xmp:Rating="5"' in left
    assert b"hdrgm" not in left
    assert b"Container" not in left
    assert without_promises(b"<x/>") == b"<x/>"
    assert without_promises(b"hdrgm http://ns.adobe.com/hdr-gain-map/1.0/ <") is None


def exif_with_thumbnail(small: bytes, fill: int = 0) -> bytes:
    """An EXIF block of one tag and, in a second directory, a thumbnail (Exif 2.32, section 4.5.5)."""
    first = struct.pack("<HHHIHH", 1, 0x112, 3, 1, 1, 0)
    start = 8 + len(first) + 4
    second = struct.pack("<H", 3) + struct.pack("<HHIHH", 0x103, 3, 1, 6, 0)
    second += struct.pack("<HHII", 0x201, 4, 1, start + 2 + 36 + 4) + struct.pack("<HHII", 0x202, 4, 1, len(small))
    return b"Exif\0\0II*\0\x08\0\0\0" + first + struct.pack("<I", start) + second + bytes(4) + small + bytes(fill)


def thumbnail_of(exif: bytes):
    """The picture that the second directory lists, read by hand; None without one."""
    block = exif.removeprefix(b"Exif\0\0")
    link = 8 + 2 + 12 * struct.unpack_from("<H", block, 8)[0]
    (second,) = struct.unpack_from("<I", block, link)
    if not second:
        return None
    entries = [struct.unpack_from("<HHII", block, second + 2 + 12 * n) for n in range(3)]
    values = {tag: value for tag, _, _, value in entries}
    with Image.open(io.BytesIO(block[values[0x201] : values[0x201] + values[0x202]])) as image:
        return np.asarray(image)


@pytest.mark.parametrize("quality", [5, 95])
def test_the_thumbnail_shows_the_restored_picture(tmp_path, photo, quality):
    """Drawn anew in its place, or at the end of the block where it is larger than the old one."""
    small = io.BytesIO()
    Image.fromarray(np.zeros((120, 160, 3), np.uint8)).save(small, "JPEG", quality=quality)
    written, notes = through(tmp_path, jpeg(photo, exif=exif_with_thumbnail(small.getvalue())))
    shown = thumbnail_of(take_apart(written).metadata()[0].exif)
    expected = np.asarray(Image.fromarray(photo).resize((156, 120)))
    assert shown.shape == (120, 160, 3)
    assert np.abs(shown[:, 2:158].astype(int) - expected).mean() < 12
    assert notes == ()


def test_a_thumbnail_that_cannot_be_drawn_anew_goes(photo):
    picture = Picture(photo, "JPEG")
    assert thumbnail_of(thumbnail.renewed(exif_with_thumbnail(b"no picture"), picture)) is None
    small = io.BytesIO()
    Image.fromarray(photo[:8, :8]).save(small, "JPEG", quality=5)
    full = exif_with_thumbnail(small.getvalue(), 65_500 - 900)
    assert thumbnail_of(full) is not None
    renewed = thumbnail.renewed(full, picture)
    assert len(renewed) <= len(full)
    assert thumbnail_of(thumbnail.without(exif_with_thumbnail(small.getvalue()))) is None
    assert thumbnail.renewed(None, picture) is None
