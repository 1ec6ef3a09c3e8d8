"""Photographs keep their depth, their alpha and what their files say about them; bad files are named."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.formats import format_of_suffix
from deblur_deploy.core.images import load_rgb
from deblur_deploy.infer.encode import EncodeConfig, write_picture
from deblur_deploy.infer.picture import Metadata, Picture
from deblur_deploy.infer.read import decoding_bytes, read_picture
from deblur_deploy.infer.streaming import open_streaming

LOSSLESS = [".png", ".tif", ".bmp"]
WITH_METADATA = [".png", ".jpg", ".tif", ".webp", ".avif"]


@pytest.fixture
def metadata() -> Metadata:
    """What a camera and an editor leave in a file."""
    exif = Image.Exif()
    exif[271], exif[274] = "A camera", 6
    exif.get_ifd(34665)[33434] = 0.004  # exposure time
    exif[34665] = exif.get_ifd(34665)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return Metadata(exif.tobytes(), profile, (300.0, 150.0))


def exif_of(metadata: Metadata) -> tuple[object, ...]:
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    return exif.get(271), exif.get_ifd(34665).get(33434)


def upright(picture: Picture) -> NDArray[Any]:
    """The samples as they are meant to be looked at; Pillow turns TIFF files itself when it reads them."""
    exif = Image.Exif()
    exif.load(picture.metadata.exif or b"")
    turned = {1: 0, 6: -1}[exif.get(274, 1)]
    return np.rot90(picture.samples, turned)


CAMERA = ("A camera", pytest.approx(0.004))


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3])
def test_8_bits_come_back_as_they_were(tmp_path, photo, suffix, channels):
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(photo[..., :channels], format_of_suffix(suffix).name))
    again = read_picture(path)
    assert np.array_equal(again.samples, photo[..., :channels])
    assert again.format == format_of_suffix(suffix).name
    assert again.samples.flags.writeable


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_come_back_as_they_were(tmp_path, metadata, suffix, channels):
    if (suffix, channels) == (".tif", 2):
        pytest.skip("Pillow knows no TIFF of 16-bit gray with alpha")
    if channels > 1:
        pytest.importorskip("imagecodecs", reason="16-bit colour needs the extra `deep`")
    samples = np.random.default_rng(0).integers(0, 65536, (31, 40, channels), np.uint16)
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(samples, format_of_suffix(suffix).name, metadata))
    again = read_picture(path)
    assert np.array_equal(upright(again), np.rot90(samples, -1))
    assert again.metadata.icc_profile == metadata.icc_profile
    assert exif_of(again.metadata) == CAMERA
    assert again.metadata.dpi == pytest.approx((300, 150), abs=0.1)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_comes_back_as_it_was(tmp_path, photo, suffix, channels):
    colors = photo[..., : channels - 1]
    alpha = np.repeat(np.arange(photo.shape[1], dtype=np.uint8)[None, :, None], photo.shape[0], axis=0)
    path = tmp_path / f"a{suffix}"
    write_picture(
        path, Picture(np.concatenate([colors, alpha], 2), format_of_suffix(suffix).name), EncodeConfig(quality=100)
    )
    again = read_picture(path).samples
    assert np.abs(again[..., -1].astype(int) - alpha[..., 0]).max() <= (3 if suffix == ".avif" else 0)


@pytest.mark.parametrize("suffix", WITH_METADATA)
def test_orientation_profile_and_camera_are_kept(tmp_path, photo, metadata, suffix):
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(photo, format_of_suffix(suffix).name, metadata))
    first = read_picture(path)
    write_picture(tmp_path / f"b{suffix}", first)
    second = read_picture(tmp_path / f"b{suffix}")

    assert second.metadata.icc_profile == metadata.icc_profile
    assert exif_of(second.metadata) == CAMERA
    assert np.abs(upright(second).astype(int) - np.rot90(photo, -1)).mean() < 16
    assert load_rgb(tmp_path / f"b{suffix}").shape == (208, 160, 3)  # upright, for those who look at it
    if suffix in (".png", ".jpg", ".tif"):
        assert second.metadata.dpi == pytest.approx((300, 150), abs=0.1)
    if suffix not in (".tif", ".bmp"):
        assert second.samples.shape == photo.shape


@pytest.mark.parametrize("suffix", WITH_METADATA)
def test_metadata_follows_into_another_format(tmp_path, photo, metadata, suffix):
    write_picture(tmp_path / "a.tif", Picture(photo, "TIFF", metadata))
    path = tmp_path / f"b{suffix}"
    write_picture(path, read_picture(tmp_path / "a.tif"), EncodeConfig(format_of_suffix(suffix).name))
    again = read_picture(path)
    assert again.format == format_of_suffix(suffix).name
    assert again.metadata.icc_profile == metadata.icc_profile
    assert exif_of(again.metadata) == CAMERA


def test_how_the_source_is_built_does_not_follow_into_a_tiff(tmp_path, photo):
    """EXIF blocks may hold tags of the file that they come from; in a TIFF they would speak of the file itself."""
    exif = Image.Exif()
    built = {266: 2, 284: 2, 322: 16, 323: 16, 338: 1, 339: 3}  # bit order, planes, tiles, extra samples, float
    for tag, value in (built | {271: "Maker"}).items():
        exif[tag] = value
    Image.fromarray(photo).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert image.getexif()[284] == 2
    write_picture(tmp_path / "a.tif", read_picture(tmp_path / "a.png"), EncodeConfig("TIFF"))
    again = read_picture(tmp_path / "a.tif")
    assert np.array_equal(again.samples, photo)
    with Image.open(tmp_path / "a.tif") as image:
        assert image.tag_v2[271] == "Maker"
        assert not built.keys() & image.tag_v2.keys()


def test_a_format_without_exif_holds_the_picture_upright(tmp_path, photo, metadata):
    write_picture(tmp_path / "a.bmp", Picture(photo, "PNG", metadata), EncodeConfig("BMP"))
    assert np.array_equal(read_picture(tmp_path / "a.bmp").samples, np.rot90(photo, -1))


@pytest.mark.parametrize(("given", "kept"), [(None, "raw"), ("tiff_lzw", "tiff_adobe_deflate")])
def test_a_tiff_is_compressed_where_it_was(tmp_path, photo, given, kept):
    Image.fromarray(photo).save(tmp_path / "a.tif", compression=given)
    write_picture(tmp_path / "b.tif", read_picture(tmp_path / "a.tif"))
    with Image.open(tmp_path / "b.tif") as image:
        assert image.info["compression"] == kept


def test_a_palette_becomes_colours_and_a_transparent_colour_alpha(tmp_path, photo):
    Image.fromarray(photo).quantize(16).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").samples.shape[2] == 3
    Image.fromarray(photo).quantize(16).save(tmp_path / "b.png", transparency=3)
    assert read_picture(tmp_path / "b.png").samples.shape[2] == 4
    Image.fromarray(photo[..., 0]).save(tmp_path / "c.png", transparency=60)
    assert set(np.unique(read_picture(tmp_path / "c.png").samples[..., 1])) == {0, 255}


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_that_counts_from_white_is_no_negative(tmp_path, bits):
    tifffile = pytest.importorskip("tifffile", reason="writing such a file needs the extra `deep`")
    stored = np.arange(60, dtype=np.uint8 if bits == 8 else np.uint16).reshape(6, 10)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    picture = read_picture(tmp_path / "a.tif")
    assert np.array_equal(picture.samples[..., 0], 2**bits - 1 - stored)
    write_picture(tmp_path / "b.tif", picture)
    assert np.array_equal(read_picture(tmp_path / "b.tif").samples, picture.samples)


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_that_were_multiplied_with_alpha_are_divided_again(tmp_path, bits):
    """The result says that its colours were not, so they must not be."""
    tifffile = pytest.importorskip("tifffile", reason="writing such a file needs the extra `deep`")
    white = 2**bits - 1
    alpha = np.linspace(0.2, 1, 40) * white
    straight = np.stack([np.linspace(0, white, 40), np.full(40, white), np.full(40, white // 3), alpha])
    straight = straight.T[None].repeat(5, 0)
    stored = np.concatenate([straight[..., :3] * straight[..., 3:] / white, straight[..., 3:]], axis=2)
    stored = np.rint(stored).astype(np.uint8 if bits == 8 else np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])

    again = read_picture(tmp_path / "a.tif").samples
    assert np.array_equal(again[..., 3], stored[..., 3])
    assert np.abs(again[..., :3].astype(float) - straight[..., :3]).max() <= (6 if bits == 8 else 3)
    write_picture(tmp_path / "b.tif", Picture(again, "TIFF"))
    assert np.array_equal(read_picture(tmp_path / "b.tif").samples, again)


def test_16_bits_are_rounded_for_a_format_of_8(tmp_path):
    samples = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16, 1) + np.uint16(0)
    write_picture(tmp_path / "a.webp", Picture(samples, "TIFF"), EncodeConfig("WEBP", 100))
    assert (
        np.abs(read_picture(tmp_path / "a.webp").samples[..., 0].astype(int) - np.arange(256).reshape(16, 16)).max() < 4
    )


def test_transparency_is_not_dropped_without_a_word(tmp_path):
    with pytest.raises(ArtifactError, match=r"a\.jpg: JPEG cannot hold transparency"):
        write_picture(tmp_path / "a.jpg", Picture(np.zeros((4, 4, 4), np.uint8), "PNG"), EncodeConfig("JPEG"))
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_cannot_hold_is_an_error_with_the_name(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be written as WEBP of 20000x1"):
        write_picture(tmp_path / "a.webp", Picture(np.zeros((1, 20_000, 3), np.uint8), "WEBP"))
    assert list(tmp_path.iterdir()) == []


def test_quality_is_checked():
    with pytest.raises(ConfigError, match="quality is 0"):
        EncodeConfig(quality=0)


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return header + bytes([0, 0, 0, 40]) + b"IDAT" + bytes(44)


def bad_files() -> dict[str, tuple[bytes, str]]:
    """What a folder may hold that cannot be restored, by name, and what the error says."""

    def saved(kind: str, image: Image.Image, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    return {
        "empty.png": (b"", "is not an image"),
        "text.jpg": (b"not a picture", "is not an image"),
        "cut.png": (saved("PNG", noise)[:3000], "cannot be read"),
        "cut.jpg": (saved("JPEG", noise)[:1500], "cannot be read"),
        "cut.tif": (saved("TIFF", noise)[:3000], "(cannot be read|is not an image)"),
        "cut.webp": (saved("WEBP", noise)[:600], "(cannot be read|is not an image)"),
        "cut.avif": (saved("AVIF", noise)[:600], "(cannot be read|is not an image)"),
        "bomb.png": (png_header(60_000, 60_000), "absurd dimensions"),
        "large.png": (png_header(16_000, 16_000), "absurd dimensions"),
        "zero.png": (png_header(0, 10), "(cannot be read|is not an image)"),
        "print.jpg": (saved("JPEG", noise.convert("CMYK")), "of kind CMYK"),
        "lab.tif": (saved("TIFF", noise.convert("LAB")), "of kind LAB"),
        "pages.tif": (saved("TIFF", noise, save_all=True, append_images=[noise]), "holds 2 pictures"),
        "moving.webp": (saved("WEBP", noise, save_all=True, append_images=[noise.rotate(90)]), "holds 2 pictures"),
        "other.png": (saved("GIF", noise), "is GIF, which is not supported"),
    }


@pytest.mark.parametrize("name", list(bad_files()))
def test_a_bad_file_is_one_clear_error_with_its_name(tmp_path, name):
    content, reason = bad_files()[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name}.*{reason}"):
        read_picture(tmp_path / name)


def test_a_missing_and_an_unreadable_file(tmp_path: Path):
    with pytest.raises(ArtifactError, match="there is no file"):
        read_picture(tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ArtifactError, match=r"folder\.png cannot be read"):
        read_picture(tmp_path / "folder.png")
    if os.getuid() == 0:
        pytest.skip("root reads everything")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "b.png").chmod(0)
    with pytest.raises(ArtifactError, match="check its permissions"):
        read_picture(tmp_path / "b.png")


def test_the_memory_that_it_takes_is_known_from_the_header(tmp_path):
    (tmp_path / "a.png").write_bytes(png_header(12_000, 10_000))
    assert decoding_bytes(tmp_path / "a.png") == 1_200_000_000
    assert decoding_bytes(tmp_path / "a.png", "AVIF") > 4 * 1_200_000_000


@pytest.mark.parametrize(
    "content",
    [
        b"II*\x00\x08\x00\x00\x00",
        b"II*\x00\x09\x00\x00\x00\x00",
        b"II*\x00\x08\x00\x00\x00\x01\x00\x00\x01\x02\x00\xff\xff\x00\x00\x00\x01\x00\x00",
    ],
    ids=["no tags", "half a count", "a value behind the end"],
)
def test_a_damaged_tiff_is_an_error_of_ours_and_pillow_keeps_its_warnings(tmp_path, content):
    path = tmp_path / "damaged.tif"
    path.write_bytes(content)
    for read in (read_picture, load_rgb, lambda path: open_streaming(path, None)):
        with pytest.raises(ArtifactError) as caught:
            read(path)
        assert f"{path} cannot be read: " in caught.value.message
