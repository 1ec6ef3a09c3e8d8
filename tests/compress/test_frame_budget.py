"""Pruning to a frame time with a clock that is arithmetic: the table, the choice, the correction, and bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.compress import frame_budget
from deblur_deploy.compress.frame_budget import FrameSearch, Watching, prune_to_time
from deblur_deploy.compress.latency_table import check_groups, read_table
from deblur_deploy.compress.sensitivity import predicted_drop_db
from deblur_deploy.compress.shaping import TablePlace
from deblur_deploy.config import FitConfig, FrameTimeConfig, PruneConfig, ShakeConfig, TuningConfig
from deblur_deploy.core.artifact import Artifact, load_artifact, new_step
from deblur_deploy.core.errors import ArtifactError, BudgetError, ConfigError, VerificationError
from deblur_deploy.core.images import Resolution, save_rgb
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.cost import count_macs
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.nafnet import NAFNet, NAFNetConfig
from deblur_deploy.network.srn import SRN, SRNConfig

SIZE = Resolution(64, 48)


class Arithmetic:
    """A clock for which a frame takes a millisecond for 2 million multiply-accumulates, and one in any case."""

    def __init__(self, spread: float = 0.01, surprise: float = 1.0) -> None:
        self.identity: dict[str, Any] = {
            "network": "n",
            "runtime": "r",
            "precision": "fp32",
            "res": "64x48",
            "cpu": "c",
        }
        self.spread, self.surprise, self.timed = spread, surprise, 0
        self.fails_at: int | None = None
        self.pace = 1.0

    def time(self, net: Generator) -> tuple[float, float]:
        self.timed += 1
        if self.timed == self.fails_at:
            raise KeyboardInterrupt
        late = self.surprise if self.timed > 60 else 1.0
        return (1 + count_macs(net, SIZE)[""] / 2e6) * late * self.pace, self.spread


@pytest.fixture
def source(tmp_path: Path, photo: NDArray[np.uint8]) -> Artifact:
    """A small network beside a folder with one photograph."""
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "one.png", photo[:64, :96])
    torch.manual_seed(2)
    net = SRN(SRNConfig.from_base(16, (2, 1, 1))).eval()
    torch.nn.init.normal_(net.head.weight, std=0.05)
    return save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))


@pytest.fixture
def config(tmp_path: Path) -> FrameTimeConfig:
    folder = str(tmp_path / "photos")
    fit = FitConfig(steps=1, batch=1, crop=32, warmup=1)
    tuning = TuningConfig(folder, folder, ShakeConfig(length_px=(2.0, 4.0)), fit=fit)
    prune = PruneConfig(scan_images=1, scan_size=48, tuning=tuning, importance="l2")
    return FrameTimeConfig(5.0, width=SIZE.width, height=SIZE.height, prune=prune)


def whole_ms(source: Artifact) -> float:
    return Arithmetic().time(load_network(source))[0]


def test_the_result_fits_and_its_manifest_proves_it(source: Artifact, config: FrameTimeConfig, tmp_path: Path) -> None:
    clock, told = Arithmetic(), []
    budget = 0.6 * whole_ms(source)
    config = replace(config, max_ms=budget)
    watching = Watching(lambda done, of, ms: told.append((done, of)))
    search = FrameSearch(source, config, clock, TablePlace(tmp_path / "table.json"), watching)
    assert told == [(n, len(search.table.timed)) for n in range(1, len(search.table.timed) + 1)]
    assert search.times.error(search.table.unseen) < 0.03

    pruned = prune_to_time(search, source, config, tmp_path / "out")

    figures = pruned.figures
    assert clock.time(load_network(pruned))[0] == pytest.approx(figures["measured_ms"])
    assert 0.9 * budget < figures["measured_ms"] <= budget * 1.03
    assert figures["predicted_ms"] == pytest.approx(figures["measured_ms"], rel=0.05)
    assert figures["optimality_gap"] <= 1e-4
    assert {"psnr_db", "gain_kept", "groups", "blocks_removed", "budget_ms", "scan"} <= figures.keys()
    net = load_network(pruned)
    depths = [len(blocks) for blocks in net.config.block_channels]
    assert sum(depths) == 4 - len(figures["blocks_removed"])
    kept = {group["layers"][0]: group["after"] for group in figures["groups"]}
    assert all(width % 8 == 0 for width in kept.values())


def test_a_smaller_budget_never_predicts_less_loss_and_blocks_can_go(
    source: Artifact, config: FrameTimeConfig, tmp_path: Path
) -> None:
    search = FrameSearch(source, config, Arithmetic(), TablePlace(tmp_path / "table.json"))
    whole = search.table.timed[0].ms
    least = search.times.predict(search.shaping.smallest())
    plans = [search.plan(least + share * (whole - least)) for share in (0.9, 0.6, 0.3, 0.001)]
    losses = [plan.choice.lost_db for plan in plans]
    assert losses == sorted(losses)
    assert all(plan.predicted_ms <= plan.budget_ms * (1 + 1e-9) for plan in plans)
    for plan in plans:
        assert all((group.saved_ms > 1e-9) == (group.after < group.before) for group in plan.groups)
        of_blocks = sum(search._worth.blocks[block] for block in plan.choice.shape.dropped)
        of_groups = sum(10 ** (group.lost_db / 10) - 1 for group in plan.groups)
        assert predicted_drop_db(of_groups + of_blocks) == pytest.approx(plan.choice.lost_db, abs=1e-6)
    last = plans[-1].as_json()
    assert last["blocks_removed"] == [
        f"levels.{place}" for place in ("0.blocks.0", "0.blocks.1", "1.blocks.0", "2.blocks.0")
    ]
    assert [group["after"] for group in last["groups"] if "blocks.0.conv1" in group["layers"][0]] == [0, 0, 0]
    assert search.carry_out(plans[-1])(torch.rand(1, 3, 17, 30)).shape == (1, 3, 17, 30)


def test_a_missed_prediction_is_corrected(source: Artifact, config: FrameTimeConfig, tmp_path: Path) -> None:
    clock = Arithmetic()
    search = FrameSearch(source, config, clock, TablePlace(tmp_path / "table.json"))
    budget = search.plan(0.7 * search.table.timed[0].ms).predicted_ms * 1.0001
    clock.timed, clock.surprise = 61, 1.15  # from now on everything takes longer than the table says
    plan = search.plan_measured(budget)
    assert plan.measured_ms is not None
    assert plan.measured_ms <= budget * 1.03
    assert plan.measured_ms == pytest.approx(plan.predicted_ms, rel=0.03)


def test_a_budget_that_cannot_be_held_keeps_the_fastest_and_ends_with_3(
    source: Artifact, config: FrameTimeConfig, tmp_path: Path
) -> None:
    clock = Arithmetic()
    search = FrameSearch(source, config, clock, TablePlace(tmp_path / "table.json"))
    config = replace(config, max_ms=1.2 * search.times.predict(search.shaping.smallest()))
    clock.timed, clock.surprise = 61, 9.0
    with pytest.raises(BudgetError, match="and may take") as caught:
        prune_to_time(search, source, config, tmp_path / "out")
    kept = load_artifact(tmp_path / "out")
    assert str(kept.directory) in caught.value.message
    assert kept.figures["measured_ms"] > config.max_ms


def test_budgets_that_make_no_sense_say_what_would(source: Artifact, config: FrameTimeConfig, tmp_path: Path) -> None:
    search = FrameSearch(source, config, Arithmetic(), TablePlace(tmp_path / "table.json"))
    whole, least = search.table.timed[0].ms, search.times.predict(search.shaping.smallest())
    with pytest.raises(ConfigError, match=f"takes {whole:.3g} ms, within .* there is nothing to prune"):
        search.plan(whole * 1.01)
    with pytest.raises(
        ConfigError, match=f"cannot be met: the smallest network.*without 4 blocks, takes {least:.3g} ms"
    ):
        search.plan(least * 0.9)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="max_ms is"):
            replace(config, max_ms=bad)
    with pytest.raises(ConfigError, match="there is a frame time and keep"):
        replace(config, prune=replace(config.prune, keep=0.7))


def test_a_noisy_machine_is_told_so(source: Artifact, config: FrameTimeConfig, tmp_path: Path) -> None:
    search = FrameSearch(source, config, Arithmetic(spread=0.2), TablePlace(tmp_path / "table.json"))
    whole = search.table.timed[0].ms
    with pytest.raises(VerificationError, match=r"too noisy: times are good to ±20\.0%"):
        search.plan_measured(0.9 * whole)
    assert search.plan_measured(0.5 * whole).measured_ms


def test_what_was_timed_is_kept_and_not_timed_again(source: Artifact, config: FrameTimeConfig, tmp_path: Path) -> None:
    clock, place = Arithmetic(), TablePlace(tmp_path / "cache" / "table.json")
    clock.fails_at = 8
    with pytest.raises(KeyboardInterrupt):
        FrameSearch(source, config, clock, place)
    assert len(read_table(place.path).timed) == 7
    kept = read_table(place.path)
    clock.fails_at, clock.timed, clock.pace = None, 0, 1.5
    first = FrameSearch(source, config, clock, place)
    assert clock.timed == len(first.table.timed) - 7 + 1, "the unpruned network is timed again, since"
    then, now = (table.timed[:7] for table in (kept, first.table))
    assert [one.ms for one in now] == pytest.approx([1.5 * one.ms for one in then]), "the machine is slower now"
    clock.timed = 0
    assert FrameSearch(source, config, clock, place).table == first.table
    assert clock.timed == 0
    clock.identity["cpu"] = "another"  # the cache of another machine is not used, and is replaced
    assert FrameSearch(source, config, clock, place).table.identity["cpu"] == "another"
    assert clock.timed == len(first.table.timed)


def test_another_precision_is_timed_without_another_scan(
    source: Artifact, config: FrameTimeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = FrameSearch(source, config, Arithmetic(), TablePlace(tmp_path / "one.json"))
    monkeypatch.setattr(frame_budget, "scan_groups", lambda *_: pytest.fail("it was scanned"))
    faster = Arithmetic()
    faster.identity["precision"] = "int8"
    faster.time = lambda net: (Arithmetic().time(net)[0] / 2, 0.01)  # type: ignore[method-assign]

    second = first.timed_by(faster, TablePlace(tmp_path / "two.json"))

    whole = first.table.timed[0].ms
    assert (second.table.timed[0].ms, second.table.identity["precision"]) == (pytest.approx(whole / 2), "int8")
    plans = first.plan(0.6 * whole), second.plan(0.3 * whole)
    assert plans[1].predicted_ms == pytest.approx(plans[0].predicted_ms / 2, rel=1e-3)
    assert first.table.identity["precision"] == "fp32"


def test_a_table_from_elsewhere_is_used_only_where_it_fits(
    source: Artifact, config: FrameTimeConfig, tmp_path: Path
) -> None:
    clock, path = Arithmetic(), tmp_path / "table.json"
    table = FrameSearch(source, config, clock, TablePlace(path)).table
    assert read_table(path) == table
    here = Arithmetic()
    here.identity["cpu"] = "another"
    with pytest.raises(ConfigError, match=r'cpu is "another" and the table\'s "c"'):
        FrameSearch(source, config, here, TablePlace(path, is_given=True))
    search = FrameSearch(source, config, here, TablePlace(path, is_given=True, from_elsewhere=True))
    assert here.timed == 0
    assert search.plan_measured(0.7 * search.table.timed[0].ms).measured_ms is None
    here.identity["res"] = "640x360"
    with pytest.raises(ConfigError, match="res is"):
        FrameSearch(source, config, here, TablePlace(path, is_given=True, from_elsewhere=True))
    first, *others = table.timed
    with pytest.raises(ConfigError, match="other groups of channels"):
        check_groups(replace(table, timed=tuple(others)), first.shape.widths, path)
    lacking = [{"widths": [8], "dropped": []}]
    path.write_text(json.dumps({"format": 2, "identity": {}, "held_out": 0, "missing": 0, "timed": lacking}))
    with pytest.raises(ArtifactError, match="is not a latency table"):
        read_table(path)


def test_blocks_of_a_nafnet_can_go_with_all_the_groups_inside(config: FrameTimeConfig, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "one.png", np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    torch.manual_seed(0)
    net = NAFNet(NAFNetConfig(16, (2,), 1, (1,))).eval()
    source = save_network(tmp_path / "naf", net, spec_of(net), new_step("import", {}, None, {}))
    search = FrameSearch(source, config, Arithmetic(), TablePlace(tmp_path / "table.json"))
    assert search.times.error(search.table.unseen) < 0.05
    plan = search.plan(1.0001 * search.times.predict(search.shaping.smallest()))
    assert plan.as_json()["blocks_removed"] == ["decoders.0.0", "encoders.0.0", "encoders.0.1", "middle_blks.0"]
    assert search.carry_out(plan)(torch.rand(1, 3, 17, 30)).shape == (1, 3, 17, 30)


def test_blocks_that_go_leave_the_others_as_they_are() -> None:
    torch.manual_seed(0)
    net = SRN(SRNConfig.from_base(8, (2, 2, 1))).eval()
    assert net.block_chains() == (
        ("levels.0.blocks.0", "levels.0.blocks.1"),
        ("levels.1.blocks.0", "levels.1.blocks.1"),
        ("levels.2.blocks.0",),
    )
    shallow = net.without_blocks({"levels.0.blocks.1", "levels.2.blocks.0"})
    assert isinstance(shallow, SRN)
    assert [len(blocks) for blocks in shallow.config.block_channels] == [1, 2, 0]
    with torch.no_grad():
        for name in ("levels.0.blocks.1", "levels.2.blocks.0"):
            conv = net.get_submodule(f"{name}.conv2")
            conv.weight.zero_()
            conv.bias.zero_()
        frame = torch.rand(1, 3, 32, 48)
        assert torch.allclose(net(frame), shallow(frame), atol=1e-6)
