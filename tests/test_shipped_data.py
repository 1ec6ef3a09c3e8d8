"""What the project ships: where it is found, that it is whole, and that its published figures are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deblur_deploy import package_data
from deblur_deploy.data.pairs import load_pairs
from deblur_deploy.errors import ArtifactError
from deblur_deploy.evaluate import evaluate
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.package_data import shipped
from deblur_deploy.sources import shipped_generator


def test_data_comes_from_the_checkout_first_and_never_from_a_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_data, "__file__", str(tmp_path / "deblur_deploy" / "package_data.py"))
    beside, installed = tmp_path / "models", tmp_path / "deblur_deploy" / "_data" / "models"
    beside.mkdir(parents=True)
    with pytest.raises(ArtifactError, match="'models' is missing"):
        shipped("models")  # a folder of that name beside the package is not ours without a checkout around it

    installed.mkdir(parents=True)
    assert shipped("models") == installed
    (tmp_path / "pyproject.toml").touch()
    assert shipped("models") == beside


def test_the_generator_is_whole_and_its_figures_are_those_of_its_weights() -> None:
    generator = shipped_generator()

    cost = measure_cost(load_network(generator))
    assert {key: generator.figures[key] for key in cost} == cost
    assert generator.path.stat().st_size == generator.figures["bytes"] <= 4_000_000


def test_the_generator_restores_as_well_as_its_card_says() -> None:
    card = (shipped("models") / "srn-demo" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| (blurred input|restored) \| ([\d.]+) dB \| ([\d.]+) \| ([\d.]+) \|", card)
    published = {name: tuple(map(float, figures)) for name, *figures in rows}

    report = evaluate(shipped_generator(), load_pairs(None, "evaluation"), "torch")

    assert report.psnr_blurred_db == pytest.approx(published["blurred input"][0], abs=0.02)
    assert report.psnr_db == pytest.approx(published["restored"][0], abs=0.02)
    assert report.ssim_matlab == pytest.approx(published["restored"][1], abs=0.001)
    assert report.ssim_skimage == pytest.approx(published["restored"][2], abs=0.001)
    assert report.psnr_db > report.psnr_blurred_db
