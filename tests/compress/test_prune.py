"""Pruning: what is kept, that nothing else changes, and that a pruned network is a network like any other."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from deblur_deploy.compress.operations import outputs_of
from deblur_deploy.compress.plan import prune_network
from deblur_deploy.compress.prune import plan_pruning, prune, scan
from deblur_deploy.config import FitConfig, PruneConfig, ShakeConfig, TuningConfig
from deblur_deploy.core.artifact import Artifact, NetworkSpec, load_artifact, new_step
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import save_rgb
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.srn import SRN, SRNConfig

RELOAD = """
import sys, torch
from pathlib import Path
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.network.checkpoint import load_network
torch.set_num_threads(1)
folder = Path(sys.argv[1])
with torch.no_grad():
    restored = load_network(load_artifact(folder / "pruned"))(torch.load(folder / "frame.pt", weights_only=True))
torch.save(restored, folder / "there.pt")
"""
"""What another process does with the artifact."""

ALL_GROUPS = 15
"""Channel groups of an SRN of depths 2, 2, 1: 3 levels, 5 blocks, the gated unit, 3 laterals, 3 smoothings."""


def test_seventy_percent_rounds_down_to_multiples_of_eight(net):
    pruned, plan = prune_network(net, PruneConfig(keep=0.7, importance="l2"))

    assert len(plan.groups) == ALL_GROUPS
    assert {(group.before, group.after) for group in plan.groups} == {(24, 16), (48, 32), (96, 64)}
    assert all(group.share == round(group.after / group.before, 4) for group in plan.groups)
    assert config_of(pruned) == SRNConfig.from_base(16)
    assert pruned.deform.deform.conv_offset.out_channels == 18


def test_rounding_to_one_keeps_the_share_exactly(net):
    pruned, plan = prune_network(net, PruneConfig(keep=0.5, round_to=1, importance="l2"))

    assert all(group.after == group.before // 2 for group in plan.groups)
    assert pruned(torch.rand(1, 3, 17, 30)).shape == (1, 3, 17, 30)


def test_recurrence_and_skips_are_tied(net):
    _, plan = prune_network(net, PruneConfig(keep=0.7, importance="l2"))

    layers = {frozenset(group.layers) for group in plan.groups}
    assert frozenset({"recurrent.candidate", "recurrent.gate"}) in layers
    assert frozenset({"deform.deform", "levels.2.enter", "levels.2.blocks.0.conv2"}) in layers
    assert frozenset({"pyramid.lateral.0", "pyramid.up.0"}) in layers
    assert not any("head" in group for group in layers)


def test_the_network_that_is_pruned_stays_as_it_was(net):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    prune_network(net, PruneConfig(keep=0.5, importance="l2"))

    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_keeping_everything_changes_nothing(net):
    pruned, plan = prune_network(net, PruneConfig(keep=1.0, importance="l2"))

    frame = torch.rand(1, 3, 32, 32)
    assert all(group.share == 1 for group in plan.groups)
    assert torch.equal(pruned(frame), net(frame))


def test_pruning_zeroed_channels_changes_the_output_by_nothing_that_counts(net):
    """The weakest third of every group is zeroed first: exactly those channels must go."""
    small, _ = prune_network(net, PruneConfig(keep=0.7, importance="l2"))
    rng = np.random.default_rng(0)
    widened = SRN(SRNConfig.from_base(24)).eval()
    _embed(small, widened, rng)

    again, _ = prune_network(widened, PruneConfig(keep=0.7, importance="l2"))

    frame = torch.rand(1, 3, 48, 64)
    with torch.no_grad():
        assert config_of(again) == config_of(small)
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
    once, _ = prune_network(net, PruneConfig(keep=0.7, importance="l2"))
    twice, plan = prune_network(once, PruneConfig(keep=0.5, importance="l2"))

    assert config_of(twice) == SRNConfig.from_base(8)
    assert {group.before for group in plan.groups} == {16, 32, 64}
    assert measure_cost(twice)["gmacs"] < measure_cost(once)["gmacs"] < measure_cost(net)["gmacs"]


@pytest.mark.parametrize("importance", ["l1", "l2", "taylor"])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_any_network_is_pruned_by_any_importance(any_net, frames, importance, scope):
    config = PruneConfig(macs=0.6, round_to=4, importance=importance, scope=scope)
    batch = (torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))

    pruned, plan = prune_network(any_net, config, [batch], frames)

    assert plan.macs[1] <= 0.6 * plan.macs[0]
    assert type(pruned) is type(any_net)
    with torch.no_grad():
        shapes = [[out.shape for out in outputs_of(network(torch.rand(1, 3, 48, 32)))] for network in (any_net, pruned)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("kind", ["keep", "macs", "params"])
@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_shares_outside_zero_to_one_are_refused(kind, share):
    with pytest.raises(ConfigError, match=f"{kind} is"):
        PruneConfig(**{kind: share})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.7, "macs": 0.5}, "there are 2 budgets: keep, macs"),
        ({"importance": "l3"}, "importance is 'l3'"),
        ({"scope": "everywhere"}, "scope is 'everywhere'"),
        ({"allocation": "fair"}, "allocation is 'fair'"),
        ({"scope": "global", "allocation": "sensitivity"}, "both distribute channels"),
        ({"rounds": 0}, "rounds is 0"),
        ({"scan_images": 0}, "scan_images is 0"),
        ({"scan_size": 8}, "scan_size is 8"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PruneConfig(**options)


def test_the_budget_is_seventy_percent_of_the_channels_unless_one_is_given():
    assert PruneConfig().budget == ("keep", 0.7)
    assert PruneConfig(params=0.4).budget == ("params", 0.4)


def config_of(net: SRN) -> SRNConfig:
    """The widths that a network has, whatever it was made with."""
    return SRNConfig.from_shapes({name: tensor.shape for name, tensor in net.state_dict().items()})


def _tuning(folder: object, steps: int) -> TuningConfig:
    fit = FitConfig(steps=steps, batch=2, crop=64, warmup=1, ema_decay=0.5)
    return TuningConfig(str(folder), str(folder), ShakeConfig(length_px=(2.0, 4.0)), fit)


@pytest.fixture
def source(photo, tmp_path) -> Artifact:
    """A small network as an artifact, beside a folder with one photograph."""
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "one.png", photo)
    torch.manual_seed(2)
    net = SRN(SRNConfig.from_base(16, (1, 1, 1))).eval()
    torch.nn.init.normal_(net.head.weight, std=0.05)
    return save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, measure_cost(net)))


def test_the_stage_writes_what_it_did(source, tmp_path):
    config = PruneConfig(tuning=_tuning(tmp_path / "photos", 2), importance="l2")
    losses: list[float] = []

    pruned = prune(source, config, tmp_path / "pruned", lambda step, steps, loss: losses.append(loss))

    assert len(losses) == 2
    assert [step.stage for step in load_artifact(tmp_path / "pruned").history] == ["import", "prune"]
    assert pruned.history[-1].parent == source.sha256
    assert pruned.figures["params"] == sum(p.numel() for p in load_network(pruned).parameters())
    assert pruned.figures["psnr_db"] > 10
    assert len(pruned.figures["groups"]) == ALL_GROUPS - 2  # one residual block less on two levels
    assert {(group["before"], group["after"]) for group in pruned.figures["groups"]} == {(16, 8), (32, 16), (64, 40)}


def test_rounds_share_the_way_and_the_steps(source, tmp_path):
    config = PruneConfig(params=0.4, rounds=3, tuning=_tuning(tmp_path / "photos", 4), importance="l2")
    told: list[tuple[int, int]] = []

    pruned = prune(source, config, tmp_path / "pruned", lambda step, steps, loss: told.append((step, steps)))

    rounds, full = pruned.figures["rounds"], source.figures["params"]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [done["steps"] for done in rounds] == [1, 1, 2]
    assert [done["share"] for done in rounds] == pytest.approx([0.8, 0.6, 0.4])
    assert all(0.9 * done["share"] < done["params"] / full <= done["share"] for done in rounds)
    assert pruned.figures["params"] == rounds[-1]["params"]
    assert all(pruned.figures[name] == rounds[-1][name] for name in ("gmacs", "psnr_untuned_db", "psnr_db"))
    befores = {group["layers"][0]: group["before"] for group in pruned.figures["groups"]}
    assert befores["levels.0.enter"] == 16
    assert befores["recurrent.candidate"] == 64


def test_sensitivity_is_scanned_once_and_kept_in_the_manifest(source, tmp_path):
    config = PruneConfig(
        macs=0.5, round_to=16, allocation="sensitivity", rounds=2, scan_images=1, scan_size=48, importance="l2"
    )
    config = dataclasses.replace(config, tuning=_tuning(tmp_path / "photos", 0))
    told: list[tuple[int, int]] = []

    pruned = prune(source, config, tmp_path / "pruned", None, lambda done, of, drop: told.append((done, of)))

    scanned = load_artifact(tmp_path / "pruned").figures["scan"]
    assert len(told) == len(scanned["rows"]) == told[0][1]
    assert (scanned["images"], scanned["size"]) == (1, 48)
    assert pruned.figures["gmacs"] <= 0.5 * source.figures["gmacs"]
    assert scan(source, config).as_json() == scanned


def test_taylor_ranks_on_shaken_photographs(source, tmp_path):
    config = PruneConfig(importance="taylor", tuning=_tuning(tmp_path / "photos", 0))

    assert plan_pruning(source, config).removed != plan_pruning(source, PruneConfig(importance="l2")).removed


def test_a_budget_out_of_reach_is_refused_before_any_tuning(source, tmp_path):
    config = PruneConfig(macs=0.02, rounds=2, tuning=_tuning(tmp_path / "photos", 2), importance="l2")

    with pytest.raises(ConfigError, match=r"macs 0\.02 cannot be met"):
        prune(source, config, tmp_path / "pruned", lambda *_: pytest.fail("it was tuned"))
    assert not (tmp_path / "pruned").exists()


def test_a_pruned_artifact_gives_the_same_in_another_process_bit_for_bit(source, tmp_path):
    config = PruneConfig(macs=0.5, scope="global", tuning=_tuning(tmp_path / "photos", 1), importance="l2")
    pruned = prune(source, config, tmp_path / "pruned")
    frame = torch.rand(1, 3, 33, 50)
    torch.save(frame, tmp_path / "frame.pt")

    subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path)], check=True, timeout=120)

    with torch.no_grad():
        here = load_network(pruned)(frame)
    assert torch.equal(torch.load(tmp_path / "there.pt", weights_only=True), here)
    again = prune(
        pruned, PruneConfig(keep=0.5, tuning=_tuning(tmp_path / "photos", 0), importance="l2"), tmp_path / "again"
    )
    assert again.figures["params"] < pruned.figures["params"]


def test_a_quantized_source_is_refused(source, tmp_path):
    quantized: NetworkSpec = dataclasses.replace(source.network, quantization={"bits": 8, "exempt": []})
    quantized_source = dataclasses.replace(source, network=quantized)

    for stage in (prune, plan_pruning, scan):
        out = (tmp_path / "pruned",) if stage is prune else ()
        with pytest.raises(ArtifactError, match="is quantized"):
            stage(quantized_source, PruneConfig(), *out)
    assert not (tmp_path / "pruned").exists()
