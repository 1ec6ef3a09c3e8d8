"""The training stage: a generator from nothing, one that goes on, and recipes that are wrong."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from deblur_deploy.config import CameraConfig, LossConfig, RunConfig, ShakeConfig, TrainConfig
from deblur_deploy.core.artifact import Artifact, NetworkSpec, load_artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import ImageSpec, save_rgb
from deblur_deploy.data.pairs import Pair, load_pairs
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.network.srn import SRNConfig
from deblur_deploy.training import train as train_module
from deblur_deploy.training.losses import VGG19Features
from deblur_deploy.training.train import load_recipe, planned_network, train

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


@pytest.fixture(scope="module")
def one_pair() -> list[Pair]:
    """The first shipped pair: ten photographs of 640x360 take longer than everything else here."""
    return load_pairs(None, "evaluation")[:1]


@pytest.fixture
def config(write_recipe, one_pair: list[Pair], monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr(train_module, "load_pairs", lambda folder, split: one_pair)
    return load_recipe(write_recipe(RECIPE))


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


def test_a_wider_recipe_widens_the_source_and_the_manifest_says_so(config, tmp_path):
    narrow = train(None, config, tmp_path / "narrow")
    still = dataclasses.replace(config, base=12, depths=None, fit=dataclasses.replace(config.fit, steps=0))

    wide = train(narrow, still, tmp_path / "wide")

    assert load_network(wide).config == SRNConfig.from_base(12, (1, 1, 1))
    step = load_artifact(tmp_path / "wide").history[-1]
    assert step.parent == narrow.sha256
    assert step.figures["widened_from"] == narrow.network.config
    assert step.figures["psnr_db"] == pytest.approx(narrow.figures["psnr_db"], abs=1e-3)


def test_a_recipe_with_a_camera_and_a_stem_trains_on_its_blur(write_recipe, one_pair, monkeypatch, tmp_path):
    monkeypatch.setattr(train_module, "load_pairs", lambda folder, split: one_pair)
    camera = "stem = 2\n" + RECIPE.replace("[shake]", "[camera]")
    recipe = load_recipe(write_recipe(camera))
    assert recipe.camera == CameraConfig(length_px=(2.0, 4.0))

    first = train(None, recipe, tmp_path / "a")
    assert load_network(first).config == SRNConfig.from_base(8, (1, 1, 1), stem=2)
    assert load_network(first).multiple_of == 32
    shaken = dataclasses.replace(recipe, camera=None, shake=ShakeConfig(length_px=(2.0, 4.0)))
    assert train(None, shaken, tmp_path / "b").sha256 != first.sha256


def test_a_source_gets_a_stem_and_never_loses_one(config, tmp_path):
    plain = train(None, config, tmp_path / "a")
    stemmed = train(plain, dataclasses.replace(config, stem=2), tmp_path / "b")
    assert load_network(stemmed).config == SRNConfig.from_base(8, (1, 1, 1), stem=2)
    assert load_network(train(stemmed, dataclasses.replace(config, base=None), tmp_path / "c")).config.stem == 2
    with pytest.raises(ConfigError, match="a stem of 1 and the network to start from one of 2"):
        train(stemmed, dataclasses.replace(config, stem=1), tmp_path / "d")


def test_crops_that_the_network_does_not_take_are_refused_before_photographs_are_read(config, tmp_path):
    odd = dataclasses.replace(config, stem=2, photos=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="crops of 80 px do not divide by 32") as error:
        train(None, dataclasses.replace(odd, fit=dataclasses.replace(config.fit, crop=80)), tmp_path / "a")
    assert "crop = 96" in error.value.hint


def test_two_blurs_in_one_recipe_are_refused():
    with pytest.raises(ConfigError, match=r"both \[shake\] and \[camera\]"):
        TrainConfig(shake=ShakeConfig(roll_deg=0.1), camera=CameraConfig())


def test_a_recipe_without_widths_keeps_those_of_the_source(config, tmp_path):
    first = train(None, config, tmp_path / "a")
    free = dataclasses.replace(config, base=None, depths=None)

    second = train(first, free, tmp_path / "b")
    deeper = train(first, dataclasses.replace(free, depths=(2, 1, 1)), tmp_path / "c")

    assert second.network == first.network
    assert "widened_from" not in second.figures
    assert load_network(deeper).config == SRNConfig.from_base(8, (2, 1, 1))


@pytest.mark.parametrize("change", [{"base": 6}, {"base": None, "depths": (1, 0, 1)}], ids=str)
def test_a_narrower_recipe_is_refused_before_photographs_are_read(config, tmp_path, change):
    first = train(None, config, tmp_path / "a")

    with pytest.raises(ConfigError, match="narrower than the network to start from"):
        train(first, dataclasses.replace(config, photos=str(tmp_path / "none"), **change), tmp_path / "b")


def test_widths_that_are_nowhere_given_are_those_of_the_documentation():
    assert planned_network(None, TrainConfig()) == SRNConfig.from_base(24, (2, 2, 1))


def test_a_widened_run_goes_on_bit_for_bit(config, tmp_path):
    first = train(None, config, tmp_path / "narrow")
    wider = dataclasses.replace(config, base=10, depths=(1, 2, 1))

    def interrupt(step, steps, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(first, wider, tmp_path / "cut", interrupt)
    with pytest.raises(ConfigError, match="init differ"):
        train(None, wider, tmp_path / "cut", None, RunConfig(resume=True))
    resumed = train(first, wider, tmp_path / "cut", None, RunConfig(resume=True))

    assert resumed.sha256 == train(first, wider, tmp_path / "whole").sha256


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


def test_pairs_are_trained_on_as_they_are_and_passes_become_steps(config, photo, tmp_path):
    for kind, image in (("blur", photo[::-1]), ("sharp", photo)):
        for name in "abc":
            (tmp_path / "set" / "train" / "seq" / kind).mkdir(parents=True, exist_ok=True)
            save_rgb(tmp_path / "set" / "train" / "seq" / kind / f"{name}.png", image)
    pairs = dataclasses.replace(config, photos=str(tmp_path / "set"), epochs=2)
    seen: list[tuple[int, int]] = []

    trained = train(
        None,
        pairs,
        tmp_path / "out",
        lambda step, steps, loss: seen.append((step, steps)),
        RunConfig(cache=str(tmp_path / "cache")),
    )

    assert seen == [(step, 4) for step in range(1, 5)]  # two passes over three photographs in batches of two
    assert trained.figures["photos"] == 3
    assert len(list((tmp_path / "cache").iterdir())) == 6


def test_a_photograph_that_is_too_small_is_named(config, tmp_path):
    large = dataclasses.replace(config, fit=dataclasses.replace(config.fit, crop=160))

    with pytest.raises(ConfigError, match=r"photos/one\.png with a side of 160 px is too small for crops of 160 px"):
        train(None, large, tmp_path / "out")


def test_a_perceptual_loss_without_weights_says_so_before_it_trains(config, tmp_path):
    perceptual = dataclasses.replace(config, loss=LossConfig(perceptual=0.1))

    with pytest.raises(ConfigError, match="needs VGG19 weights"):
        train(None, perceptual, tmp_path / "out")


def test_a_perceptual_loss_trains_with_a_file_of_weights(config, tmp_path):
    torch.manual_seed(0)
    save_file(VGG19Features().state_dict(), tmp_path / "vgg.safetensors")
    perceptual = dataclasses.replace(config, loss=LossConfig(perceptual=0.1))

    trained = train(None, perceptual, tmp_path / "out", None, RunConfig(vgg_weights=str(tmp_path / "vgg.safetensors")))

    assert trained.figures["loss"] > 0


def test_a_network_of_another_kind_is_not_trained(config, tmp_path):
    spec = NetworkSpec("mimo-unet", {})
    other = Artifact("checkpoint", tmp_path / "weights.safetensors", "0", spec, ImageSpec(), ())
    with pytest.raises(ArtifactError, match="is a network of mimo-unet, and recipes are for srn"):
        train(other, config, tmp_path / "out")
