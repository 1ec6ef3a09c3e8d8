"""The training stage: a generator from nothing, one that goes on, and recipes that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deblur_deploy.artifact import load_artifact
from deblur_deploy.config import TrainConfig
from deblur_deploy.errors import ConfigError
from deblur_deploy.images import save_rgb
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.network.srn import SRNConfig
from deblur_deploy.training import train as train_module
from deblur_deploy.training.train import load_recipe, train

RECIPE = """
base = 8
depths = [1, 1, 1]
[shake]
length_px = [2.0, 4.0]
[fit]
steps = 2
batch = 2
crop = 64
seed = 7
"""


@pytest.fixture
def config(photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "one.png", photo)
    (tmp_path / "recipe.toml").write_text(f'photos = "{tmp_path / "photos"}"\n{RECIPE}')
    # Ten photographs of 640x360 take longer than everything else here.
    shipped = train_module.load_pairs(None, "evaluation")
    monkeypatch.setattr(train_module, "load_pairs", lambda folder, split: shipped[:1])
    return load_recipe(tmp_path / "recipe.toml")


def test_training_from_nothing_depends_on_the_seed_alone(config, tmp_path):
    first, second = (train(None, config, tmp_path / name) for name in "ab")

    assert first.sha256 == second.sha256
    assert load_network(first).config == SRNConfig.from_base(8, (1, 1, 1))
    assert load_artifact(tmp_path / "a").figures["photos"] == 1
    assert first.figures["data_seconds"] <= first.figures["seconds"]


def test_going_on_starts_from_the_weights_given(config, tmp_path):
    first = train(None, config, tmp_path / "a")
    seen: list[int] = []

    second = train(first, config, tmp_path / "b", lambda step, steps, loss: seen.append(step))

    assert seen == [1, 2]
    assert [step.stage for step in second.history] == ["train", "train"]
    assert second.history[1].parent == first.sha256
    before, after = (load_network(artifact).head.weight for artifact in (first, second))
    assert 0 < (before - after).abs().max() < 0.1
    assert not torch.equal(before, after)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base = ", "cannot be read as a recipe"),
        ("bases = 8", r"no field 'bases'(.|\n)*did you mean 'base'"),
        ("[fit]\nsteps = -1", "steps is -1"),
        ('base = "wide"', "base is 'wide'"),
        ("[fit]\ncrop = 100", "crop is 100"),
    ],
)
def test_wrong_recipes_are_told_what_is_wrong(text, said, tmp_path):
    (tmp_path / "recipe.toml").write_text(text)

    with pytest.raises(ConfigError, match=said):
        load_recipe(tmp_path / "recipe.toml")


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_recipe(tmp_path / "none.toml")
