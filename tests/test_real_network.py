"""The scenario that compresses a published network: it goes on where it was stopped, and records what is kept."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.network.nafnet import NAFNet, NAFNetConfig

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

SCENARIO = """
title = "Real"
about = "Gain."
kind = "real-network"
target.at_least = -1e9
[parameters]
arch = "nafnet"
quality_runtime = "openvino"
runtimes = ["openvino"]
[parameters.teaching]
keep = 0.5
round_to = 2
scan_images = 1
scan_size = 64
save_minutes = 0
length_px = [2.0, 6.0]
[parameters.teaching.fit]
steps = 4
batch = 1
crop = 32
lr = 1e-4
distill_weight = 1.0
[parameters.qat_fit]
steps = 1
batch = 1
crop = 32
[parameters.bench]
resolution = { width = 32, height = 32 }
warmup_ms = 0
duration_ms = 10
min_iterations = 1
windows = 1
max_windows = 1
"""


@pytest.fixture
def root(tmp_path, photo):
    """Benchmarks with one scenario, and beside them weights, pairs and photographs."""
    torch.manual_seed(0)
    net = NAFNet(NAFNetConfig(8, (1,), 1, (1,)))
    for name, parameter in net.named_parameters():
        if name.endswith(("beta", "gamma")):
            nn.init.normal_(parameter, std=0.1)
    torch.save({"params": net.state_dict()}, tmp_path / "NAFNet.pth")
    for kind, shift in (("blur", 1), ("sharp", 0)):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
        Image.fromarray(np.roll(photo, shift, 1)[:48, :64]).save(tmp_path / "pairs" / kind / "one.png")
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo).save(tmp_path / "photos" / "drawn.png")
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "real.toml").write_text(SCENARIO, encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(root, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module, work = importlib.import_module("run"), importlib.import_module("real_network")
    monkeypatch.setattr(work, "RUNS", root / "runs")
    places = ["--weights", str(root / "NAFNet.pth"), "--pairs", str(root / "pairs"), "--photos", str(root / "photos")]
    yield lambda: module.main(["real", "--device-dir", "here", *places], root)
    for name in ("run", "real_network", "teaching"):
        sys.modules.pop(name, None)


def test_a_stopped_run_goes_on_and_records_what_is_kept(run, root, monkeypatch):
    teaching, folder = importlib.import_module("teaching"), root / "runs" / "nafnet-0.5"
    run_step, done = teaching.Trainer._run_step, []

    def step(trainer, *rest):
        if stopping and len(trainer.losses) == 2:
            raise ArtifactError("stopped at the third step", hint="go on")
        run_step(trainer, *rest)
        done.append(len(trainer.losses))

    stopping = True
    monkeypatch.setattr(teaching.Trainer, "_run_step", step)
    assert run() == 1
    plan = (folder / "pruned.plan.json").read_bytes()

    stopping = False
    monkeypatch.setattr("deblur_deploy.compress.prune.scan_groups", lambda *_: pytest.fail("it was scanned again"))
    assert run() == 0

    assert done == [1, 2, 3, 4, 1]  # the last one is that of the fine-tuning in INT8
    assert (folder / "pruned.plan.json").read_bytes() == plan
    (line,) = (root / "results" / "here" / "real.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    rows = {row["network"]: row for row in record["details"]["networks"]}
    assert rows.keys() == {"original", "original, FP16 graph", "pruned", "pruned, INT8"}
    assert rows["pruned"]["params"] < 0.6 * rows["original"]["params"]
    blurred = rows["original"]["psnr_blurred_db"]
    kept = (rows["pruned, INT8"]["psnr_db"] - blurred) / (rows["original"]["psnr_db"] - blurred)
    assert record["figure"] == pytest.approx(kept, abs=1e-5)
    assert all(row["ms"] > 0 for row in rows.values())
    assert record["command"].endswith("real --weights DIR --pairs DIR --photos DIR")
    assert str(root) not in line


def test_a_scenario_without_its_places_says_which(root, run, monkeypatch, capsys):
    assert importlib.import_module("run").main(["real", "--device-dir", "here"], root) == 1
    assert "give --weights, --pairs and --photos" in capsys.readouterr().err
