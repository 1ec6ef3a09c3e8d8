"""Large pictures are restored some rows at a time, and come out as they would as a whole."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.formats import format_of_suffix
from deblur_deploy.core.images import ImageSpec, Resolution
from deblur_deploy.core.process_memory import peak_during
from deblur_deploy.infer import picture as pictures
from deblur_deploy.infer import png_reader, streaming, tiff_writer
from deblur_deploy.infer.encode import streaming_writer, write_picture
from deblur_deploy.infer.jobs import find_jobs
from deblur_deploy.infer.picture import Layout, Metadata, Picture
from deblur_deploy.infer.read import read_picture
from deblur_deploy.infer.restore import RestoreConfig, Restorer
from deblur_deploy.infer.run import FileRunner
from deblur_deploy.infer.settings import InferConfig
from deblur_deploy.infer.streaming import open_streaming, restore_streaming

SUFFIXES = [".png", ".tif"]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Bands and strips of a few rows, so that small pictures have many."""
    monkeypatch.setattr(tiff_writer, "_STRIP_BYTES", 3000)
    monkeypatch.setattr(pictures, "_BAND_PIXELS", 1000)


def samples_of(channels, dtype, size=(157, 130)):
    """Smooth, with grain: every filter of PNG is the best for some row."""
    y, x = np.mgrid[: size[0], : size[1]]
    slopes = np.arange(1, channels + 1) * (1 if dtype == np.uint8 else 199)
    grain = np.random.default_rng(0).integers(0, 9, (*size, channels))
    return ((x * (y > 40) + 3 * y * (y < 90))[..., None] * slopes + grain).astype(dtype)


class Softener:
    """A network that takes the mean of three rows."""

    name, image = "softener", ImageSpec()

    def infer(self, batch):
        padded = np.pad(batch, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
        return (padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]) / np.float32(3)


def tiled():
    return Restorer(Softener(), RestoreConfig(tile=Resolution(80, 64)), {"margin": 16})


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_rows_are_what_the_whole_picture_is(tmp_path, suffix, dtype, channels):
    if channels > 1 and dtype == np.uint16:
        pytest.importorskip("imagecodecs", reason="16-bit colour needs the extra `deep`")
    if (suffix, channels, dtype) == (".tif", 2, np.uint16):
        pytest.skip("Pillow knows no TIFF of 16-bit gray with alpha")
    samples = samples_of(channels, dtype)
    metadata = Metadata(dpi=(300.0, 150.0))
    path = tmp_path / f"a{suffix}"
    restorer = tiled()
    with (
        path.open("wb") as file,
        streaming_writer(format_of_suffix(suffix).name)(
            file, Layout.plain(samples.shape, samples.dtype), metadata
        ) as w,
    ):
        w.write(samples)

    reader = open_streaming(path, None)
    assert reader is not None
    assert (reader.layout.shape, reader.layout.dtype, reader.kind) == (
        samples.shape,
        samples.dtype,
        format_of_suffix(suffix).name,
    )
    bands = list(reader.bands())
    assert len(bands) > 5
    assert np.array_equal(np.concatenate(bands), samples)

    assert restore_streaming(reader, tmp_path / f"b{suffix}", None, restorer)[0] > 4
    again = read_picture(tmp_path / f"b{suffix}")
    assert np.array_equal(again.samples, restorer.restore(samples))
    assert again.metadata.dpi == pytest.approx((300, 150), abs=0.1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_picture_goes_over_into_another_format(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(samples_of(3, np.uint8), format_of_suffix(suffix).name))
    for target in ("PNG", "TIFF"):
        reader = open_streaming(path, target)
        assert reader is not None
        restore_streaming(reader, tmp_path / "b", target, tiled())
        with Image.open(tmp_path / "b") as image:
            assert (image.format, image.size) == (target, (130, 157))
    assert open_streaming(path, "JPEG") is None


@pytest.mark.parametrize("pillow", [True, False])
def test_what_stands_beside_the_pixels_is_kept(tmp_path, pillow):
    exif = Image.Exif()
    exif[271], exif[274] = "A camera", 6
    metadata = Metadata(exif.tobytes(), b"profile", (300.0, 300.0))
    samples = samples_of(3, np.uint8 if pillow else np.uint16)
    if not pillow:
        pytest.importorskip("imagecodecs", reason="16-bit colour needs the extra `deep`")
    write_picture(tmp_path / "a.png", Picture(samples, "PNG", metadata))
    reader = open_streaming(tmp_path / "a.png", None)
    assert reader is not None
    assert reader.metadata == read_picture(tmp_path / "a.png").metadata
    assert reader.metadata.icc_profile == b"profile"


@pytest.mark.parametrize("options", [{"transparency": (1, 2, 3)}, {"mode": "P"}, {"mode": "1"}, {"format": "JPEG"}])
def test_what_needs_the_whole_picture_is_not_read_in_rows(tmp_path, options):
    image = Image.fromarray(samples_of(3, np.uint8)).convert(options.get("mode", "RGB"))
    kept = {name: value for name, value in options.items() if name == "transparency"}
    image.save(tmp_path / "a", options.get("format", "PNG"), **kept)
    assert open_streaming(tmp_path / "a", None) is None


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_strips_of_other_programs_are_read(tmp_path, compression, order):
    tifffile = pytest.importorskip("tifffile", reason="writing such files needs the extra `deep`")
    name = {None: None, "tiff_lzw": "lzw", "packbits": "packbits", "tiff_adobe_deflate": "zlib"}[compression]
    for index, dtype in enumerate((np.uint8, np.uint16)):
        samples = samples_of(3, dtype)
        path = tmp_path / f"{index}.tif"
        options = {"photometric": "rgb", "rowsperstrip": 7} if name else {"photometric": "rgb"}
        tifffile.imwrite(path, samples, byteorder=order, compression=name, **options)
        reader = open_streaming(path, None)
        assert reader is not None
        bands = list(reader.bands())
        assert len(bands) > 10
        assert np.array_equal(np.concatenate(bands), samples)


@pytest.mark.parametrize("damage", ["cut", "tiles", "planes", "turned", "one strip"])
def test_tiffs_that_are_not_in_rows(tmp_path, damage, monkeypatch):
    tifffile = pytest.importorskip("tifffile", reason="writing such files needs the extra `deep`")
    samples, path = samples_of(3, np.uint8), tmp_path / "a.tif"
    options = {
        "tiles": {"tile": (64, 64)},
        "planes": {"planarconfig": "separate"},
        "one strip": {"compression": "zlib"},
    }
    given = options.get(damage, {})
    stored = samples.transpose(2, 0, 1) if damage == "planes" else samples
    tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, 3, 1, 6)] * (damage == "turned"), **given)
    if damage == "one strip":
        monkeypatch.setattr("deblur_deploy.infer.tiff_reader._MAX_STRIP_PIXELS", 1000)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:30_000])
        reader = open_streaming(path, None)
        assert reader is not None
        with pytest.raises(ArtifactError, match=r"a\.tif cannot be read: a strip is cut off"):
            list(reader.bands())
    else:
        assert open_streaming(path, None) is None


