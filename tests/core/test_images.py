"""Reading photographs of every kind and refusing what is none."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import (
    Resolution,
    from_batch,
    list_images,
    load_rgb,
    parse_resolution,
    save_rgb,
    to_batch,
)

Photo = NDArray[np.uint8]


def write_png_16(path: Path, samples: NDArray[np.uint16]) -> None:
    """A 16-bit RGB PNG by hand, since Pillow writes none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_what_was_saved_is_read_back(tmp_path: Path, photo: Photo, suffix: str) -> None:
    save_rgb(tmp_path / f"a{suffix}", photo)
    again = load_rgb(tmp_path / f"a{suffix}")
    assert np.array_equal(again, photo)
    assert again.flags.writeable


def test_jpeg_is_read(tmp_path: Path, photo: Photo) -> None:
    Image.fromarray(photo).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    assert np.abs(load_rgb(tmp_path / "a.jpg").astype(int) - photo).mean() < 3


def test_gray_becomes_three_equal_channels(tmp_path: Path, photo: Photo) -> None:
    Image.fromarray(photo[..., 0]).save(tmp_path / "a.png")
    assert np.array_equal(load_rgb(tmp_path / "a.png"), photo[..., :1].repeat(3, axis=-1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA"])
def test_every_mode_becomes_rgb(tmp_path: Path, photo: Photo, mode: str) -> None:
    Image.fromarray(photo).convert(mode).save(tmp_path / "a.tif" if mode == "PA" else tmp_path / "a.png")
    image = load_rgb(tmp_path / ("a.tif" if mode == "PA" else "a.png"))
    assert (image.shape, image.dtype) == (photo.shape, np.uint8)
    assert abs(image.mean() - photo.mean()) < 4


def test_transparency_is_dropped(tmp_path: Path, photo: Photo) -> None:
    alpha = np.full((*photo.shape[:2], 1), 77, np.uint8)
    Image.fromarray(np.concatenate([photo, alpha], axis=-1)).save(tmp_path / "a.png")
    assert np.array_equal(load_rgb(tmp_path / "a.png"), photo)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_gray_keeps_its_tones(tmp_path: Path, suffix: str) -> None:
    tones = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(tones * 257).save(tmp_path / f"a{suffix}")
    assert np.array_equal(load_rgb(tmp_path / f"a{suffix}")[..., 1], tones)


def test_16_bit_rgb_keeps_its_tones(tmp_path: Path, photo: Photo) -> None:
    write_png_16(tmp_path / "a.png", photo.astype(np.uint16) * 257)
    assert np.array_equal(load_rgb(tmp_path / "a.png"), photo)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.int16])
def test_numbers_without_a_known_white_are_refused_rather_than_clipped(
    tmp_path: Path, dtype: type, channels: int
) -> None:
    tifffile = pytest.importorskip("tifffile", reason="making such files needs the extra `deep`")
    samples = np.linspace(0, 1, 64 * channels).reshape(8, 8, channels).astype(dtype)
    kind = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", samples.squeeze(), photometric=kind, metadata=None)
    with pytest.raises(ArtifactError, match="signed or floating-point samples, of unknown range") as refused:
        load_rgb(tmp_path / "a.tif")
    assert "infer restores it as it is" in refused.value.hint


@pytest.mark.parametrize(("channels", "bits", "said"), [(1, 32, "32 bits per pixel"), (3, 32, "kind"), (3, 12, "kind")])
def test_whole_numbers_of_other_depths_are_refused_as_what_they_are(
    tmp_path: Path, channels: int, bits: int, said: str
) -> None:
    tifffile = pytest.importorskip("tifffile", reason="making such files needs the extra `deep`")
    samples = np.arange(64 * channels, dtype=np.uint32 if bits == 32 else np.uint16).reshape(8, 8, channels)
    kind = "rgb" if channels == 3 else "minisblack"
    options = {"photometric": kind, "metadata": None, "bitspersample": bits}
    tifffile.imwrite(tmp_path / "a.tif", samples.squeeze(), **options)
    with pytest.raises(ArtifactError, match=said) as refused:
        load_rgb(tmp_path / "a.tif")
    assert "infer restores it as it is" in refused.value.hint


def icc_profile(gamma: float) -> bytes:
    """A profile with nothing but a gray curve (ICC.1:2022, sections 7 and 10.6)."""
    head = bytes(36) + b"acsp" + bytes(88)
    table = struct.pack(">I4sII", 1, b"kTRC", 144, 14)
    return head + table + struct.pack(">4s4xIH", b"curv", 1, round(gamma * 256))


