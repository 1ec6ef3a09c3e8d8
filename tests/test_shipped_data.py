"""What the project ships: where it is found, that it is whole, and that its published figures are true."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from deblur_deploy.config import ExportConfig
from deblur_deploy.core import sources
from deblur_deploy.core.artifact import hash_file, load_artifact
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.plain_data import without_infinity
from deblur_deploy.core.sources import shipped
from deblur_deploy.data.pairs import Pair, blurred_files, load_pairs
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.pipeline.recipe import load_recipe as load_run_recipe
from deblur_deploy.quality.evaluate import evaluate
from deblur_deploy.quality.evaluate_blurred import evaluate_blurred
from deblur_deploy.quality.gain import gain_kept
from deblur_deploy.training.train import load_recipe, planned_network

MAX_BYTES = {
    "srn-demo": 7_500_000,
    "srn-base": 13_000_000,
    "srn-base-temporal": 13_000_000,
}

MAX_COLOR_SHIFT = 1.0
"""Codes of 255 by which the mean of what is flat may move in any channel of any photograph."""

MAX_OVERSHOOT = 0.05
"""Share of the pixels of a photograph. Sharp photographs overshoot their blurred ones by 3 to 13 % of the pixels."""

MAX_DROP_DB = 0.3
"""PSNR that a compressed generator may be below the one that it was made from."""

MACS = {70: 0.45, 50: 0.25}
"""Share of the multiply-accumulates that a compressed generator has, by the percentage in its name: about what is left
where every group keeps that many of its channels."""

GAIN_KEPT = {70: 0.9, 50: 0.8}
"""Share of the gain over the blurred pictures that it keeps at least."""

MODELS = sorted(path.name for path in shipped("models").iterdir() if path.is_dir())
COMPRESSED = [name for name in MODELS if name.endswith("-int8")]
GENERATORS = [name for name in MODELS if name not in COMPRESSED]
IN_STAGES = [name for name in GENERATORS if (shipped("models") / name / "train.sh").is_file()]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return load_pairs(None, "evaluation")


def test_data_comes_from_the_checkout_first_and_never_from_a_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "deblur_deploy" / "core" / "sources.py"))
    beside, installed = tmp_path / "models", tmp_path / "deblur_deploy" / "_data" / "models"
    beside.mkdir(parents=True)
    with pytest.raises(ArtifactError, match="'models' is missing"):
        shipped("models")  # a folder of that name beside the package is not ours without a checkout around it

    installed.mkdir(parents=True)
    assert shipped("models") == installed
    (tmp_path / "pyproject.toml").touch()
    assert shipped("models") == beside


def test_every_photograph_is_listed_with_its_licence() -> None:
    for folder in shipped("calibration").iterdir():
        listed = tomllib.loads((folder / "set.toml").read_text(encoding="utf-8"))["image"]
        assert sorted(entry["file"] for entry in listed) == sorted(f"images/{p.name}" for p in folder.glob("images/*"))
        licences = (folder / "LICENCES.md").read_text(encoding="utf-8")
        for entry in listed:
            assert hash_file(folder / entry["file"]) == entry["sha256"]
            assert entry["file"] in licences
            assert entry["licence"] in licences


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_is_whole_and_its_figures_are_those_of_its_weights(name: str) -> None:
    generator = load_artifact(shipped("models") / name)

    cost = measure_cost(load_network(generator))
    assert {key: generator.figures[key] for key in cost} == cost
    assert generator.path.stat().st_size == generator.figures["bytes"] <= MAX_BYTES[name]


@pytest.mark.parametrize("name", GENERATORS)
def test_a_card_says_what_the_generator_comes_from(name: str) -> None:
    card = read_card(name)
    for fact in ("Data", "Recipe", "Seed", "Time", "Hardware"):
        assert re.search(rf"^- \*\*{fact}\*\*: \S", card, re.MULTILINE), f"the card does not state: {fact}"
    (time,) = re.findall(r"^- \*\*Time\*\*: (.*)", card, re.MULTILINE)
    assert re.search(r"\d+(\.\d+)? (hours|minutes)", time)
    failures = card.split("## Failure cases")[1].split("\n## ")[0]
    assert failures.count("\n- ") >= 3

    recipe = load_recipe(shipped("models") / name / "recipe.toml")
    assert f"`recipe.toml`, seed {recipe.fit.seed}" in card
    assert planned_network(None, recipe) == load_network(load_artifact(shipped("models") / name)).config


@pytest.mark.parametrize("name", IN_STAGES)
def test_the_training_reruns_from_one_command_with_the_settings_that_the_history_has(name: str) -> None:
    """The script names a recipe for every step of the history, in its order, and each has that step's settings."""
    models = shipped("models")
    script = (models / name / "train.sh").read_text(encoding="utf-8")
    recipes = [models / name / found for found in re.findall(r'train "\$here/(\S+?)"', script)]
    steps = [step for step in load_artifact(models / name).history if step.stage == "train"]
    steps = steps[len(steps) - len(recipes) :]
    for recipe, step in zip(recipes, steps, strict=True):
        settings = dataclasses.asdict(load_recipe(recipe))
        for table in ("fit", "loss", "camera", "shake", "augment", "clip"):
            ours, theirs = without_infinity(settings[table]), step.config.get(table)
            changed = differing(ours or {}, theirs or {})
            # Processors of this kind compute the fastest precision in bfloat16; older manifests name it.
            assert changed <= {"precision"}, f"{recipe.name}: {table} {changed}"


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_restores_as_well_as_its_card_says(name: str, pairs: list[Pair]) -> None:
    """The shipped pairs are measured again; photographs that are not shipped can only be looked for in the card."""
    tables = published_figures(read_card(name))
    for table in tables:
        assert table["restored"][0] > table["blurred input"][0]
    shown = tables[0]

    _check_figures(name, shown, pairs)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_restores_the_wide_set_as_well_as_its_card_says(name: str) -> None:
    _check_figures(name, published_figures(read_card(name))[1], load_pairs(Path("wide"), "evaluation"))


