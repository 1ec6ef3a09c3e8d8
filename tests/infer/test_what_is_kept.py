"""What the network does not change, stays: every kind of picture through a network that changes nothing.

What cannot be kept is said, or refused as what it is. The inputs are made here, each in the way of the programs that
write such files.
"""

from __future__ import annotations

import io
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import Resolution, load_rgb
from deblur_deploy.infer.encode import EncodeConfig, write_picture
from deblur_deploy.infer.picture import Tones
from deblur_deploy.infer.png_chunks import SIGNATURE, chunk
from deblur_deploy.infer.read import read_picture
from deblur_deploy.infer.restore import RestoreConfig, Restorer
from deblur_deploy.infer.streaming import open_streaming, restore_streaming
from deblur_deploy.infer.tones import measured_tones, restore_picture
from tests.infer.stand_ins import Identity

tifffile = pytest.importorskip("tifffile", reason="making such files needs the extra `deep`")
imagecodecs = pytest.importorskip("imagecodecs", reason="making such files needs the extra `deep`")


class Brighter(Identity):
    """A network that adds a tenth of white."""

    def infer(self, batch):
        return batch + np.float32(0.1)


class Blur(Identity):
    """A network that mixes each pixel with its neighbours."""

    def infer(self, batch):
        wide = np.pad(batch, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        rows, columns = batch.shape[2:]
        parts = [wide[:, :, y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
        return np.mean(parts, axis=0, dtype=np.float32)


def through(path: Path, network=Identity, target_format: str | None = None, **options):
    """A file through a network in tiles; returns the result's path and what was said."""
    restorer = Restorer(network(), RestoreConfig(tile=Resolution(48, 48), count_process=False), {"margin": 4})
    picture = read_picture(path, **options)
    _, notes = restore_picture(restorer, picture, 0)
    out = path.parent / f"out-{path.name}"
    return out, (*picture.notes, *notes, *write_picture(out, picture, EncodeConfig(target_format)))


def noise(dtype=np.uint8, channels=3, high=None):
    top = high or np.iinfo(dtype).max
    samples = np.random.default_rng(0).integers(0, top, (61, 97, channels), endpoint=True)
    return samples.astype(dtype)


# PNG


def png(path: Path, *before: tuple[bytes, bytes], samples=None, header=(8, 2), after=()) -> Path:
    """A PNG with chunks of any kind before and after the pixels."""
    samples = noise() if samples is None else samples
    lines = b"".join(b"\0" + np.ascontiguousarray(line, samples.dtype.newbyteorder(">")).tobytes() for line in samples)
    size = struct.pack(">II", samples.shape[1], samples.shape[0])
    parts = [chunk(b"IHDR", size + bytes([*header, 0, 0, 0])), *(chunk(*item) for item in before)]
    parts += [chunk(b"IDAT", zlib.compress(lines)), *(chunk(*item) for item in after), chunk(b"IEND", b"")]
    path.write_bytes(SIGNATURE + b"".join(parts))
    return path


def chunks_of(path: Path) -> list[tuple[bytes, bytes]]:
    data, place, found = path.read_bytes(), 8, []
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        found.append((kind, data[place + 8 : place + 8 + length]))
        place += 12 + length
    return [item for item in found if item[0] not in (b"IHDR", b"IDAT", b"IEND")]


P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>rating 5</x:xmpmeta>"
KEPT = [
    (b"gAMA", struct.pack(">I", 45455)),
    (b"cHRM", P3),
    (b"sBIT", b"\x08\x08\x08"),
    (b"pHYs", struct.pack(">IIB", 3, 2, 0)),
    (b"tIME", struct.pack(">HBBBBB", 2020, 1, 2, 3, 4, 5)),
    (b"tEXt", b"Author\0Somebody"),
    (b"zTXt", b"Comment\0\0" + zlib.compress(b"long " * 50)),
    (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    (b"iTXt", b"Title\0\0\0de\0\0" + "Grüße".encode()),
    (b"prIv", b"private, and safe to copy: its last letter is small"),
]


@pytest.mark.parametrize("depth", [8, 16])
def test_chunks_of_a_png_are_kept_wherever_they_stand(tmp_path, depth):
    kept = [item for item in KEPT if depth == 8 or item[0] != b"sBIT"]
    samples = noise(np.uint8 if depth == 8 else np.uint16)
    path = png(tmp_path / "a.png", *kept[:5], samples=samples, header=(depth, 2), after=kept[5:])
    out, notes = through(path)
    assert np.array_equal(imagecodecs.png_decode(out.read_bytes()), samples)
    assert chunks_of(out) == kept
    assert notes == ()


def test_a_chunk_that_may_not_be_copied_is_named(tmp_path):
    out, notes = through(png(tmp_path / "a.png", (b"prIV", b"speaks of the old pixels"), (b"prIv", b"does not")))
    assert chunks_of(out) == [(b"prIv", b"does not")]
    assert "not kept: chunk prIV" in notes[0]


@pytest.mark.parametrize(
    ("chunks", "linear"),
    [
        ([(b"gAMA", struct.pack(">I", 100_000))], True),
        ([(b"cICP", bytes([9, 8, 0, 1]))], True),
        ([(b"gAMA", struct.pack(">I", 45455))], False),
        ([(b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0")], False),
        ([], False),
    ],
)
def test_a_linear_picture_goes_through_the_network_on_srgbs_curve(tmp_path, chunks, linear):
    samples = np.full((20, 30, 3), 12, np.uint8)
    path = png(tmp_path / "a.png", *chunks, samples=samples)
    out, _ = through(path)
    assert np.array_equal(read_picture(out).samples, samples)
    brighter = read_picture(through(path, Brighter)[0]).samples
    if linear:  # 12 of 255 is 0.24 on sRGB's curve; a tenth more is 0.34, which is 24 of 255 in linear light
        assert (brighter == 24).all()
    else:
        assert np.abs(brighter.astype(int) - 37.5).max() <= 0.5
    assert chunks_of(out) == chunks


def icc_profile(gamma: float) -> bytes:
    """A profile with nothing but the curve of red (ICC.1:2022, sections 7 and 10.6)."""
    table = struct.pack(">I4sII", 1, b"rTRC", 144, 14)
    return bytes(36) + b"acsp" + bytes(88) + table + struct.pack(">4s4xIH", b"curv", 1, round(gamma * 256))


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "rgb16.tif"])
def test_a_profile_says_that_a_picture_is_linear_in_every_format(tmp_path, suffix):
    for gamma, expected in ((1.0, 24), (2.2, 37.5)):  # as above: a tenth more on sRGB's curve, or of the code
        path, profile = tmp_path / f"{gamma}.{suffix}", icc_profile(gamma)
        samples, unit = np.full((24, 32, 3), 12, np.uint8), 1
        if suffix == "rgb16.tif":
            samples, unit = samples.astype(np.uint16) * 257, 257
            tifffile.imwrite(path, samples, photometric="rgb", iccprofile=profile, metadata=None)
        else:
            Image.fromarray(samples).save(path, icc_profile=profile)
        out, _ = through(path, Brighter)
        brighter = read_picture(out)
        assert np.abs(brighter.samples.astype(int) / unit - expected).max() <= 1
        assert brighter.metadata.icc_profile == profile


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_an_hdr_curve_is_kept_and_said(tmp_path, transfer, name):
    path = png(tmp_path / "a.png", (b"cICP", bytes([9, transfer, 0, 1])), samples=noise(np.uint16), header=(16, 2))
    out, notes = through(path)
    assert chunks_of(out) == [(b"cICP", bytes([9, transfer, 0, 1]))]
    assert name in notes[0]
    with pytest.raises(ArtifactError, match="cannot say on which curve"):
        through(path, target_format="JPEG")


@pytest.mark.parametrize(
    "bad",
    [
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n    8\nzz zz")),
        (b"eXIf", b"no camera data"),
        (b"iCCP", b"profile\0\0no stream"),
        (b"iTXt", b"no end"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 << 20))),  # a bomb
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"text")[:-3]),
        (b"pHYs", b"\0"),
        (b"gAMA", b""),
    ],
)
def test_a_damaged_chunk_costs_itself_and_not_the_picture(tmp_path, bad):
    good = (b"tEXt", b"Author\0Somebody")
    path = png(tmp_path / "a.png", bad, good)
    out, notes = through(path)
    assert np.array_equal(read_picture(out).samples, noise())
    assert chunks_of(out) == [good]
    assert "damaged and left out" in notes[0]


def test_a_wrong_checksum_beside_the_pixels_costs_the_chunk_and_in_them_the_picture(tmp_path):
    path = png(tmp_path / "a.png", (b"tEXt", b"Author\0Somebody"))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Somebody", b"Somebodz"))
    out, notes = through(path)
    assert np.array_equal(read_picture(out).samples, noise())
    assert "tEXt 'Author'" in notes[0]
    place = data.index(b"IDAT") + 500
    path.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_picture(path)


@pytest.mark.parametrize("color", [0, 2])
def test_a_transparent_level_of_16_bits_becomes_alpha(tmp_path, color):
    channels = {0: 1, 2: 3}[color]
    samples = noise(np.uint16, channels)
    key = samples[5, 7]
    path = png(tmp_path / "a.png", (b"tRNS", key.astype(">u2").tobytes()), samples=samples, header=(16, color))
    again = imagecodecs.png_decode(through(path)[0].read_bytes())
    assert again.shape[2] == channels + 1
    assert np.array_equal(again[..., :channels], samples)
    assert np.array_equal(again[..., -1] == 0, (samples == key).all(axis=2))


def interlaced(samples):
    """The seven passes of a PNG, each row without a filter, but for one that is stored as differences."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    data = b""
    for top, left, down, right in passes:
        part = samples[top::down, left::right]
        rows = [row.astype(">u2").tobytes() for row in part] if part.size else []
        data += b"".join(b"\0" + row for row in rows[:1])
        for above, row in pairwise(rows):  # filter 2: the difference from the row above
            data += b"\2" + bytes((a - b) % 256 for a, b in zip(row, above, strict=True))
    return data


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("size", [(60, 80), (1, 1), (3, 2), (9, 5)])
def test_an_interlaced_picture_of_16_bits_is_read_in_silence(tmp_path, capfd, size, color, channels):
    samples = np.random.default_rng(0).integers(0, 65536, (*size, channels), np.uint16)
    header = struct.pack(">IIBBBBB", size[1], size[0], 16, color, 0, 0, 1)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(interlaced(samples))), chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(SIGNATURE + b"".join(parts))
    assert np.array_equal(read_picture(through(tmp_path / "a.png")[0]).samples, samples)
    assert capfd.readouterr() == ("", "")

    short = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(interlaced(samples)[:-2])), chunk(b"IEND", b"")
    (tmp_path / "b.png").write_bytes(SIGNATURE + b"".join(short))
    with pytest.raises(ArtifactError, match="cannot be read: its pixels end too early"):
        read_picture(tmp_path / "b.png")


def test_large_pictures_keep_the_same_in_rows(tmp_path):
    chunks = [(b"gAMA", struct.pack(">I", 100_000)), (b"tEXt", b"Author\0Somebody")]
    path = png(tmp_path / "a.png", *chunks)
    reader = open_streaming(path, None)
    assert reader is not None
    restorer = Restorer(Identity(), RestoreConfig(tile=Resolution(48, 48), count_process=False), {"margin": 4})
    restore_streaming(reader, tmp_path / "b.png", None, restorer)
    assert chunks_of(tmp_path / "b.png") == chunks
    assert np.array_equal(read_picture(tmp_path / "b.png").samples, noise())
    brighter = Restorer(Brighter(), RestoreConfig(tile=Resolution(48, 48), count_process=False), {"margin": 4})
    restore_streaming(reader, tmp_path / "c.png", None, brighter)
    assert np.array_equal(read_picture(tmp_path / "c.png").samples, read_picture(through(path, Brighter)[0]).samples)


# TIFF


def tiff(path: Path, samples, **options) -> Path:
    tifffile.imwrite(path, samples, metadata=None, software=False, **options)
    return path


def tags_of(path: Path):
    with tifffile.TiffFile(path) as file:
        return file.pages[0].asarray(), {tag.code: tag.value for tag in file.pages[0].tags}


RGB = {"photometric": "rgb", "planarconfig": "contig"}


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        (noise(np.int16, 1)[..., 0] - 20_000, {}),
        (noise(np.int8, 1)[..., 0] - 100, {}),
        (noise(np.uint16, 2), {"extrasamples": ["unassalpha"], "planarconfig": "contig"}),
        (noise(np.uint16, 4), RGB | {"extrasamples": ["unassalpha"]}),
        (noise(np.uint8, 4), RGB | {"extrasamples": ["unspecified"]}),
        (noise(np.uint8, 5), RGB | {"extrasamples": ["unassalpha", "unspecified"]}),
        (noise(np.uint16, 7), RGB | {"extrasamples": ["unspecified"] * 4}),
        (noise(np.uint8, 3), {"extrasamples": ["unassalpha", "unspecified"], "planarconfig": "contig"}),
        (noise().astype(np.float32) / 255, RGB),
        (noise().astype(np.float32) * 40 - 500, RGB),
        (noise(channels=1)[..., 0].astype(np.float64) ** 2, {}),
        (noise(channels=1)[..., 0].astype(np.float16), {}),
        (noise(np.uint32, 1)[..., 0], {}),
        (noise(np.int32), RGB),
        (noise(np.uint16), {"photometric": "rgb", "planarconfig": "separate"}),
    ],
    ids=lambda value: f"{value.dtype}{value.shape[2:]}" if isinstance(value, np.ndarray) else "",
)
def test_samples_of_any_type_come_back_as_they_were(tmp_path, samples, options):
    if options.get("planarconfig") == "separate":
        samples = np.moveaxis(samples, -1, 0).copy()
    photometric = {"photometric": "minisblack"} if "photometric" not in options else {}
    path = tiff(tmp_path / "a.tif", samples, **options, **photometric)
    out, _ = through(path)
    again, tags = tags_of(out)
    stored = np.moveaxis(samples, 0, -1) if options.get("planarconfig") == "separate" else samples
    assert again.dtype == samples.dtype
    assert np.array_equal(again, stored)
    before = tags_of(path)[1]
    assert {code: tags.get(code) for code in (258, 262, 338, 339)} == {
        code: before.get(code) for code in (258, 262, 338, 339)
    }
    changed, _ = tags_of(through(path, Brighter)[0])
    colors = 3 if options.get("photometric") == "rgb" else 1
    shape = (*stored.shape[:2], -1)
    assert np.array_equal(changed.reshape(shape)[..., colors:], stored.reshape(shape)[..., colors:])
    difference = changed.reshape(shape)[..., :colors].astype(float) - stored.reshape(shape)[..., :colors]
    assert difference.min() >= 0
    assert difference.max() > 0


def test_12_bits_stay_12_bits_and_white_is_their_white(tmp_path):
    samples = noise(np.uint16, 1, 4095)[..., 0]
    bits = ((samples[:, :, None] >> np.arange(11, -1, -1)) & 1).astype(np.uint8)
    rows = np.packbits(bits.reshape(len(samples), -1), axis=1).tobytes()
    tags = [(256, 3, 1, 97), (257, 3, 1, 61), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8 + 2 + 9 * 12 + 4), (277, 3, 1, 1), (278, 3, 1, 61), (279, 4, 1, len(rows))]
    directory = struct.pack("<H", 9) + b"".join(
        struct.pack("<HHIHH" if kind == 3 else "<HHII", *((tag, kind, count, value, 0)[: 5 if kind == 3 else 4]))
        for tag, kind, count, value in tags
    )
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0\x08\0\0\0" + directory + bytes(4) + rows)
    assert np.array_equal(tags_of(path)[0], samples)
    out, _ = through(path)
    again, tags = tags_of(out)
    assert np.array_equal(again, samples)
    assert tags[258] == 12
    assert 282 not in tags  # no resolution is invented
    brighter = tags_of(through(path, Brighter)[0])[0].astype(int)
    assert np.array_equal(brighter, np.minimum(samples.astype(int) + 410, 4095)) or (
        np.abs(brighter - np.minimum(samples + 409.5, 4095)).max() <= 0.51
    )
    png_out, _ = through(path, target_format="PNG")
    assert np.array_equal(imagecodecs.png_decode(png_out.read_bytes()), np.rint(samples * (65535 / 4095)))
    assert np.abs(load_rgb(path)[..., 0].astype(float) - samples / 4095 * 255).max() <= 0.51


def test_pixels_without_a_value_are_left_alone_and_do_not_bleed(tmp_path):
    samples = np.full((40, 60), 5, np.float32)
    samples[:, 30:] = 9
    samples[3:9, 3:9] = np.nan
    again, _ = tags_of(through(tiff(tmp_path / "a.tif", samples, photometric="minisblack"), Blur)[0])
    assert np.array_equal(np.isnan(again), np.isnan(samples))
    assert (np.nanmin(again), np.nanmax(again)) == (5, 9)
    assert (again[:12, :12][~np.isnan(again[:12, :12])] == 5).all()
    samples = np.nan_to_num(samples, nan=-9999)
    nodata = {"extratags": [(42113, 2, 0, "-9999", True)]}
    again, tags = tags_of(through(tiff(tmp_path / "b.tif", samples, photometric="minisblack", **nodata), Blur)[0])
    assert (again[3:9, 3:9] == -9999).all()
    assert again[again != -9999].min() == 5
    assert tags[42113].strip("\0") == "-9999"


def test_geotiff_iptc_and_texts_are_kept_and_no_resolution_is_invented(tmp_path):
    geo = [
        (33550, 12, 3, (2.0, 2.0, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 500_000.0, 4_000_000.0, 0.0), True),
        (34735, 3, 8, (1, 1, 0, 1, 1024, 0, 1, 1), True),
        (33723, 7, 14, b"\x1c\x02x\0\x09synthetic", True),
        (270, 2, 0, "Größe in µm".encode(), True),
        (65001, 1, 3, (1, 2, 3), True),
    ]
    path = tiff(tmp_path / "a.tif", noise(), **RGB, extratags=geo, resolution=(100, 50), resolutionunit="CENTIMETER")
    before, after = tags_of(path)[1], tags_of(through(path)[0])[1]
    for code in (270, 282, 283, 296, 33550, 33922, 34735, 33723, 65001):
        assert after[code] == before[code], code
    _, notes = through(path, target_format="PNG")
    assert "not kept in PNG" in notes[0]
    assert "33550" in notes[0] or "ModelPixelScale" in notes[0]


@pytest.mark.parametrize("first", [False, True])
def test_a_smaller_version_of_the_picture_is_no_second_picture(tmp_path, first):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        pages = [(noise(), 0), (noise()[::4, ::4].copy(), 1)]
        for samples, kind in pages[:: -1 if first else 1]:
            file.write(samples, **RGB, metadata=None, subfiletype=kind)
    out, notes = through(tmp_path / "a.tif")
    assert np.array_equal(tags_of(out)[0], noise())
    assert "smaller versions" in notes[0]


def test_sub_images_are_named(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(noise(), **RGB, metadata=None, subifds=1)
        file.write(noise()[::2, ::2].copy(), **RGB, metadata=None, subfiletype=1)
    out, notes = through(tmp_path / "a.tif")
    assert np.array_equal(tags_of(out)[0], noise())
    assert "sub-images" in notes[0]
    assert 330 not in tags_of(out)[1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_stays_stored_as_it_was(tmp_path, orientation):
    path = tiff(tmp_path / "a.tif", noise(), **RGB, extratags=[(274, 3, 1, orientation, True)])
    again, tags = tags_of(through(path)[0])
    assert np.array_equal(again, noise())
    assert tags[274] == orientation


def test_what_other_formats_cannot_hold_is_refused(tmp_path):
    floats = tiff(tmp_path / "a.tif", noise().astype(np.float32), **RGB)
    with pytest.raises(ArtifactError, match="PNG cannot hold samples of float32"):
        through(floats, target_format="PNG")
    five = tiff(tmp_path / "b.tif", noise(np.uint8, 5), **RGB, extrasamples=["unassalpha", "unspecified"])
    with pytest.raises(ArtifactError, match="PNG cannot hold 2 channels besides the colours"):
        through(five, target_format="PNG")


def test_tones_of_values_without_a_known_range():
    assert measured_tones(np.array([[[0.2], [np.nan], [0.7]]])) == Tones(0, 1)
    assert measured_tones(np.array([[[-3], [9]]], np.int16), (9.0, 9.0)) == Tones(-3, -3, None, (9.0, 9.0))


# WebP and AVIF


@pytest.mark.parametrize("channels", [3, 4])
def test_what_came_lossless_leaves_lossless(tmp_path, channels):
    samples = noise(channels=channels)
    samples[:9, :9, -1] = 0
    Image.fromarray(samples).save(tmp_path / "a.webp", lossless=True, exact=True)
    out, _ = through(tmp_path / "a.webp")
    with Image.open(out) as image:
        assert np.array_equal(np.asarray(image), samples)
    Image.fromarray(samples).save(tmp_path / "b.webp", quality=80)
    out, _ = through(tmp_path / "b.webp")
    assert b"VP8L" not in out.read_bytes()[:64]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bits", [10, 12])
def test_an_avif_keeps_its_depth_and_what_it_says(tmp_path, bits, channels):
    smooth = np.linspace(0, 2**bits - 1, 97)[None, :, None] * np.ones((61, 1, channels))
    stored = smooth.astype(np.uint16)
    content = imagecodecs.avif_encode(
        stored[..., 0] if channels == 1 else stored, 99, bitspersample=bits, primaries=9, transfer=16, matrix=9
    )
    (tmp_path / "a.avif").write_bytes(content)
    out, notes = through(tmp_path / "a.avif")
    again = imagecodecs.avif_decode(out.read_bytes()).astype(int)
    assert again.max() > 2 ** (bits - 1)
    assert np.abs(again.reshape(stored.shape) - stored).max() <= 2 ** (bits - 8) * 2
    assert b"nclx\x00\x09\x00\x10" in out.read_bytes()
    assert "PQ" in notes[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_avif_that_lost_nothing_loses_nothing(tmp_path, dtype):
    bits = 8 if dtype == np.uint8 else 10
    samples = noise(dtype, 3, 2**bits - 1)
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(samples, 100, bitspersample=bits))
    out, notes = through(tmp_path / "a.avif")
    assert np.array_equal(imagecodecs.avif_decode(out.read_bytes()), samples)
    assert notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_deep_avif_carries_metadata_that_others_read(tmp_path, orientation):
    from deblur_deploy.infer.isobmff import add_metadata
    from deblur_deploy.infer.picture import Metadata

    exif = Image.Exif()
    exif[274], exif[271] = orientation, "A camera"
    stored = np.linspace(0, 1023, 97)[None, :, None] * np.ones((61, 1, 4))
    content = imagecodecs.avif_encode(stored.astype(np.uint16), 99, bitspersample=10)
    written = add_metadata(bytes(content), Metadata(exif.tobytes(), b"profile" * 20, xmp=XMP))
    with Image.open(io.BytesIO(written)) as image:
        assert image.info["icc_profile"] == b"profile" * 20
        assert image.info["xmp"] == XMP
        assert image.getexif()[271] == "A camera"
        assert image.getexif().get(274, 1) == orientation
        assert image.size == (97, 61)
    assert np.abs(imagecodecs.avif_decode(written).astype(int) - stored).max() <= 8
    (tmp_path / "a.avif").write_bytes(written)
    out, _ = through(tmp_path / "a.avif")
    with Image.open(out) as image:
        assert (image.info["xmp"], image.getexif()[271], image.getexif().get(274, 1)) == (XMP, "A camera", orientation)


@pytest.mark.parametrize("bits", [8, 10])
def test_heif_keeps_its_depth_and_what_it_says(tmp_path, bits):
    pillow_heif = pytest.importorskip("pillow_heif", reason="HEIF needs the extra `heif`")
    white = 2**bits - 1
    ramp = np.linspace(0, white, 96)[None, :, None] * np.ones((64, 1, 3))
    stored = ramp.astype(np.uint8 if bits == 8 else np.uint16)
    file = pillow_heif.from_bytes("RGB" if bits == 8 else f"RGB;{bits}", (96, 64), stored.tobytes())
    exif = Image.Exif()
    exif[271] = "A camera"
    file[0].info.update(exif=exif.tobytes(), xmp=XMP)
    file.save(tmp_path / "a.heic", quality=95, chroma=444)
    out, _ = through(tmp_path / "a.heic")
    again = pillow_heif.open_heif(out, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    assert again.info["bit_depth"] == bits
    assert again.info["xmp"] == XMP
    assert np.abs(np.asarray(again[0]).astype(int) - stored).mean() <= 2 ** (bits - 8) * 1.5
    assert read_picture(out).metadata.exif is not None
    assert load_rgb(tmp_path / "a.heic").shape == (64, 96, 3)
