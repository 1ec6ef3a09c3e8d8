"""The table of formats: whatever reads, lists, writes or names pictures goes by it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from deblur_deploy.core import formats
from deblur_deploy.core.errors import ArtifactError, ConfigError, MissingDependencyError
from deblur_deploy.core.formats import FORMATS, PictureFormat, describe_suffixes, format_of_suffix
from deblur_deploy.core.images import list_images, load_rgb, save_rgb
from deblur_deploy.data.pairs import load_pairs, load_photos
from deblur_deploy.infer.jobs import find_jobs, parse_format
from deblur_deploy.infer.read import read_picture
from deblur_deploy.infer.run import FileRunner
from deblur_deploy.infer.settings import InferConfig
from deblur_deploy.quality.evaluate import evaluate
from deblur_deploy.quality.verify import verify


@pytest.fixture
def portable(monkeypatch):
    """A row for a format that Pillow knows and this package has none for."""
    monkeypatch.setitem(FORMATS, "PPM", PictureFormat(name="PPM", suffixes=(".ppm", ".pnm"), alpha=False, exif=False))


@pytest.mark.usefixtures("portable")
def test_a_new_row_is_all_that_a_format_needs(artifact, runner, photo, tmp_path, out):
    """A picture of it is listed, restored, evaluated, trained on and compared with."""
    folder = tmp_path / "photos"
    folder.mkdir()
    save_rgb(folder / "a.ppm", photo[:48, :64])
    save_rgb(folder / "b.PNM", photo[48:96, :64])

    files = FileRunner(artifact, runner, out, InferConfig())
    files.run(find_jobs([folder], out), lambda progress: None)
    assert [result.status for result in files.report.files] == ["done", "done"]
    with Image.open(out / "a.ppm") as image:
        assert (image.format, image.size) == ("PPM", (64, 48))
    assert parse_format("pnm") == ("PPM", ".ppm")

    assert [path.name for path in list_images(folder)] == ["a.ppm", "b.PNM"]
    assert [pair.name for pair in load_pairs(folder)] == ["a.ppm", "b.PNM"]  # what `eval` and `train` read
    assert len(load_photos(folder, "calibration")) == 2
    assert evaluate(artifact, load_pairs(folder), "torch").as_json()["images"] == 2
    assert verify(artifact, artifact, load_photos(folder, "calibration"), runtimes=("torch", "torch")).passed


def test_without_its_row_it_is_refused_by_name(photo, tmp_path, out):
    save_rgb(tmp_path / "a.ppm", photo)
    with pytest.raises(ArtifactError, match="is PPM, which is not supported"):
        read_picture(tmp_path / "a.ppm")
    with pytest.raises(ArtifactError, match=r"holds no images: only 1 \.ppm"):
        list_images(tmp_path)
    with pytest.raises(ConfigError, match="there is no format 'ppm'"):
        parse_format("ppm")


def test_a_plugin_is_asked_for_and_named_where_it_is_missing(monkeypatch, photo, tmp_path):
    row = PictureFormat(name="PPM", suffixes=(".ppm",), plugin="no_such_module:register", extra="portable")
    monkeypatch.setitem(FORMATS, "PPM", row)
    save_rgb(tmp_path / "a.ppm", photo)
    for read in (read_picture, load_rgb):
        with pytest.raises(MissingDependencyError, match="PPM pictures need no_such_module") as caught:
            read(tmp_path / "a.ppm")
        assert caught.value.hint == "pip install 'deblur-deploy[portable]'"


@pytest.mark.parametrize("suffix", [suffix for row in FORMATS.values() for suffix in row.suffixes])
def test_every_suffix_is_listed_in_any_case(tmp_path, out, suffix):
    for name in (f"a{suffix}", f"b{suffix.upper()}"):
        (tmp_path / name).touch()
    assert len(list_images(tmp_path)) == 2
    assert [job.kind for job in find_jobs([tmp_path], out)] == ["picture", "picture"]
    assert parse_format(suffix)[0] == format_of_suffix(suffix).name


def test_jfif_jpe_and_avif_are_pictures_everywhere(tmp_path, photo):
    for suffix, kind in ((".jfif", "JPEG"), (".jpe", "JPEG"), (".avif", "AVIF")):
        Image.fromarray(photo).save(tmp_path / f"a{suffix}", kind)
        assert np.abs(load_rgb(tmp_path / f"a{suffix}").astype(int) - photo).mean() < 16
        assert read_picture(tmp_path / f"a{suffix}").format == kind
    assert len(list_images(tmp_path)) == 3


def raw_files() -> dict[str, tuple[bytes, str]]:
    """What cameras and others write that is refused, by name, and what it is called."""
    content = io.BytesIO()
    Image.new("RGB", (16, 12)).save(content, "TIFF")
    thumbnail = content.getvalue()
    content = io.BytesIO()
    Image.new("RGB", (16, 12)).save(content, "TIFF", tiffinfo={50706: b"\x01\x04\0\0"})
    return {
        "a.nef": (thumbnail, "camera RAW"),  # Nikon's files are TIFFs with a thumbnail first
        "a.CR2": (thumbnail, "camera RAW"),
        "renamed.tif": (content.getvalue(), "camera RAW"),
        "a.raf": (b"FUJIFILMCCD-RAW 0201", "camera RAW"),
        "renamed.jpg": (b"\0\0\0\x18ftypcrx " + bytes(40), "camera RAW"),
        "a.jxl": (b"\xff\x0a" + bytes(40), "JPEG XL"),
        "renamed.png": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        "a.psd": (b"8BPS" + bytes(40), "Photoshop"),
        "a.svg": (b"<svg/>", "a drawing without pixels"),
    }


@pytest.mark.parametrize("name", list(raw_files()))
def test_what_is_refused_is_refused_as_what_it_is(tmp_path, name):
    content, kind = raw_files()[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} is {kind}"):
        read_picture(tmp_path / name)


@pytest.mark.parametrize(("name", "kind"), [("a.gif", "GIF"), ("a.png", "PNG"), ("a.webp", "WEBP")])
def test_what_moves_is_refused_and_told_how_many_pictures_it_holds(tmp_path, photo, name, kind):
    frames = [Image.fromarray(np.roll(photo, shift, 0)) for shift in (0, 20, 40)]
    frames[0].save(tmp_path / name, kind, save_all=True, append_images=frames[1:], duration=100)
    message = "is GIF, which is not supported" if kind == "GIF" else "holds 3 pictures"
    with pytest.raises(ArtifactError, match=message):
        read_picture(tmp_path / name)


def test_suffixes_are_counted_in_words():
    counts = {".nef": 2, ".txt": 1, "": 3}
    assert describe_suffixes(counts) == "3 without suffix, 2 .nef (camera RAW), 1 .txt"
    many = {f".{letter}": 1 for letter in "abcdefghij"}
    assert describe_suffixes(many).endswith("and 2 more kinds")
    assert formats.names() == "PNG, JPEG, TIFF, WEBP, AVIF, HEIF or BMP"