CURVES = [
    ([(b"gAMA", struct.pack(">I", 100_000))], "linear"),
    ([(b"gAMA", struct.pack(">I", 25_000))], "gamma 4"),
    ([(b"gAMA", struct.pack(">I", 45_455))], None),
    ([(b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0")], None),
    ([(b"gAMA", bytes(4))], None),
    ([(b"iCCP", b"a\0\0" + zlib.compress(icc_profile(1.0)))], "linear"),
    ([(b"iCCP", b"a\0\0" + zlib.compress(icc_profile(2.2))), (b"gAMA", struct.pack(">I", 100_000))], None),
    ([(b"cICP", bytes([9, 8, 0, 1]))], "linear"),
    ([(b"cICP", bytes([9, 16, 0, 1]))], "PQ"),
    ([(b"cICP", bytes([9, 18, 0, 1]))], "HLG"),
    ([(b"cICP", bytes([1, 13, 0, 1])), (b"gAMA", struct.pack(">I", 100_000))], None),
    ([], None),
]
"""Chunks of a PNG, and what is said of its curve."""


@pytest.mark.parametrize(("chunks", "curve"), CURVES)
def test_curves_unlike_that_of_srgb_are_refused_and_others_taken(
    tmp_path: Path, photo: Photo, chunks: list[tuple[bytes, bytes]], curve: str | None
) -> None:
    save_rgb(tmp_path / "a.png", photo)
    content = (tmp_path / "a.png").read_bytes()
    added = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (tmp_path / "a.png").write_bytes(content[:33] + added + content[33:])
    if curve is None:
        assert np.array_equal(load_rgb(tmp_path / "a.png"), photo)
        return
    with pytest.raises(
        ArtifactError, match=rf"a\.png has {curve}.* values, and pictures .* have to be sRGB"
    ) as refused:
        load_rgb(tmp_path / "a.png")
    assert "infer restores it as it is" in refused.value.hint


@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp"])
def test_a_linear_profile_is_refused_in_every_format(tmp_path: Path, photo: Photo, suffix: str) -> None:
    for gamma in (2.2, 1.0):
        Image.fromarray(photo).save(tmp_path / f"{gamma}.{suffix}", icc_profile=icc_profile(gamma))
    assert load_rgb(tmp_path / f"2.2.{suffix}").shape == photo.shape
    with pytest.raises(ArtifactError, match="linear values"):
        load_rgb(tmp_path / f"1.0.{suffix}")


@pytest.mark.parametrize(("transfer", "name"), [(8, "linear"), (16, "PQ"), (18, "HLG"), (13, None)])
def test_the_curve_of_an_avif_is_looked_at(tmp_path: Path, photo: Photo, transfer: int, name: str | None) -> None:
    imagecodecs = pytest.importorskip("imagecodecs", reason="making such files needs the extra `deep`")
    content = imagecodecs.avif_encode(photo, 99, primaries=9, transfer=transfer, matrix=9)
    (tmp_path / "a.avif").write_bytes(content)
    if name is None:
        assert load_rgb(tmp_path / "a.avif").shape == photo.shape
        return
    with pytest.raises(ArtifactError, match=f"{name}.* values"):
        load_rgb(tmp_path / "a.avif")


def test_cmyk_is_refused_rather_than_guessed(tmp_path: Path, photo: Photo) -> None:
    Image.fromarray(photo).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(ArtifactError, match=r"a\.jpg is CMYK"):
        load_rgb(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (6, lambda stored: np.rot90(stored, -1)),
        (8, lambda stored: np.rot90(stored, 1)),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, photo: Photo, orientation: int, upright) -> None:
    image = Image.fromarray(photo)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load_rgb(tmp_path / "a.png"), upright(photo))


@pytest.mark.parametrize("content", [b"", b"this is text", b"\x89PNG\r\n\x1a\nand no more"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.png"):
        load_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_truncated_image_is_named(tmp_path: Path, photo: Photo, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    save_rgb(whole, photo)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ArtifactError, match=rf"cut\{suffix} cannot be read") as error:
        load_rgb(cut)
    assert "cut off or damaged" in error.value.hint


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no file .*a\.png"):
        load_rgb(tmp_path / "a.png")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_rgb(tmp_path)


def test_saving_where_one_cannot_is_named(tmp_path: Path, photo: Photo) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        save_rgb(tmp_path / "file" / "a.png", photo)
    with pytest.raises(ArtifactError, match="names no image format"):
        save_rgb(tmp_path / "a.picture", photo)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_picture_that_the_system_does_not_write_is_named(
    tmp_path: Path, photo: Photo, small_files_only: Callable[[], AbstractContextManager[None]], suffix: str
) -> None:
    large = np.tile(photo, (4, 4, 1))
    with pytest.raises(ArtifactError, match=rf"large\{suffix} cannot be written"), small_files_only():
        save_rgb(tmp_path / f"large{suffix}", large)


def test_a_folder_lists_its_images_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG"]


def test_an_empty_folder_and_no_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no images"):
        list_images(tmp_path)
    with pytest.raises(ArtifactError, match="is not a folder"):
        list_images(tmp_path / "none")


def test_batches_hold_every_code_exactly(photo: Photo) -> None:
    batch = to_batch(photo)
    assert batch.shape == (1, 3, 160, 208)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    assert np.array_equal(from_batch(batch), photo)
    assert np.array_equal(from_batch(batch.astype(np.float64)), photo)


def test_results_outside_the_range_are_clipped_and_halves_rounded() -> None:
    values = np.array([-0.2, 1.3, 0.4 / 255, 0.6 / 255]).reshape(1, 1, 1, 4).repeat(3, axis=1)
    assert from_batch(values)[0, :, 0].tolist() == [0, 255, 0, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("640x360", (640, 360)), (" 1X1 ", (1, 1)), ("65536x0007", (65536, 7))],
)
def test_resolutions_are_read(text: str, expected: tuple[int, int]) -> None:
    resolution = parse_resolution(text)
    assert resolution == Resolution(*expected)
    assert str(resolution) == f"{expected[0]}x{expected[1]}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "640",
        "x",
        "640x",
        "640x360x3",
        "640*360",
        "-640x360",
        "6.4x3.6",
        "640 x 360",
        "0x360",
        "640x0",
        "65537x1",
        "٣x٣",
        "1" * 5000 + "x1",
    ],
)
def test_bad_resolutions_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="resolution") as error:
        parse_resolution(text)
    assert "640x360" in error.value.hint