def _check_figures(name: str, shown: dict[str, tuple[float, ...]], pairs: list[Pair]) -> None:
    report = evaluate(load_artifact(shipped("models") / name), pairs, "torch")
    assert report.psnr_blurred_db == pytest.approx(shown["blurred input"][0], abs=0.02)
    assert report.ssim_matlab_blurred == pytest.approx(shown["blurred input"][1], abs=0.001)
    assert report.ssim_skimage_blurred == pytest.approx(shown["blurred input"][2], abs=0.001)
    assert report.psnr_db == pytest.approx(shown["restored"][0], abs=0.02)
    assert report.ssim_matlab == pytest.approx(shown["restored"][1], abs=0.001)
    assert report.ssim_skimage == pytest.approx(shown["restored"][2], abs=0.001)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_keeps_colours_and_does_not_ring_on_real_blur(name: str) -> None:
    files = blurred_files(shipped("calibration") / "real-blur")
    assert len(files) == 3

    report = evaluate_blurred(load_artifact(shipped("models") / name), files, "torch")

    assert [photo for photo, effects in report.per_image if effects.flat_share < 0.1] == []
    assert report.color_shift is not None
    assert report.color_shift <= MAX_COLOR_SHIFT
    assert max(effects.overshoot_share for _, effects in report.per_image) <= MAX_OVERSHOOT


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compressed_generator_comes_from_the_shipped_one_and_costs_what_its_card_says(
    name: str, pairs: list[Pair], tmp_path: Path
) -> None:
    compressed, original = (load_artifact(shipped("models") / model) for model in (name, name.split("-p")[0]))
    earlier = len(original.history)
    assert compressed.history[:earlier] == original.history
    assert compressed.history[earlier].parent == original.sha256
    pruned, quantized = compressed.history[earlier:]
    assert [step.stage for step in (pruned, quantized)] == ["prune", "qat"]
    recipe = load_run_recipe(shipped("models") / name / "recipe.toml")
    assert recipe.prune
    assert recipe.qat
    percent = int(name.split("-p")[1].split("-")[0])  # srn-base-p70-int8
    assert recipe.prune.budget == ("macs", MACS[percent])
    for settings, step in ((recipe.prune, pruned), (recipe.qat, quantized)):
        made = without_infinity(dataclasses.asdict(settings))
        assert differing(made, step.config) <= {"tuning.photos"}
    assert compressed.network.quantization["reduce_range"]
    assert pruned.figures["gmacs"] <= MACS[percent] * original.figures["gmacs"]

    exported = export_onnx(compressed, ExportConfig(640, 360), tmp_path / "onnx")
    report = evaluate(exported, pairs, "onnxruntime")

    (shown,) = published_figures(read_card(name))
    assert report.psnr_db == pytest.approx(shown["restored"][0], abs=0.02)
    assert report.ssim_matlab == pytest.approx(shown["restored"][1], abs=0.001)
    assert report.ssim_skimage == pytest.approx(shown["restored"][2], abs=0.001)
    assert original.figures["psnr_db"] - report.psnr_db <= MAX_DROP_DB
    whole = export_onnx(original, ExportConfig(640, 360, compare=False), tmp_path / "original")
    assert exported.path.stat().st_size <= whole.path.stat().st_size / 8
    share = gain_kept(report.psnr_db, original.figures["psnr_db"], report.psnr_blurred_db)
    (told,) = re.findall(r"keeps\s+(\d+)\s%\s+of\s+the\s+gain", read_card(name))
    assert share == pytest.approx(int(told) / 100, abs=0.02)
    assert share >= GAIN_KEPT[percent]


def differing(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of the settings of a manifest that are not ours; older manifests lack newer settings."""
    found: set[str] = set()
    for key, value in theirs.items():
        if isinstance(value, dict) and isinstance(ours.get(key), dict):
            found |= differing(ours[key], value, f"{prefix}{key}.")
        elif ours.get(key) != value:
            found.add(f"{prefix}{key}")
    return found


def read_card(name: str) -> str:
    return (shipped("models") / name / "README.md").read_text(encoding="utf-8")


def published_figures(card: str) -> list[dict[str, tuple[float, ...]]]:
    """PSNR, SSIM (matlab) and SSIM (skimage) of each table of a card, the table of the shipped pairs first."""
    rows = re.findall(r"\| (blurred input|restored) \| ([\d.]+) dB \| ([\d.]+) \| ([\d.]+) \|", card)
    figures = [(name, tuple(map(float, values))) for name, *values in rows]
    return [dict(figures[start : start + 2]) for start in range(0, len(figures), 2)]