def damaged_png(samples, damage):
    """A PNG of one IDAT chunk whose data, or file, was damaged."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + line.tobytes() for line in samples)
    content = b"\x89PNG\r\n\x1a\n"
    content += chunk(b"IHDR", struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 8, 2, 0, 0, 0))
    packed = zlib.compress(lines[: len(lines) // 2] if damage == "short" else lines)
    pixels = chunk(b"IDAT", packed)
    if damage == "byte":
        pixels = pixels[:2000] + bytes([pixels[2000] ^ 255]) + pixels[2001:]
    if damage == "filter":
        pixels = chunk(b"IDAT", zlib.compress(b"\x09" + lines[1:]))
    return content + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("damage", ["short", "byte", "filter"])
def test_a_damaged_file_is_an_error_and_leaves_nothing(tmp_path, damage):
    (tmp_path / "a.png").write_bytes(damaged_png(samples_of(3, np.uint8), damage))
    reader = open_streaming(tmp_path / "a.png", None)
    assert reader is not None
    with pytest.raises(ArtifactError, match=r"a\.png cannot be read"):
        restore_streaming(reader, tmp_path / "out" / "a.png", None, tiled())
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_restores_large_pictures_in_rows_beside_small_ones(artifact, runner, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "LARGE_BYTES", 100_000)
    inputs = tmp_path / "in"
    for name, size in (("a", (40, 60)), ("b", (157, 130)), ("c", (40, 50)), ("d", (140, 150))):
        write_picture(inputs / f"{name}.png", Picture(samples_of(3, np.uint8, size), "PNG"))
    (inputs / "e.png").write_bytes(damaged_png(samples_of(3, np.uint8), "byte"))
    config = InferConfig(resume=True)
    files = FileRunner(artifact, runner, tmp_path / "out", config)
    jobs = find_jobs([inputs], tmp_path / "out")
    opened = []
    original = png_reader.PngReader.bands
    monkeypatch.setattr(png_reader.PngReader, "bands", lambda self: opened.append(1) or original(self))

    files.run(jobs, lambda progress: None)

    assert len(opened) == 3
    assert [(result.status, result.input[-5:]) for result in files.report.files] == [
        *(("done", f"{name}.png") for name in "abcd"),
        ("failed", "e.png"),
    ]
    whole = Restorer(runner)
    for name in "abcd":
        expected = whole.restore(read_picture(inputs / f"{name}.png").samples)
        assert np.array_equal(read_picture(tmp_path / "out" / f"{name}.png").samples, expected)
    again = FileRunner(artifact, runner, tmp_path / "out", config)
    again.run(jobs, lambda progress: None)
    assert again.report.count("skipped") == 4


def measure_peaks(folder: Path) -> list[int]:
    """What restoring a picture takes at its peak, in bytes, and one four times as high."""
    pictures._BAND_PIXELS = 1 << 16
    peaks = []
    for height in (1500, 6000):
        path = folder / f"{height}.png"
        write_picture(path, Picture(np.tile(samples_of(3, np.uint8, (100, 1500)), (height // 100, 1, 1)), "PNG"))
        reader = open_streaming(path, None)
        assert reader is not None
        restorer = Restorer(Softener(), RestoreConfig(60_000_000, count_process=False), {"margin": 16})
        restorer.plan(1500, height, 3)
        peaks.append(peak_during(lambda: restore_streaming(reader, folder / "out.png", None, restorer)))  # noqa: B023
    return peaks


def test_memory_does_not_grow_with_the_height(tmp_path):
    """In a process of its own: in one that has lived, holes that earlier work left in the heap hide what is taken."""
    code = (
        "import json, pathlib, sys, test_streaming as t; print(json.dumps(t.measure_peaks(pathlib.Path(sys.argv[1]))))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2]), *sys.path])
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path})
    assert ended.returncode == 0, ended.stderr
    peaks = json.loads(ended.stdout)

    assert max(peaks) <= 60_000_000
    assert peaks[1] <= peaks[0] + 6_000_000
