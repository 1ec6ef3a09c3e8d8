"""Photographs without sharp partners: measured one by one through any runner."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import save_rgb
from deblur_deploy.data.pairs import blurred_files
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.quality.evaluate_blurred import evaluate_blurred

Image8 = NDArray[np.uint8]


@pytest.fixture
def brightening(tmp_path: Path, tiny_config: SRNConfig) -> Artifact:
    """A network that adds 3 codes of 255 to the red of everything, once at each of its scales."""
    net = SRN(tiny_config)
    torch.nn.init.zeros_(net.head.weight)
    with torch.no_grad():
        net.head.bias.copy_(torch.tensor([3 / 255, 0, 0]))
    return save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))


@pytest.fixture
def photos(tmp_path: Path, photo: Image8) -> Path:
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "busy.png", photo)
    save_rgb(tmp_path / "photos" / "wall.png", np.full((32, 48, 3), 90, np.uint8))
    return tmp_path / "photos"


def test_what_a_network_does_is_measured_and_handed_out(brightening: Artifact, photos: Path, photo: Image8) -> None:
    seen: dict[str, tuple[Image8, Image8]] = {}
    report = evaluate_blurred(
        brightening, blurred_files(photos), None, lambda name, *pictures: seen.__setitem__(name, pictures)
    )
    assert [name for name, _ in report.per_image] == list(seen) == ["busy.png", "wall.png"]
    assert np.array_equal(seen["busy.png"][0], photo)
    assert (seen["wall.png"][1] == [93, 90, 90]).all()
    wall = report.per_image[1][1]
    assert (wall.flat_share, wall.color_shift, wall.overshoot_share) == (1, (3, 0, 0), 0)
    plain = report.as_json()
    assert plain.keys() == {"artifact", "images", "color_shift", "overshoot_share", "per_image", "failed"}
    assert (plain["images"], plain["color_shift"], plain["overshoot_share"]) == (2, pytest.approx(3, abs=0.1), 0)
    assert plain["per_image"][1] == {
        "name": "wall.png",
        "flat_share": 1.0,
        "color_shift": (3.0, 0.0, 0.0),
        "overshoot_share": 0.0,
    }


def test_a_set_is_checked_and_a_folder_is_taken_as_it_is(photos: Path) -> None:
    assert [path.name for path in blurred_files(photos)] == ["busy.png", "wall.png"]
    (photos / "set.toml").write_text('[[image]]\nfile = "wall.png"\nsha256 = "0"\nsplit = "evaluation"\n')
    with pytest.raises(ArtifactError, match=r"wall\.png is not the photograph that set\.toml describes"):
        blurred_files(photos)


def test_no_photographs_is_an_error(brightening: Artifact) -> None:
    with pytest.raises(ConfigError, match="no photographs"):
        evaluate_blurred(brightening, [])


def test_files_that_cannot_be_read_are_named_and_the_others_go_on(
    brightening: Artifact, photos: Path, photo: Image8
) -> None:
    (photos / "sub").mkdir()
    save_rgb(photos / "sub" / "wall.png", np.full((32, 48, 3), 90, np.uint8))
    Image.fromarray(photo).convert("CMYK").save(photos / "print.jpg")
    (photos / "cut.png").write_bytes((photos / "busy.png").read_bytes()[:3000])
    linear = PngInfo()
    linear.add(b"gAMA", struct.pack(">I", 100_000))
    Image.fromarray(photo).save(photos / "scene.png", pnginfo=linear)
    report = evaluate_blurred(brightening, blurred_files(photos), folder=photos)
    assert [name for name, _ in report.per_image] == ["busy.png", "sub/wall.png", "wall.png"]
    assert [name for name, _ in report.failed] == ["cut.png", "print.jpg", "scene.png"]
    assert [entry["name"] for entry in report.as_json()["failed"]] == ["cut.png", "print.jpg", "scene.png"]
    assert "CMYK" in report.failed[1][1]
    assert "linear values" in report.failed[2][1]
    with pytest.raises(ArtifactError, match="none of 1 photographs can be read"):
        evaluate_blurred(brightening, [photos / "print.jpg"])
