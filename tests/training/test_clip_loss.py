"""Training on clips: what a temporal network makes of them, the flicker, and a run from recipe to artifact."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from deblur_deploy.config import ClipConfig, FitConfig, LossConfig, RunConfig
from deblur_deploy.core.errors import ConfigError, MissingDependencyError
from deblur_deploy.data.clips import PLANES
from deblur_deploy.data.pairs import load_pairs
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.network.srn import SCALES, SRN, SRNConfig
from deblur_deploy.network.temporal import make_temporal
from deblur_deploy.training import train as train_module
from deblur_deploy.training.clip_loss import ClipObjective, ClipScales, flicker
from deblur_deploy.training.train import load_recipe, train

RECIPE = """
base = 8
depths = [1, 1, 1]
[clip]
frames = 3
[camera]
length_px = [2.0, 6.0]
jpeg_share = 0.0
[fit]
steps = 3
batch = 1
crop = 64
seed = 7
[augment]
brightness = 0.0
contrast = 0.0
"""


@pytest.fixture
def config(write_recipe, monkeypatch):
    one = load_pairs(None, "evaluation")[:1]
    monkeypatch.setattr(train_module, "load_pairs", lambda folder, split: one)
    return load_recipe(write_recipe(RECIPE))


def clips(frames: int, seed: int = 0) -> torch.Tensor:
    made = torch.rand(1, frames * PLANES, 64, 64, generator=torch.Generator().manual_seed(seed))
    for index in range(frames):
        made[:, index * PLANES + 3 : index * PLANES + 5] = 0  # no motion
        made[:, index * PLANES + 5] = float(index > 0)
    return made


def test_a_frame_of_a_clip_depends_on_those_before_it(soften):
    torch.manual_seed(1)
    net = make_temporal(SRN(SRNConfig.from_base(8, (1, 1, 1))))
    soften(net)
    nn.init.normal_(net.head.weight, std=0.05)
    scales, given = ClipScales(net), clips(3)
    other = given.clone()
    other[:, :3] = 1 - other[:, :3]

    with torch.no_grad():
        first, changed = scales(given), scales(other)
        alone = net.forward_scales(given[:, :3])

    assert len(first) == 3 * SCALES
    assert (first[SCALES - 1] - alone[-1]).abs().max() < 1e-6  # they lie differently in memory
    assert (first[-1] - changed[-1]).abs().max() > 1e-6  # the third frame knows of the first
    other = given.clone()
    other[:, 2 * PLANES : 2 * PLANES + 3] = 0
    with torch.no_grad():
        assert torch.equal(scales(other)[2 * SCALES - 1], first[2 * SCALES - 1])  # the second not of the third


def test_flicker_is_what_changes_otherwise_than_in_the_sharp_film():
    still, flow, trust = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 2, 8, 8), torch.ones(1, 1, 8, 8)

    assert float(flicker([still, still + 0.1], (still, still), flow, trust)) == pytest.approx(0.1)
    assert float(flicker([still, still + 0.1], (still, still + 0.1), flow, trust)) == pytest.approx(0.0)
    trust[..., :4] = 0
    assert float(flicker([still, still + 0.1], (still, still), flow, trust)) == pytest.approx(0.05)


def test_flicker_follows_the_motion():
    ramp = torch.arange(16.0).repeat(16, 1)[None, None].repeat(1, 3, 1, 1) / 16
    flow, trust = torch.zeros(1, 2, 16, 16), torch.ones(1, 1, 16, 16)
    flow[:, 0] = 0.5  # two pixels to the right, as a quarter of the size has it
    trust[..., 12:] = 0
    moved = ramp + 2 / 16

    assert float(flicker([ramp, moved], (ramp, ramp), flow, trust)) > 0.05
    assert float(flicker([ramp, moved], (ramp, moved), flow, trust)) == pytest.approx(0.0, abs=1e-6)


def test_the_loss_is_over_all_frames_and_the_flicker_has_its_weight():
    fit, target = FitConfig(coarse_weight=0.0), clips(2)
    estimates = [torch.full((1, 3, 64 >> (2 - scale), 64 >> (2 - scale)), 0.5) for scale in range(3)] * 2
    terms = ClipObjective(fit, LossConfig(), ClipConfig(frames=2, consistency=2.0)).terms(estimates, target, target)

    pictures = [target[:, :3], target[:, PLANES : PLANES + 3]]
    wanted = sum(float((picture - 0.5).abs().mean()) for picture in pictures) / 2
    assert float(terms["content"]) == pytest.approx(wanted, rel=1e-5)
    assert float(terms["consistency"]) == pytest.approx(2 * float((pictures[1] - pictures[0]).abs().mean()), rel=1e-5)
    off = ClipObjective(fit, LossConfig(), ClipConfig(frames=2, consistency=0.0)).terms(estimates, target, target)
    assert "consistency" not in off


def test_a_run_on_clips_makes_a_temporal_network_and_goes_on_from_a_plain_one(config, tmp_path):
    plain = SRN(SRNConfig.from_base(8, (1, 1, 1)))
    fresh = train(None, config, tmp_path / "fresh")

    again = train(None, config, tmp_path / "again")
    longer = train(fresh, config, tmp_path / "longer")

    assert fresh.sha256 == again.sha256 != longer.sha256
    net = load_network(longer)
    assert isinstance(net, SRN)
    assert net.config == make_temporal(plain).config
    assert net.levels[0].enter.weight[:, 6:].abs().max() > 0
    assert fresh.history[-1].config["clip"]["frames"] == 3


def test_a_run_on_clips_resumes_bit_for_bit(config, tmp_path):
    whole = train(None, config, tmp_path / "whole")

    def interrupt(step: int, steps: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(None, config, tmp_path / "parts", interrupt, RunConfig(workers=0))
    resumed = train(None, config, tmp_path / "parts", run=RunConfig(resume=True, workers=0))

    assert resumed.sha256 == whole.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[camera]\nlength_px = [2.0, 6.0]\njpeg_share = 0.0\n", ""), "has \\[clip\\] and no \\[camera\\]"),
        (("frames = 3", "frames = 1"), "frames is 1"),
        (("frames = 3", "exposure = [0.0, 1.0]"), "exposure is"),
        (("brightness = 0.0", "brightness = 0.2"), "mirrored and turned alone"),
        (("[augment]", "[loss]\nadversarial = 0.1\n[augment]"), "without VGG19 and discriminator"),
    ],
)
def test_recipes_with_impossible_clips_are_refused(write_recipe, change, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(write_recipe(RECIPE.replace(*change)))


def test_clips_without_opencv_name_what_is_missing(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "deblur_deploy.data.camera", None)

    with pytest.raises(MissingDependencyError, match="needs OpenCV"):
        train(None, config, tmp_path / "out")
