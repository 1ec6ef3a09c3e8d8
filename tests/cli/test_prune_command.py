"""``prune`` on the command line: budgets, the plan that writes nothing, the scan's files, and what is refused."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace

import pytest

from deblur_deploy.cli.pruned_groups import short_name
from deblur_deploy.compress.plan import prune_network
from deblur_deploy.config import FrameTimeConfig, PruneConfig
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.images import Resolution
from deblur_deploy.engine.build import build_engine
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.network.cost import count_macs
from deblur_deploy.pipeline import frame_clock
from deblur_deploy.pipeline.frame_clock import FrameClock
from deblur_deploy.runtime.nvidia import count_nvidia_gpus
from deblur_deploy.runtime.runner import Runner


@pytest.mark.parametrize("options", [("--macs", 0.6), ("--params", 0.6, "--scope", "global", "--importance", "l1")])
def test_a_dry_run_prints_the_plan_and_writes_nothing(run, made, tmp_path, options):
    outcome = run("prune", made["import"], *options, "--dry-run", "--runs", tmp_path, "--json").done()

    answer, kind = outcome.json, {"--macs": "gmacs", "--params": "params"}[options[0]]
    assert answer.keys() == {"source", "dry_run", "groups", "frozen", "params", "gmacs"}
    assert answer["params"]["before"] == load_artifact(made["import"]).figures["params"]
    assert answer[kind]["after"] <= 0.6 * answer[kind]["before"]
    assert answer["frozen"] == []
    for group in answer["groups"]:
        assert f"{short_name(group['layers'])} " in outcome.err
    assert f"{answer['params']['before']:,} → {answer['params']['after']:,}" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_what_a_dry_run_says_is_what_pruning_does(run, made, tmp_path):
    options = (made["import"], "--macs", 0.6, "--steps", 0, "--runs", tmp_path, "--json")

    planned = run("prune", *options, "--dry-run").done().json
    figures = run("prune", *options).done().json["figures"]

    assert figures["groups"] == planned["groups"]
    assert (figures["params"], figures["gmacs"]) == (planned["params"]["after"], planned["gmacs"]["after"])


def test_rounds_are_reported(run, made, tmp_path):
    options = ("--rounds", 2, "--steps", 2, "--feature-weight", 0.1)
    outcome = run("prune", made["import"], *options, "--runs", tmp_path, "--json").done()

    assert [done["steps"] for done in outcome.json["figures"]["rounds"]] == [1, 1]
    assert "dB before tuning" in outcome.err
    config = load_artifact(tmp_path / "prune-001").history[-1].config
    assert (config["rounds"], config["tuning"]["fit"]["feature_weight"]) == (2, 0.1)


def test_a_scan_writes_a_table_plain_data_and_a_chart(run, made, tmp_path):
    options = ("--scan", "--scan-images", 1, "--scan-size", 48, "--runs", tmp_path, "--json")

    outcome = run("prune", made["import"], *options).done()

    answer = outcome.json
    assert answer["files"] == [str(tmp_path / "scan-001" / f"scan.{end}") for end in ("csv", "json", "svg")]
    assert (answer["images"], answer["size"]) == (1, 48)
    with (tmp_path / "scan-001" / "scan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["drop_db"]) for row in rows] == [row["drop_db"] for row in answer["rows"]]
    assert json.loads((tmp_path / "scan-001" / "scan.json").read_text())["rows"] == answer["rows"]
    assert "recurrent.candidate, recurrent.gate" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["scan-001"]


def test_a_scan_as_a_dry_run_writes_nothing(run, made, tmp_path):
    options = ("--scan", "--dry-run", "--scan-images", 1, "--scan-size", 32, "--round-to", 32, "--runs", tmp_path)

    assert run("prune", made["import"], *options, "--json").done().json["files"] == []
    assert list(tmp_path.iterdir()) == []


def test_channels_go_where_the_scan_says(run, made, tmp_path):
    options = ("--allocation", "sensitivity", "--macs", 0.7, "--scan-images", 1, "--scan-size", 48, "--steps", 0)

    figures = run("prune", made["import"], *options, "--runs", tmp_path, "--json").done().json["figures"]

    assert figures["gmacs"] <= 0.7 * load_artifact(made["import"]).figures["gmacs"]
    assert figures["scan"]["rows"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keep", 0.7, "--macs", 0.5), "there are 2 budgets: keep, macs"),
        (("--macs", 1.5), "macs is 1.5"),
        (("--params", 0), "params is 0"),
        (("--importance", "random"), "importance is 'random'"),
        (("--scope", "all"), "scope is 'all'"),
        (("--allocation", "fair"), "allocation is 'fair'"),
        (("--rounds", 0), "rounds is 0"),
        (("--feature-weight", -1), "feature_weight is -1"),
        (("--scan", "--scan-images", 0), "scan_images is 0"),
        (("--macs", 0.01), "macs 0.01 cannot be met: with one multiple of 8 channels in every group"),
        (("--macs", 0.01, "--dry-run"), "cannot be met"),
    ],
)
def test_what_makes_no_sense_is_bad_usage(refuse, made, options, message):
    assert message in refuse(2, "prune", made["import"], *options)


def test_a_scan_that_cannot_be_written_is_refused_first(refuse, made, tmp_path):
    (tmp_path / "file").write_text("")

    assert "cannot be written" in refuse(1, "prune", made["import"], "--scan", "--out", tmp_path / "file" / "scan")


class Arithmetic:
    """A clock for which a frame takes a millisecond for a million multiply-accumulates, and one in any case."""

    def __init__(self, source, config):
        self.identity = {"network": source.sha256, "runtime": config.runtime, "precision": "fp32", "res": "64x48"}
        self.size = Resolution(config.width, config.height)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def time(self, net):
        return 1 + count_macs(net, self.size)[""] / 1e6, 0.01


@pytest.fixture
def timed(run, made, tmp_path, monkeypatch):
    """``prune`` to a frame time, by arithmetic instead of a real clock."""
    monkeypatch.setattr("deblur_deploy.pipeline.frame_clock.FrameClock", Arithmetic)
    shared = ("--res", "64x48", "--scan-images", 1, "--scan-size", 48, "--latency-table", tmp_path / "table.json")
    return lambda *options: run("prune", made["import"], *shared, "--runs", tmp_path / "runs", "--json", *options)


def test_pruning_to_a_frame_time(timed, tmp_path):
    front = timed("--curve", "1,80,1e6").done().json
    least, _, most = front["points"]
    assert "cannot be met: the smallest network" in least["reason"]
    assert "there is nothing to prune" in most["reason"]
    budget = 0.8 * front["whole_ms"]
    assert json.loads((tmp_path / "runs" / "scan-001" / "frame-times.json").read_text()) == front

    planned = timed("--min-fps", 1000 / budget, "--dry-run").done()
    assert planned.json["predicted_ms"] <= budget
    assert planned.json["measured_ms"] is None
    assert "dry run   nothing was written" in planned.err
    saved = max(planned.json["groups"], key=lambda group: group["saved_ms"])
    assert 0 < saved["saved_ms"] < front["whole_ms"]
    assert f" {-saved['saved_ms']:.2f}" in planned.err

    outcome = timed("--max-ms", budget, "--steps", 1).done()
    answer = outcome.json
    keys = {"artifact", "budget_ms", "predicted_ms", "measured_ms", "psnr_db", "gain_kept"}
    assert answer.keys() == keys | {"groups", "blocks_removed", "optimality_gap"}
    assert answer["measured_ms"] <= 1.03 * budget
    assert answer["groups"] == planned.json["groups"]
    pruned = load_artifact(tmp_path / "runs" / "prune-001")
    assert pruned.history[-1].config["max_ms"] == budget
    assert f"{answer['measured_ms']:.2f} ms measured" in outcome.err


def test_a_noisy_machine_decides_nothing_not_even_in_a_plan(timed, monkeypatch):
    monkeypatch.setattr(Arithmetic, "time", lambda self, net: (1 + count_macs(net, self.size)[""] / 1e6, 0.3))
    budget = 0.9 * timed("--curve", "1e6").done().json["whole_ms"]

    assert "too noisy" in timed("--max-ms", budget, "--dry-run").refusal(1)
    (point,) = timed("--curve", budget).done().json["points"]
    assert "good to ±30.0%" in point["reason"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--max-ms", 5, "--min-fps", 45), "there are --max-ms and --min-fps"),
        (("--min-fps", 0), "min_fps is 0"),
        (("--max-ms", -1), "max_ms is -1"),
        (("--max-ms", 5, "--keep", 0.5), "there is a frame time and keep"),
        (("--curve", "ten"), "--curve is 'ten'"),
        (("--max-ms", 5, "--res", "0x48"), "0x48"),
    ],
)
def test_a_frame_time_that_cannot_be_used_is_refused(timed, options, complaint):
    assert complaint in timed(*options).refusal(2)


def test_a_runtime_that_cannot_run_here_is_named(run, made, tmp_path):
    options = ("prune", made["import"], "--max-ms", 5, "--res", "64x48", "--runs", tmp_path)
    table = ("--latency-table", tmp_path / "table.json")
    assert "there is no runtime 'gpu-of-dreams'" in run(*options, *table, "--runtime", "gpu-of-dreams").refusal(2)
    assert "torch computes quantized networks in floats" in run(*options, "--int8", "--runtime", "torch").refusal(2)
    if count_nvidia_gpus() is None:
        refused = run(*options, *table, "--runtime", "tensorrt-rtx").refusal(2)
        assert "networks cannot be timed in tensorrt-rtx here: " in refused
    assert "needs --latency-table" in run(*options, "--other-device").refusal(2)


@pytest.mark.parametrize("int8", [False, True], ids=["float", "INT8"])
def test_a_real_clock_times_networks_as_they_will_run(made, int8):
    source = load_artifact(made["import"])
    config = FrameTimeConfig(5.0, runtime="onnxruntime", int8=int8, width=64, height=48)
    with FrameClock(source, config) as clock:
        ms, spread = clock.time(load_network(source))
    assert 0.01 < ms < 60_000
    assert 0 <= spread < float("inf")  # a busy machine says so itself
    assert (clock.identity["precision"], clock.identity["res"]) == ("int8" if int8 else "fp32", "64x48")
    assert clock.identity["network"] == source.sha256


@pytest.mark.rtx
@pytest.mark.parametrize(("int8", "card", "precision"), [(False, "2080ti", "fp16"), (True, "4090", "int8")])
def test_engines_are_built_and_timed_where_tensorrt_is_named(made, monkeypatch, int8, card, precision):
    """Real engines; the card that runs them is pretended: a frame takes as long as the engine is large."""
    engines = []

    def built_for_card(graph, config, out, strict):
        assert (config.target, config.flavour) == ("current", "rtx")
        engine = build_engine(graph, replace(config, target=card), out, strict=strict)
        engines.append((engine.path.stat().st_size, engine.figures["precision"]))
        return engine

    class ByBytes(Runner):
        def __init__(self, artifact, runtime):
            super().__init__(runtime, artifact.image)
            self.seconds = artifact.path.stat().st_size * 1e-8

        def _run(self, batch):
            time.sleep(self.seconds)
            return batch

        def close(self):
            pass

    monkeypatch.setattr(frame_clock, "reason_missing", lambda runtime: None)
    monkeypatch.setattr(frame_clock, "build_engine", built_for_card)
    monkeypatch.setattr(frame_clock, "open_runner", ByBytes)
    source = load_artifact(made["import"])
    net = load_network(source)
    narrow, _ = prune_network(net, PruneConfig(keep=0.5, importance="l2"))
    with FrameClock(source, FrameTimeConfig(5.0, "tensorrt-rtx", int8, width=64, height=48)) as clock:
        assert clock.identity["precision"] == precision
        assert clock.time(narrow)[0] < clock.time(net)[0]
    sizes, shares = zip(*engines, strict=True)
    assert sizes[1] < sizes[0]
    assert all(found[precision] > 0.5 for found in shares)
