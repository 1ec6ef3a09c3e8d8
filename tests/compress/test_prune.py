"""Pruning: what is kept, that nothing else changes, and that a pruned network is a network like any other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from deblur_deploy.artifact import NetworkSpec, load_artifact, new_step
from deblur_deploy.compress.prune import prune, prune_network
from deblur_deploy.config import FitConfig, PruneConfig, ShakeConfig, TuningConfig
from deblur_deploy.errors import ArtifactError, ConfigError
from deblur_deploy.images import save_rgb
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.srn import SRN, SRNConfig

ALL_GROUPS = 15
"""Channel groups of an SRN of depths 2, 2, 1: 3 levels, 5 blocks, the gated unit, 3 laterals, 3 smoothings."""


@pytest.fixture
def net() -> SRN:
    torch.manual_seed(2)
    net = SRN(SRNConfig.from_base(24)).eval()
    torch.nn.init.normal_(net.head.weight, std=0.05)
    torch.nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.02)
    return net


def test_seventy_percent_rounds_down_to_multiples_of_eight(net):
    pruned, groups = prune_network(net, keep=0.7, round_to=8)

    assert len(groups) == ALL_GROUPS
    assert {(group.before, group.after) for group in groups} == {(24, 16), (48, 32), (96, 64)}
    assert all(group.share == round(group.after / group.before, 4) for group in groups)
    assert pruned.config == SRNConfig.from_base(16)
    assert pruned.deform.deform.conv_offset.out_channels == 18


def test_rounding_to_one_keeps_the_share_exactly(net):
    pruned, groups = prune_network(net, keep=0.5, round_to=1)

    assert all(group.after == group.before // 2 for group in groups)
    assert pruned(torch.rand(1, 3, 17, 30)).shape == (1, 3, 17, 30)


def test_recurrence_and_skips_are_tied(net):
    _, groups = prune_network(net, keep=0.7, round_to=8)

    layers = {frozenset(group.layers) for group in groups}
    assert frozenset({"recurrent.candidate", "recurrent.gate"}) in layers
    assert frozenset({"deform.deform", "levels.2.enter", "levels.2.blocks.0.conv2"}) in layers
    assert frozenset({"pyramid.lateral.0", "pyramid.up.0"}) in layers
    assert not any("head" in group for group in layers)


def test_the_network_that_is_pruned_stays_as_it_was(net):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    prune_network(net, keep=0.5, round_to=8)

    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_keeping_everything_changes_nothing(net):
    pruned, groups = prune_network(net, keep=1.0, round_to=8)

    frame = torch.rand(1, 3, 32, 32)
    assert all(group.share == 1 for group in groups)
    assert torch.equal(pruned(frame), net(frame))


def test_pruning_zeroed_channels_changes_the_output_by_nothing_that_counts(net):
    """The weakest third of every group is zeroed first: exactly those channels must go."""
    small, _ = prune_network(net, keep=0.7, round_to=8)
    rng = np.random.default_rng(0)
    widened = SRN(SRNConfig.from_base(24)).eval()
    _embed(small, widened, rng)

    again, _ = prune_network(widened, keep=0.7, round_to=8)

    frame = torch.rand(1, 3, 48, 64)
    with torch.no_grad():
        assert again.config == small.config
        assert (again(frame) - widened(frame)).abs().max() <= 1e-5
        assert (widened(frame) - frame).abs().max() > 1e-3


def _embed(small: SRN, wide: SRN, rng: np.random.Generator) -> None:
    """Spread a network over the channels of a wider one, zeros elsewhere; tied channels keep the same places."""
    places = {
        (before, after): np.sort(rng.choice(before, after, replace=False))
        for before, after in ((24, 16), (48, 32), (96, 64), (3, 3), (6, 6), (18, 18))
    }
    places[(192, 128)] = np.concatenate([places[(96, 64)], 96 + places[(96, 64)]])
    state = wide.state_dict()
    for name, tensor in small.state_dict().items():
        target = torch.zeros_like(state[name])
        index = [torch.from_numpy(places[pair]) for pair in zip(target.shape[:2], tensor.shape[:2], strict=True)]
        target[tuple(torch.meshgrid(*index, indexing="ij"))] = tensor
        state[name] = target
    wide.load_state_dict(state)


def test_a_pruned_network_can_be_pruned_again(net):
    once, _ = prune_network(net, keep=0.7, round_to=8)
    twice, groups = prune_network(once, keep=0.5, round_to=8)

    assert twice.config == SRNConfig.from_base(8)
    assert {group.before for group in groups} == {16, 32, 64}
    assert measure_cost(twice)["gmacs"] < measure_cost(once)["gmacs"] < measure_cost(net)["gmacs"]


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, float("nan")])
def test_shares_outside_zero_to_one_are_refused(keep):
    with pytest.raises(ConfigError, match="keep is"):
        PruneConfig(keep=keep)


def _tuning(folder: object, steps: int) -> TuningConfig:
    fit = FitConfig(steps=steps, batch=2, crop=64, warmup=1, ema_decay=0.5)
    return TuningConfig(str(folder), str(folder), ShakeConfig(length_px=(2.0, 4.0)), fit)


def test_the_stage_writes_what_it_did(net, photo, tmp_path):
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "one.png", photo)
    config = PruneConfig(tuning=_tuning(tmp_path / "photos", 2))
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, measure_cost(net)))
    losses: list[float] = []

    pruned = prune(source, config, tmp_path / "pruned", lambda step, steps, loss: losses.append(loss))

    assert len(losses) == 2
    assert [step.stage for step in load_artifact(tmp_path / "pruned").history] == ["import", "prune"]
    assert pruned.history[-1].parent == source.sha256
    assert pruned.figures["params"] == sum(p.numel() for p in load_network(pruned).parameters())
    assert pruned.figures["psnr_db"] > 10
    assert len(pruned.figures["groups"]) == ALL_GROUPS


def test_a_quantized_source_is_refused(net, tmp_path):
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    quantized: NetworkSpec = dataclasses.replace(source.network, quantization={"bits": 8, "exempt": []})

    with pytest.raises(ArtifactError, match="is quantized"):
        prune(dataclasses.replace(source, network=quantized), PruneConfig(), tmp_path / "pruned")
    assert not (tmp_path / "pruned").exists()
