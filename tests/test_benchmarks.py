"""The benchmark scenarios, what running one records, and the tables rendered from the record."""

from __future__ import annotations

import copy
import importlib
import json
import re
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from deblur_deploy.compress.plan import prune_network
from deblur_deploy.compress.prune import rebuilt
from deblur_deploy.config import PruneConfig
from deblur_deploy.core.artifact import load_artifact, new_step
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.markdown_table import table
from deblur_deploy.data.pairs import Pair
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.cost import count_macs, measure_cost
from deblur_deploy.network.nafnet import NAFNet, NAFNetConfig
from deblur_deploy.network.srn import SRN, SRNConfig

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

HELP = 'title = "Help"\nabout = "Time."\nkind = "help"\ntarget.{bound}\nparameters.runs = {runs}\n'
PRUNE = """
title = "Prune"
about = "Time."
kind = "prune-graph"
target.at_most = 100
parameters = { base = 8, depths = [1, 1, 1], keep = 0.7, round_to = 4, repeats = 2 }
"""
BUILD = """
title = "Build"
about = "Time."
kind = "rtx-build"
target.at_most = 100
parameters = { resolution = { width = 32, height = 16 }, card = "sm75", repeats = 1 }
"""
FRAME = """
title = "Frame"
about = "Time."
kind = "frame"
target.at_least = 0
parameters.keep = 0.7
parameters.bench = { resolution = { width = 32, height = 16 }, warmup_ms = 0, duration_ms = 30, max_windows = 3 }
"""
COMPRESSION = """
title = "Compression"
about = "Size."
kind = "compression"
target.at_most = 100
[parameters]
model = "srn-demo"
keeps = [0.9, 0.5]
allocation = "sensitivity"
prune_steps = 0
qat_steps = 0
figure = "FIGURE"
bench = { resolution = { width = 48, height = 32 }, warmup_ms = 0, duration_ms = 30, max_windows = 3 }
"""
PAIR = """
title = "Pair"
about = "Cost."
kind = "shipped-pair"
target.at_most = 100
[parameters]
original = "srn-demo"
compressed = "srn-demo"
figure = "FIGURE"
bench = { resolution = { width = 48, height = 32 }, warmup_ms = 0, duration_ms = 30, max_windows = 3 }
"""
MATRIX = """
title = "Matrix"
about = "Time."
kind = "matrix"
target.at_least = 0
parameters.keep = 0.7
parameters.bench = { resolution = { width = 32, height = 16 }, warmup_ms = 0, duration_ms = 30, max_windows = 3 }
"""
COSTS = """
title = "Costs"
about = "Count."
kind = "published-costs"
target.at_most = 1
[parameters]
resolution = { width = 1280, height = 720 }
ours = ["srn-demo"]
published = [{ name = "MIMO-UNet", arch = "mimo-unet", psnr_db = 31.73 }, { name = "X", arch = "srn-cvpr18" },
    { name = "Y", arch = "nafnet", config = { width = 64 } }]
"""
CLAIMS = """
title = "Claims"
about = "Claims."
kind = "published-claims"
target.at_most = 0
[parameters]
original = "srn-demo"
compressed = "srn-demo"
bench = { resolution = { width = 32, height = 16 }, warmup_ms = 0, duration_ms = 30, max_windows = 3, tolerance = 9 }
[[parameters.claims]]
claim = "as small"
reading = "files"
quantity = "size-ratio"
bound.at_most = 1.5
[[parameters.claims]]
claim = "a tenth"
reading = "files"
quantity = "size-ratio"
bound.at_most = 0.1
[[parameters.claims]]
claim = "twice as fast"
reading = "engines"
quantity = "fp16-speedup"
bound.at_least = 2
device = "2080 Ti"
[[parameters.claims]]
claim = "fast on a phone"
reading = "fastest row"
quantity = "best-ms"
bound.at_most = 1e9
device = "phone"
"""

NETWORKS = """
title = "Networks"
about = "Side by side."
kind = "networks"
target.at_least = 0
[parameters]
ours = ["srn-demo", "not-there"]
published = [{ name = "MIMO", arch = "mimo-unet", config = { blocks = 1 } }]
rival = "MIMO"
runtimes = ["openvino", "onnxruntime"]
counted = { width = 64, height = 48 }
[parameters.bench]
resolution = { width = 32, height = 16 }
warmup_ms = 0
duration_ms = 0
min_iterations = 2
max_windows = 3
"""


MAX_MS = """
title = "Pruning to a frame time"
about = "Beside its rivals."
kind = "max-ms"
target.at_least = -99
[parameters]
source = "srn-demo"
keeps = [0.8, 0.5]
budgets = 3
runtime = "openvino"
resolution = { width = 64, height = 48 }
images = 1
side = 48
tuning = { fit = { steps = 7, batch = 1, crop = 128, warmup = 1 } }
"""

WAYS = """
title = "Ways to prune"
about = "Untuned."
kind = "ways-to-prune"
target.at_least = -99
[parameters]
models = ["srn-demo"]
shares = [0.8, 0.6]
"""

DISTILLED = """
title = "Distilled"
about = "Features."
kind = "distillation"
target.at_least = -99
[parameters]
model = "srn-demo"
macs = 0.8
feature_weights = [0.0, 1.0]
seeds = [0, 1]
[parameters.tuning.fit]
steps = 2
batch = 1
crop = 32
lr = 1e-3
"""

SEARCH = """
title = "A search"
about = "How long."
kind = "search-time"
target.at_most = 180
[parameters]
source = "srn-demo"
budgets = 2
runtime = "openvino"
resolution = { width = 64, height = 48 }
"""


@pytest.fixture(scope="module")
def benchmarks():
    """The scripts of ``benchmarks/``, which find each other as they do when run.py is started."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("run")
    patch.undo()
    for module in BENCHMARKS.glob("*.py"):
        sys.modules.pop(module.stem, None)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "scenarios").mkdir()
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / "scenarios" / f"{name}.toml").write_text(text, encoding="utf-8")


def records(root: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (root / f"results/here/{name}.jsonl").read_text("utf-8").splitlines()]


def run(benchmarks: ModuleType, root: Path, *names: str) -> int:
    return benchmarks.main([*names, "--device-dir", "here"], root)


@pytest.fixture
def shipped_tiny(benchmarks, monkeypatch, tmp_path, tiny_config, photo):
    """A tiny generator and one small photograph in the place of those that are shipped."""
    torch.manual_seed(0)
    net = SRN(tiny_config).eval()
    save_network(tmp_path / "models/srn-demo", net, spec_of(net), new_step("import", {}, None, {}))
    for module in ("measurements", "untuned"):
        monkeypatch.setattr(f"{module}.shipped_generator", lambda: load_artifact(tmp_path / "models" / "srn-demo"))
    for module in ("claims", "published", "shipped_pair"):
        monkeypatch.setattr(f"{module}.shipped", lambda folder: tmp_path / folder)
    monkeypatch.setattr("deblur_deploy.compress.finetune.load_photos", lambda *_: [photo])
    monkeypatch.setattr("deblur_deploy.compress.finetune.load_pairs", lambda *_: [Pair("photo", photo, photo)])


def test_the_scenarios_are_those_that_were_promised(benchmarks):
    scenarios = {scenario.name: scenario for scenario in benchmarks.load_scenarios(BENCHMARKS)}

    targets = {name: (scenario.target.at_most, scenario.target.at_least) for name, scenario in scenarios.items()}
    assert (
        targets
        | {
            "prune-graph": (2.0, None),
            "rtx-build": (15.0, None),
            "help": (3.0, None),
            "frame-640x360": (None, 4.0),
            "compression-size": (0.125, None),
            "compression-drop": (0.3, None),
            "compression-pruned-drop": (0.15, None),
            "compression-speedup": (None, 10.0),
            "kernel-build": (5.0, None),
            "kernels": (None, 2.0),
            "matrix-640x360": (None, 4.0),
            "matrix-1280x720": (None, 4.0),
            "published-costs": (0.25, None),
            "srn-base-size": (0.125, None),
            "srn-base-drop": (0.3, None),
            "srn-base-speedup": (None, 10.0),
            "srn-base-curve": (None, 10.0),
            "published-claims": (0.0, None),
            "commands": (1.0, None),
            "frame-floor": (2.5, None),
            "demo": (300, None),
            "demo-quick": (60, None),
            "setup": (180, None),
            "networks-640x360": (None, 2.0),
            "max-ms": (None, 0.1),
            "max-ms-dmphn": (None, 0.1),
            "max-ms-search": (180, None),
            "pruned-untuned": (None, 0.9),
        }
        == targets
    )
    assert scenarios["help"].work.runs >= 21
    assert scenarios["rtx-build"].work.card == "sm75"
    assert str(scenarios["rtx-build"].work.resolution) == "640x360"
    assert str(scenarios["frame-640x360"].work.bench.resolution) == "640x360"


def test_what_is_given_on_the_command_line_is_not_in_the_scenarios(benchmarks):
    for scenario in benchmarks.load_scenarios(BENCHMARKS):
        set_already = [name for name in benchmarks._PLACES if getattr(scenario.work, name, None) is not None]
        assert not set_already, scenario.name


def test_the_pruned_network_of_the_scenario_has_2_6_million_parameters(benchmarks):
    work = benchmarks.load_scenario(BENCHMARKS / "scenarios/prune-graph.toml").work
    with torch.device("meta"):
        net = SRN(SRNConfig.from_base(work.base, work.depths))

    assert sum(parameter.numel() for parameter in net.parameters()) == pytest.approx(2.6e6, rel=0.01)


def test_the_readme_is_what_the_recorded_results_give(benchmarks):
    rendering = importlib.import_module("rendering")

    assert (BENCHMARKS / "README.md").read_text(encoding="utf-8") == rendering.render(BENCHMARKS)


def test_the_front_page_has_the_table_that_the_recorded_demo_ended_with(benchmarks):
    rendering = importlib.import_module("rendering")
    record = rendering.latest_record(BENCHMARKS / "results/amd-epyc-avx2-2-cores/demo.jsonl")
    assert record["details"]["summary"].strip() in (BENCHMARKS.parent / "README.md").read_text(encoding="utf-8")


def test_the_guide_has_the_recorded_table_of_networks(benchmarks):
    rendering = importlib.import_module("rendering")
    record = rendering.latest_record(BENCHMARKS / "results/amd-epyc-avx2-2-cores/networks-640x360.jsonl")
    recorded = record["details"]["table"]

    text = (BENCHMARKS.parent / "docs" / "networks.md").read_text(encoding="utf-8")

    assert "\n".join(table(recorded["headings"], recorded["rows"])) in text
    assert record["device"]["cpu"] in text


def test_a_met_and_a_missed_target_are_recorded_as_such(benchmarks, root, capsys):
    write(root, "easy", HELP.format(bound="at_most = 1000", runs=3))
    write(root, "hard", HELP.format(bound="at_least = 1000", runs=2))

    assert run(benchmarks, root, "easy") == 0
    assert run(benchmarks, root) == 3

    printed = capsys.readouterr().out
    assert "at most 1000×: met" in printed
    assert "at least 1000×: missed" in printed
    easy, hard = records(root, "easy"), records(root, "hard")
    assert [record["met"] for record in easy + hard] == [True, True, False]
    assert hard[0]["target"] == {"at_least": 1000}
    assert hard[0]["command"] == "python benchmarks/run.py hard"
    assert hard[0]["date"].endswith("+00:00")
    assert hard[0]["device"]["cpu"]
    assert "deblur-deploy" in hard[0]["versions"]
    ours, bare = (sorted(hard[0]["samples_ms"][name]) for name in ("deblur-deploy --help", "python -c pass"))
    assert len(ours) == len(bare) == 2
    assert hard[0]["figure"] == pytest.approx(sum(ours) / sum(bare), abs=1e-6)


def test_a_record_of_a_generator_that_was_replaced_is_marked(benchmarks, root):
    write(root, "easy", HELP.format(bound="at_most = 1000", runs=2))
    run(benchmarks, root, "easy")
    (record,) = records(root, "easy")
    day = record["date"][:10]
    path, marked = root / "scenarios/easy.toml", "Of the generators shipped before"
    written = path.read_text(encoding="utf-8")

    for since, is_marked in ((day, False), ("2999-01-01", True)):
        path.write_text(f'since = "{since}"\n{written}', encoding="utf-8")
        assert benchmarks.main(["--render"], root) == 0
        assert (f"{marked} {since}" in (root / "README.md").read_text(encoding="utf-8")) == is_marked


def test_the_last_line_counts_in_the_tables(benchmarks, root):
    write(root, "easy", HELP.format(bound="at_most = 1000", runs=2))
    write(root, "unused", PRUNE)
    run(benchmarks, root, "easy")
    path = root / "results/here/easy.jsonl"
    first = json.loads(path.read_text(encoding="utf-8"))
    again = first | {"figure": 3456.7, "met": False, "stable": False}
    path.write_text(f"{json.dumps(first)}\n{json.dumps(again)}\n", encoding="utf-8")

    assert benchmarks.main(["--render"], root) == 0

    readme = (root / "README.md").read_text(encoding="utf-8")
    (row,) = (line for line in readme.splitlines() if line.startswith("| [Help]"))
    assert "| 3456.70× | at most 1000× | **missed, but unstable** |" in row
    assert first["date"][:10] in row
    assert "Not measured on this machine: `unused`." in readme
    assert first["device"]["cpu"] in readme


def test_without_results_the_page_says_so(benchmarks, root):
    write(root, "easy", HELP.format(bound="at_most = 1000", runs=2))

    assert benchmarks.main(["--render"], root) == 0

    assert "None are recorded yet." in (root / "README.md").read_text(encoding="utf-8")


def test_a_scenario_that_cannot_run_is_not_recorded_and_the_next_one_runs(benchmarks, root, monkeypatch, capsys):
    write(root, "a-help", HELP.format(bound="at_most = 1000", runs=2))
    write(root, "b-prune", PRUNE)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(root))

    assert run(benchmarks, root) == 1

    assert "a-help cannot run here, nothing is recorded: the command deblur-deploy is" in capsys.readouterr().err
    assert not (root / "results/here/a-help.jsonl").exists()
    (record,) = records(root, "b-prune")
    assert record["met"]
    assert len(record["samples_ms"]["prune_network"]) == 2


@pytest.mark.rtx
def test_an_engine_is_built_from_the_shipped_generator(benchmarks, root, shipped_tiny):
    write(root, "build", BUILD)

    assert run(benchmarks, root) == 0

    (record,) = records(root, "build")
    assert record["details"]["engine_bytes"] > 0
    assert record["details"]["precision"]["fp16"] > 0.9
    assert record["figure"] * 1000 == pytest.approx(record["samples_ms"]["build_engine_bytes"][0], abs=1e-2)


def test_a_frame_is_timed_on_every_runtime_and_the_best_is_the_figure(benchmarks, root, shipped_tiny):
    write(root, "frame", FRAME)

    assert run(benchmarks, root) == 0

    (record,) = records(root, "frame")
    baseline, *rows = record["details"]["rows"]
    assert baseline["runtime"] == "torch"
    ratios = {row["runtime"]: row["ratio"] for row in rows if row["ratio"] is not None}
    assert record["figure"] == pytest.approx(max(ratios.values()), abs=1e-6)
    assert record["details"]["best_runtime"] == max(ratios, key=ratios.get)
    assert record["details"]["int8_source"].startswith("made for this run: prune --keep 0.7 and qat")
    assert len(record["samples_ms"]["original, torch"]) == 3
    assert str(root) not in json.dumps(record)


@pytest.mark.parametrize("figure", ["size_ratio", "drop_db", "speedup"])
def test_a_shipped_pair_is_compared_as_onnx_files(benchmarks, root, shipped_tiny, figure):
    """A network beside itself: the same size and the same picture, and a time on every runtime."""
    write(root, "pair", PAIR.replace("FIGURE", figure))

    assert run(benchmarks, root, "pair") == 0

    (record,) = records(root, "pair")
    if figure == "speedup":
        assert record["figure"] > 0
        assert len(record["samples_ms"]) >= 3
    else:
        assert record["figure"] == {"size_ratio": 1, "drop_db": 0}[figure]


def test_compression_is_measured_once_for_all_its_figures(benchmarks, root, shipped_tiny, monkeypatch, photo):
    compression = importlib.import_module("compression")
    monkeypatch.setattr(compression, "shipped", lambda folder: root / folder)
    monkeypatch.setattr(compression, "RUNS", root / "runs")
    figures = ("size_ratio", "drop_db", "pruned_drop_db", "speedup")
    for figure in figures:
        write(root, figure, COMPRESSION.replace("FIGURE", figure))

    assert run(benchmarks, root, *figures) == 0

    assert len(list((root / "runs").glob("*/prune"))) == 2
    by_figure = {figure: records(root, figure)[0] for figure in figures}
    assert len({json.dumps(record["details"]["outcomes"]) for record in by_figure.values()}) == 1
    first, second = by_figure["drop_db"]["details"]["outcomes"]
    assert (first["keep"], second["keep"]) == (0.9, 0.5)
    assert second["params"] < first["params"]
    assert {figure: record["figure"] for figure, record in by_figure.items()} == pytest.approx(
        {figure: first[figure] for figure in figures}, abs=1e-6
    )
    assert by_figure["size_ratio"]["unit"] == "of the size"
    assert by_figure["speedup"]["samples_ms"].keys() >= {"onnx-int8, openvino", "onnx-original, onnxruntime"}
    assert benchmarks.main(["--render"], root) == 0
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert f"| 0.5 | {second['params']:,} |" in readme


def test_compression_tunes_on_photographs_of_ones_own(benchmarks, root, shipped_tiny, monkeypatch, photo):
    compression = importlib.import_module("compression")
    monkeypatch.setattr(compression, "shipped", lambda folder: root / folder)
    monkeypatch.setattr(compression, "RUNS", root / "runs")
    own = root / "own"
    own.mkdir()
    for number in range(2):
        Image.fromarray(np.roll(photo, 8 * number, 0)).save(own / f"{number}.png")
    write(root, "size", COMPRESSION.replace("FIGURE", "size_ratio").replace("[0.9, 0.5]", "[0.5]"))

    assert run(benchmarks, root, "size", "--photos", str(own)) == 0

    (record,) = records(root, "size")
    assert record["parameters"]["photos"] == "2 photographs"
    assert record["command"] == "python benchmarks/run.py size --photos DIR"
    assert str(root) not in json.dumps(record)
    (pruned,) = (root / "runs").glob("*/prune/manifest.json")
    assert json.loads(pruned.read_text(encoding="utf-8"))["history"][-1]["config"]["tuning"]["photos"] == str(own)


class ByMacs:
    """A clock for which a frame takes a millisecond for a million multiply-accumulates; in INT8 half of that."""

    def __init__(self, source, config):
        self.size = Resolution(config.width, config.height)
        self.factor = 0.5 if config.int8 else 1.0
        self.identity = {"precision": "int8" if config.int8 else "fp32"}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def time(self, net):
        return self.factor * count_macs(net, self.size)[""] / 1e6, 0.001


def test_pruning_to_a_frame_time_is_compared_at_equal_time(benchmarks, root, shipped_tiny, monkeypatch):
    """With a clock by arithmetic, and the strongest channels of all groups in the place of Torch-Pruning."""
    contest, scenario = (importlib.import_module(name) for name in ("time_contest", "max_ms"))

    def strongest(net, share, round_to, batches):
        assert {blurred.shape for blurred, _ in batches} == {sharp.shape for _, sharp in batches}
        config = PruneConfig(keep=share, scope="global", round_to=round_to, importance="l2")
        return rebuilt(prune_network(net, config)[0])

    monkeypatch.setattr("deblur_deploy.pipeline.frame_clock.FrameClock", ByMacs)
    monkeypatch.setattr(contest, "prune_globally", strongest)
    monkeypatch.setattr(scenario, "library_version", lambda: "1.0")
    monkeypatch.setattr(scenario, "shipped", lambda folder: root / folder)
    tuned = []
    monkeypatch.setattr("tuned.finetune", lambda *given: tuned.append(given))
    write(root, "max-ms", MAX_MS)

    assert run(benchmarks, root, "max-ms") == 0

    (record,) = records(root, "max-ms")
    rows = record["details"]["outcomes"]
    assert len(rows) == 2 * 2 * 5
    assert 8 <= len(tuned) <= 18, "uniform pruning gives both precisions the same networks"
    assert {config.fit.steps for _, _, config, _ in tuned} == {7}
    budgets = {(row["precision"], row["keep"]): row["ms"] for row in rows if row["way"] == "uniform"}
    assert budgets["fp32", 0.5] == pytest.approx(2 * budgets["int8", 0.5])
    assert budgets["fp32", 0.5] < budgets["fp32", 0.8]
    shares = {"--max-ms": 1.03, "--macs, sensitivity": 1.03, "--max-ms, 85 % of the time": 1.03 * 0.85}
    held = [row for row in rows if row["way"] in shares]
    assert all(row["ms"] <= shares[row["way"]] * budgets[row["precision"], row["keep"]] for row in held)
    ours = {(row["precision"], row["keep"]): row["psnr_db"] for row in rows if row["way"] == "--max-ms"}
    rivals = [row for row in rows if not row["way"].startswith("--max-ms")]
    leads = [ours[row["precision"], row["keep"]] - row["psnr_db"] for row in rivals]
    assert record["figure"] == pytest.approx(min(leads), abs=1e-6)
    assert len({row["psnr_db"] for row in rows if row["way"] == "uniform"}) == 4, "INT8 is evaluated as such"
    for found in record["details"]["searches"].values():
        assert len(found["predictions"]) == 3
        assert found["error"]["median"] <= found["error"]["worst"] < 0.2
        assert min(found["seconds"].values()) > 0
    assert benchmarks.main(["--render"], root) == 0
    assert "| int8 | 50% | Torch-Pruning, global |" in (root / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def one_pair(photo, monkeypatch):
    """Networks are evaluated on a single pair."""
    pair = Pair("photo", np.roll(photo, 2, axis=1), photo)
    monkeypatch.setattr("deblur_deploy.compress.finetune.load_pairs", lambda *_: [pair])


def test_ways_to_prune_are_compared_at_equal_arithmetic_and_untuned(
    benchmarks, root, shipped_tiny, one_pair, monkeypatch
):
    ways = importlib.import_module("ways_to_prune")
    monkeypatch.setattr(ways, "shipped", lambda folder: root / folder)
    write(root, "untuned", WAYS)

    run(benchmarks, root, "untuned")

    (record,) = records(root, "untuned")
    rows = record["details"]["outcomes"]
    assert [(row["macs"], row["way"]) for row in rows] == [(share, way) for way in ways._WAYS for share in (0.8, 0.6)]
    whole = measure_cost(load_network(load_artifact(root / "models" / "srn-demo")))["gmacs"]
    assert all(0.4 * row["macs"] * whole < row["gmacs"] <= row["macs"] * whole for row in rows)
    (ours,) = (row["gain_kept"] for row in rows if (row["way"], row["macs"]) == (ways.OURS, 0.8))
    assert record["figure"] == pytest.approx(ours)
    assert len({row["psnr_db"] for row in rows}) == len(rows)


def test_features_of_the_teacher_are_worth_what_they_add_over_its_picture(
    benchmarks, root, shipped_tiny, one_pair, monkeypatch
):
    distillation = importlib.import_module("distillation")
    monkeypatch.setattr(distillation, "shipped", lambda folder: root / folder)
    write(root, "distilled", DISTILLED)

    run(benchmarks, root, "distilled")

    (record,) = records(root, "distilled")
    without, features = record["details"]["outcomes"]
    assert (without["weight"], features["weight"]) == (0, 1)
    assert record["figure"] == pytest.approx(features["mean_db"] - without["mean_db"], abs=1e-5)
    assert len({*without["psnr_db"], *features["psnr_db"]}) == 4
    assert record["stable"] == (max(without["apart_db"], features["apart_db"]) <= abs(record["figure"]))


def test_how_long_a_search_takes_is_measured_with_its_predictions(benchmarks, root, shipped_tiny, monkeypatch):
    search_time = importlib.import_module("search_time")
    monkeypatch.setattr("deblur_deploy.pipeline.frame_clock.FrameClock", ByMacs)
    monkeypatch.setattr(search_time, "shipped", lambda folder: root / folder)
    write(root, "search", SEARCH)

    assert run(benchmarks, root, "search") == 0

    (record,) = records(root, "search")
    searches = record["details"]["searches"]
    assert record["figure"] == pytest.approx(
        max(sum(found["seconds"].values()) for found in searches.values()), abs=1e-5
    )
    assert [len(found["predictions"]) for found in searches.values()] == [2, 2]
    assert "predictions" in record["note"]


def test_a_published_network_is_pruned_to_a_frame_time(benchmarks, root, monkeypatch, photo, capsys):
    contest, scenario = (importlib.import_module(name) for name in ("time_contest", "max_ms"))
    monkeypatch.setattr("deblur_deploy.pipeline.frame_clock.FrameClock", ByMacs)
    monkeypatch.setattr(contest, "prune_globally", lambda net, share, round_to, batches: copy.deepcopy(net))
    monkeypatch.setattr(scenario, "library_version", lambda: "1.0")
    given = []
    monkeypatch.setattr("tuned.finetune", lambda net, teacher, config, _: given.append(config))
    torch.manual_seed(0)
    net = NAFNet(NAFNetConfig(16, (1,), 1, (1,)))
    torch.save({"params": net.state_dict()}, root / "NAFNet.pth")
    own = root / "own"
    own.mkdir()
    Image.fromarray(photo).save(own / "one.png")
    places = ["--weights", str(root / "NAFNet.pth"), "--pairs", str(own), "--photos", str(own)]
    text = MAX_MS.replace('source = "srn-demo"', 'arch = "nafnet"').replace("[0.8, 0.5]", "[0.6]")
    write(root, "own", text)

    assert run(benchmarks, root, "own") == 1
    assert "give --weights, --pairs and --photos" in capsys.readouterr().err
    assert run(benchmarks, root, "own", *places) == 0

    (record,) = records(root, "own")
    assert {config.evaluation for config in given} == {str(own)}
    assert {config.photos for config in given}.isdisjoint({None, str(own)}), "they learn on some of the photographs"
    assert record["command"].endswith("own --weights DIR --pairs DIR --photos DIR")
    assert str(root) not in json.dumps(record)
    write(root, "shipped", MAX_MS)
    assert run(benchmarks, root, "shipped", *places) == 2
    assert "srn-demo comes with all that is needed" in capsys.readouterr().err


def test_a_rival_that_is_not_installed_is_told_before_anything_is_timed(benchmarks, root, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    monkeypatch.setattr("deblur_deploy.pipeline.frame_clock.FrameClock", lambda *_: pytest.fail("it was timed"))
    write(root, "max-ms", MAX_MS)

    assert run(benchmarks, root, "max-ms") == 1
    assert "Torch-Pruning is not installed" in capsys.readouterr().err


def test_photographs_are_for_scenarios_that_tune(benchmarks, root, capsys):
    write(root, "easy", HELP.format(bound="at_most = 1000", runs=2))

    assert run(benchmarks, root, "easy", "--photos", str(root)) == 2

    assert "easy takes no --photos" in capsys.readouterr().err


def test_the_matrix_has_every_network_on_every_runtime(benchmarks, root, shipped_tiny):
    write(root, "matrix", MATRIX)

    assert run(benchmarks, root) == 0

    (record,) = records(root, "matrix")
    rows = record["details"]["rows"]
    networks = ["original", "pruned", "pruned INT8", "engine FP32", "engine FP16"]
    runtimes = {name: {row["runtime"] for row in rows if row["artifact"] == name} for name in networks}
    assert {row["artifact"] for row in rows} == set(networks)
    assert runtimes["original"] == runtimes["pruned"] >= {"torch", "torch-channels-last", *runtimes["pruned INT8"]}
    assert runtimes["pruned INT8"] >= {"onnxruntime", "openvino", "openvino-bf16"}
    ratios = {f"{row['artifact']}, {row['runtime']}": row["ratio"] for row in rows if row["ratio"]}
    assert record["figure"] == pytest.approx(max(ratios.values()), abs=1e-6)
    assert record["samples_ms"].keys() == ratios.keys()
    assert all(row["floor"]["floor_ms"] > 0 for row in rows if row["latency_ms"])
    assert len(record["details"]["table"]["rows"]) == len(rows)
    assert str(root) not in json.dumps(record)


def test_published_networks_are_counted_as_their_papers_have_them(benchmarks, root, shipped_tiny):
    write(root, "costs", COSTS)

    assert run(benchmarks, root) == 0

    (record,) = records(root, "costs")
    ours, mimo, srn, nafnet = record["details"]["networks"]
    assert mimo["params"] == pytest.approx(6.8e6, rel=0.01)  # Cho et al., Rethinking Coarse-to-Fine, ICCV 2021
    assert srn["params"] == pytest.approx(6.88e6, rel=0.01)
    assert nafnet["params"] == pytest.approx(67.9e6, rel=0.01)  # Chen et al., Simple Baselines, ECCV 2022
    assert record["figure"] == pytest.approx(ours["gmacs"] / mimo["gmacs"], abs=1e-6)


def test_claims_are_met_missed_or_unproven(benchmarks, root, shipped_tiny):
    write(root, "claims", CLAIMS)

    assert run(benchmarks, root) == 3

    (record,) = records(root, "claims")
    outcomes = {row["claim"]: row for row in record["details"]["claims"]}
    assert record["figure"] == 1
    assert {claim: row["verdict"] for claim, row in outcomes.items()} == {
        "as small": "met",
        "a tenth": "missed",
        "twice as fast": "unproven",
        "fast on a phone": "unproven",
    }
    assert outcomes["as small"]["figure"] == 1
    assert outcomes["fast on a phone"]["figure"] > 0
    assert benchmarks.main(["--render"], root) == 0
    claims = (root / "README.md").read_text(encoding="utf-8").split("## Published claims")[1]
    assert "| a tenth | files: at most 0.1 of the size | **missed** | 1 of the size (ONNX files) |" in claims
    assert "| twice as fast | engines: at least 2×, on 2080 Ti | **unproven** | none |" in claims


@pytest.mark.parametrize(
    ("gpu", "ms", "stable", "verdict"),
    [
        ("NVIDIA GeForce RTX 2080 Ti", 20.0, True, "met"),
        ("NVIDIA GeForce RTX 2080 Ti", 30.0, True, "missed"),
        ("NVIDIA GeForce RTX 2080 Ti", 20.0, False, "unproven"),
        ("NVIDIA H100", 20.0, True, "unproven"),
    ],
)
def test_a_claim_counts_on_the_card_that_it_names(benchmarks, gpu, ms, stable, verdict):
    claims = importlib.import_module("claims")
    (claim,) = (
        claim
        for claim in benchmarks.load_scenario(BENCHMARKS / "scenarios/published-claims.toml").work.claims
        if claim.quantity == "fp16-fps"
    )

    outcome = claims.judge(claim, (1000 / ms, "tensorrt", stable), f"Some processor {gpu}")

    assert outcome["verdict"] == verdict


def test_every_inherited_claim_is_listed_in_the_readme(benchmarks):
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8").split("## Published claims")[1]

    for claim in ("1/5 of the size", "FP16 2.3×", "45 fps at 640x360", "48 ms", "under 15 ms for a phone"):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {claim} |"))
        assert any(f"**{verdict}**" in line for verdict in ("met", "missed", "unproven"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (PRUNE.replace("prune-graph", "prune"), "has kind 'prune'"),
        (PRUNE.replace("round_to", "round_two"), "has no field 'round_two'"),
        (PRUNE.replace("at_most = 100", "at_most = 1\ntarget.at_least = 1"), "a target needs one bound"),
        (PRUNE.replace("target.at_most = 100", "target = {}"), "a target needs one bound"),
        (PRUNE.replace('"Prune"', ""), "is not TOML"),
    ],
)
def test_a_malformed_scenario_is_bad_usage(benchmarks, root, capsys, text, complaint):
    write(root, "prune", text)

    assert run(benchmarks, root) == 2

    assert complaint in capsys.readouterr().err
    assert not (root / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["hepl"], "there is no scenario 'hepl'\nHint: known: help"), (["--device-dir", "../here"], "'../here'")],
)
def test_a_wrong_name_is_bad_usage(benchmarks, root, capsys, arguments, complaint):
    write(root, "help", HELP.format(bound="at_most = 1000", runs=2))

    assert benchmarks.main(arguments, root) == 2

    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("line", ["", "{", "[]", '{"figure": 1}'])
def test_a_damaged_results_file_is_named(benchmarks, root, capsys, line):
    write(root, "easy", HELP.format(bound="at_most = 1000", runs=2))
    (root / "results/here").mkdir(parents=True)
    (root / "results/here/easy.jsonl").write_text(line, encoding="utf-8")

    assert benchmarks.main(["--render"], root) == 1

    assert "easy.jsonl is no record" in capsys.readouterr().err
    assert not (root / "README.md").exists()


@pytest.mark.parametrize(
    ("cpu", "cores", "name"),
    [
        ("Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz", 2, "intel-xeon-platinum-8480c-cpu-2-cores"),
        ("AMD Ryzen 9 7950X 16-Core Processor", 1, "amd-ryzen-9-7950x-16-core-processor-1-core"),
        ("", 4, "unknown-4-cores"),
    ],
)
def test_results_lie_under_the_name_of_the_machine(benchmarks, cpu, cores, name):
    assert benchmarks.device_directory({"cpu": cpu, "cores": cores}) == name


def test_published_networks_are_measured_beside_ours(benchmarks, root, shipped_tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("networks.shipped", lambda folder: tmp_path / folder)
    write(root, "side", NETWORKS)

    assert run(benchmarks, root) == 0

    (record,) = records(root, "side")
    ours, mimo = record["details"]["networks"]
    assert (ours["network"], mimo["network"]) == ("srn-demo", "MIMO")
    assert mimo["params"] == 1_381_891
    assert mimo["gmacs"] > ours["gmacs"] > 0
    for row in (ours, mimo):
        assert 0 < row["fastest_ms"] <= row["eager_ms"]
        assert f"{row['network']}, {row['fastest_runtime']}" in record["samples_ms"]
    assert record["figure"] == pytest.approx(mimo["fastest_ms"] / ours["fastest_ms"], rel=1e-3)
    headings, rows = record["details"]["table"].values()
    assert {len(row) for row in rows} == {len(headings)}


def test_a_users_commands_are_timed_as_a_user_starts_them(benchmarks, root):
    limits = 'limits_s = { "inspect models/srn-demo" = 1e-3, "infer models/srn-demo {picture}" = 1e9 }'
    heading = 'title = "Wait"\nabout = "Time."\nkind = "commands"\ntarget.at_most = 1\n'
    write(root, "wait", f"{heading}parameters = {{ runs = 1, {limits} }}\n")

    assert run(benchmarks, root) == 3

    (record,) = records(root, "wait")
    times = record["samples_ms"]
    assert record["figure"] == pytest.approx(times["inspect models/srn-demo"][0], rel=1e-3)
    assert times["infer models/srn-demo {picture}"][0] > 100
    assert [row[0] for row in record["details"]["table"]["rows"]] == list(times)


def test_every_operator_of_a_frame_is_held_against_its_floor(benchmarks, root, shipped_tiny, monkeypatch):
    frame_floor = importlib.import_module("frame_floor")
    monkeypatch.setattr(frame_floor, "shipped", lambda folder: root / folder)
    seen = []

    def kept(*arguments):
        seen.extend(timed(*arguments))
        return seen

    timed = frame_floor._timed_operators
    monkeypatch.setattr(frame_floor, "_timed_operators", kept)
    found = frame_floor.FrameFloor("srn-demo", Resolution(64, 64), 3).measure()

    exact = count_macs(SRN(SRNConfig.from_base(8, (1, 1, 1))), Resolution(64, 64))[""]
    assert sum(macs for _, _, macs, _ in seen) == pytest.approx(exact, rel=0.02)
    kinds = [row[0] for row in found.details["table"]["rows"]]
    assert any(kind.startswith("DeformableConvolution") for kind in kinds)
    assert found.figure > 0


DEMO = """
import sys, time
print("source    here")
print("running   prune …", flush=True)
time.sleep(0.2)
print("wrote     there")
print("measuring latency …", flush=True)
time.sleep(0.1)
sys.exit(int(sys.argv[1]))
"""


def test_the_demos_time_is_split_at_the_lines_that_begin_a_stage(benchmarks):
    users_time = importlib.import_module("users_time")

    total, stages = users_time._timed_stages([sys.executable, "-c", DEMO, "0"])

    assert list(stages) == ["start", "prune", "measuring latency"]
    assert stages["prune"] > 0.19
    assert sum(stages.values()) == pytest.approx(total)
    with pytest.raises(DeblurDeployError, match="the demo failed: source    here"):
        users_time._timed_stages([sys.executable, "-c", DEMO, "1"])


def test_the_record_of_the_demo_has_the_table_that_it_wrote(benchmarks, monkeypatch):
    users_time = importlib.import_module("users_time")
    script = "import pathlib as p, sys; (p.Path(sys.argv[3]) / 'summary.md').write_text(' '.join(sys.argv[1:]))"
    monkeypatch.setattr(users_time, "_PROGRAM", (sys.executable, "-c", script))

    summary = users_time.Demo(quick=True).measure().details["summary"]

    assert re.fullmatch("demo --runs .* --quick", summary)
