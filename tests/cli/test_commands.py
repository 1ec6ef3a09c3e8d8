"""Every command on a tiny network: what it prints, what its JSON holds, and what it takes when it is told nothing."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deblur_deploy
from deblur_deploy.cli import COMMANDS
from deblur_deploy.cli.export_trt_command import gives_engine
from deblur_deploy.cli.inspect_command import waterfall
from deblur_deploy.core.artifact import Step, load_artifact
from deblur_deploy.core.images import Resolution, load_rgb, save_rgb
from deblur_deploy.core.sources import find_artifacts

HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt_rtx", "modelopt")

ALL_HELP = f"""
import contextlib, io, json, sys
from deblur_deploy.cli import COMMANDS, main
pages = {{}}
for name in COMMANDS:
    sys.argv = ["deblur-deploy", name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as page:
        try:
            main()
        except SystemExit as ending:
            pages[name] = [ending.code, page.getvalue()]
print(json.dumps([pages, sorted(set({HEAVY!r}) & set(sys.modules))]))
"""

ROAD = ["import", "prune", "qat", "export-onnx"]


def test_the_overview_lists_every_command(run):
    for arguments in ((), ("--help",), ("-h",)):
        overview = run(*arguments).done().out
        assert [name for name in COMMANDS if f"\n  {name} " in overview] == list(COMMANDS)
    for name in COMMANDS:
        module = importlib.import_module(f"deblur_deploy.cli.{name.replace('-', '_')}_command")
        assert callable(module.command)


def test_version(run):
    assert run("--version").done().out == f"{deblur_deploy.__version__}\n"


def test_help_of_every_command_loads_no_heavy_library():
    started = subprocess.run([sys.executable, "-c", ALL_HELP], capture_output=True, text=True, timeout=60, check=True)

    pages, loaded = json.loads(started.stdout)
    assert loaded == []
    assert list(pages) == list(COMMANDS)
    for name, (code, page) in pages.items():
        assert code == 0
        assert f"deblur-deploy {name} " in page


@pytest.mark.parametrize("command", ROAD)
def test_a_stage_prints_the_artifact_it_wrote(chain, made, command):
    answer = chain[command].json

    artifact = load_artifact(made[command])
    assert answer.keys() == {"artifact", "kind", "stage", "sha256", "figures"}
    assert (answer["stage"], answer["sha256"]) == (command, artifact.sha256)
    assert answer["kind"] == ("onnx" if command == "export-onnx" else "checkpoint")
    assert [step.stage for step in artifact.history] == ROAD[: ROAD.index(command) + 1]
    assert answer["figures"]["bytes"] == artifact.path.stat().st_size
    assert f"wrote     {artifact.path}" in chain[command].err


def test_sources_are_the_newest_that_fit(chain, made):
    for command, source in (("prune", "import"), ("qat", "prune"), ("export-onnx", "qat")):
        assert f"source    {made[source]} (" in chain[command].err
        assert "newest fitting artifact under" in chain[command].err
        assert load_artifact(made[command]).history[-1].parent == load_artifact(made[source]).sha256


def test_pruning_reports_every_group(chain, made):
    groups = chain["prune"].json["figures"]["groups"]

    assert {(group["before"], group["after"]) for group in groups} == {(8, 8), (16, 8), (32, 16)}
    for group in groups:
        first, *others = group["layers"]
        (row,) = [line for line in chain["prune"].err.splitlines() if line.startswith((f"{first} ", f"{first}, "))]
        assert row.split()[-3:-1] == [str(group["before"]), str(group["after"])]
        assert not others or others[0].rpartition(".")[2] in row or " more" in row
    assert chain["prune"].json["figures"]["params"] < chain["import"].json["figures"]["params"]
    assert load_artifact(made["prune"]).network.config["level_channels"] == [8, 8, 16]


def test_training_goes_on_from_an_artifact(run, made, tmp_path):
    (tmp_path / "recipe.toml").write_text("[fit]\nsteps = 1\nbatch = 1\ncrop = 64\n")

    answer = run("train", tmp_path / "recipe.toml", "--init", made["prune"], "--runs", tmp_path, "--json").done().json

    assert (answer["kind"], answer["stage"]) == ("checkpoint", "train")
    assert answer["figures"]["params"] == load_artifact(made["prune"]).figures["params"]
    assert [step.stage for step in load_artifact(Path(answer["artifact"])).history] == ["import", "prune", "train"]


@pytest.mark.rtx
def test_an_engine_is_built_from_the_newest_artifact(engine, made):
    answer = engine.json

    artifact = load_artifact(Path(answer["artifact"]))
    assert answer.keys() == {"artifact", "kind", "stage", "sha256", "figures"}
    assert (answer["kind"], answer["stage"]) == ("engine", "export-trt")
    assert (artifact.image.width, artifact.image.height) == (64, 48)
    assert [step.stage for step in artifact.history[-2:]] == ["to-fp16", "export-trt"]
    assert artifact.history[-2].parent == load_artifact(made["export-onnx"]).sha256
    assert answer["figures"]["precision"]["fp16"] >= 0.9
    assert answer["figures"]["capability"] == "7.5"
    assert f"source    {made['export-onnx']} (" in engine.err
    assert "newest fitting artifact under" in engine.err
    assert "input     1x3x48x64 (NCHW)" in engine.err
    assert "the Q/DQ pairs are dropped" in engine.err


def test_an_engine_is_made_from_what_has_its_size_and_type(made):
    size, other = Resolution(64, 48), Resolution(32, 32)
    float_checkpoint, quantized = load_artifact(made["prune"]), load_artifact(made["qat"])
    graph = load_artifact(made["export-onnx"])

    assert gives_engine(graph, size, "fp16")
    assert gives_engine(graph, None, "fp16")
    assert not gives_engine(graph, other, "fp16")
    assert not gives_engine(graph, size, "fp32")
    assert gives_engine(quantized, other, "fp16")
    assert not gives_engine(quantized, other, "fp32")
    assert gives_engine(float_checkpoint, other, "fp32")
    assert gives_engine(quantized, other, "int8")
    assert not gives_engine(quantized, other, "fp8")
    assert not gives_engine(float_checkpoint, other, "int8")
    assert gives_engine(float_checkpoint, None, "fp16", free_sizes=True)
    assert not gives_engine(graph, None, "fp16", free_sizes=True)
    free = dataclasses.replace(graph, image=dataclasses.replace(graph.image, height=None, width=None))
    assert gives_engine(free, None, "fp16", free_sizes=True)


@pytest.mark.rtx
def test_options_reach_the_engine(run, made, tmp_path):
    options = ("--bf16", "--target", "portable", "--runs", tmp_path, "--out", tmp_path / "engine", "--res", "64x48")
    more = ("--workspace", 512, "--optimization-level", 2, "--json")
    run("export-trt", made["prune"], *options, *more).done()

    engine = load_artifact(tmp_path / "engine")
    assert [step.stage for step in engine.history[-3:]] == ["export-onnx", "to-bf16", "export-trt"]
    assert engine.figures["precision"]["bf16"] >= 0.9
    assert engine.history[-1].config["workspace_bytes"] == 512 * 2**20
    assert engine.history[-1].config["optimization_level"] == 2


@pytest.mark.rtx
def test_an_int8_engine_with_too_many_float_layers_is_refused(run, made, tmp_path):
    """In so small a network the first and the last layer, which stay in float, are a fifth of the arithmetic."""
    options = ("--int8", "--target", "sm86", "--runs", tmp_path)
    message = run("export-trt", made["export-onnx"], *options).refusal(1)

    assert "of the multiply-accumulates of the convolutions run in it; not so /levels.0/enter" in message
    assert list(tmp_path.iterdir()) == []


def test_verify(run, made):
    outcome = run("verify", made["qat"], made["export-onnx"], "--json").done()

    assert outcome.json.keys() == {"max_abs", "mean_abs", "psnr_db", "noise_psnr_db", "passed", "drift"}
    assert outcome.json["passed"] is True
    assert outcome.json["drift"] is None
    assert 0 < outcome.json["mean_abs"] <= outcome.json["max_abs"] < 0.1
    assert outcome.err.startswith("2 images: ")


def test_verify_follows_the_difference_of_two_checkpoints_through_the_recurrence(run, made):
    outcome = run("verify", made["prune"], made["qat"], "--psnr-db", 20, "--json").done()

    assert outcome.json["drift"].keys() == {"scales", "applications", "growth"}
    assert (len(outcome.json["drift"]["scales"]), len(outcome.json["drift"]["applications"])) == (3, 30)
    assert "after 30 applications of one scale: " in outcome.err


def test_verify_fails_where_more_was_asked(run, made):
    outcome = run("verify", made["import"], made["export-onnx"], "--psnr-db", 200, "--json")

    assert outcome.json["passed"] is False
    assert "differ by more than" in outcome.refusal(1)


def test_eval(run, made):
    outcome = run("eval", made["prune"], "--json").done()

    keys = {"psnr_db", "psnr_blurred_db"}
    keys |= {f"ssim_{name}{state}" for name in ("matlab", "skimage") for state in ("", "_blurred")}
    answer = outcome.json
    assert answer.keys() == {"artifact", "images", "per_image", "psnr_original_db", "gain_kept"} | keys
    assert (answer["gain_kept"], "gain kept too small to tell" in outcome.err) == (None, True)  # its original does harm
    assert (answer["artifact"], answer["images"]) == (str(made["prune"]), 2)
    assert [score["name"] for score in answer["per_image"]] == ["1.png", "3.png"]
    assert all(score.keys() == {"name"} | keys for score in answer["per_image"])
    for key in keys:
        assert answer[key] == pytest.approx(sum(score[key] for score in answer["per_image"]) / 2)
    assert answer["psnr_db"] == pytest.approx(load_artifact(made["prune"]).figures["psnr_db"], abs=0.01)
    assert f"{answer['psnr_db']:.2f} dB restored" in outcome.err


def test_eval_of_photographs_without_sharp_ones(run, made, photo, tmp_path):
    (tmp_path / "holiday").mkdir()
    save_rgb(tmp_path / "holiday" / "sea.png", photo)

    outcome = run("eval", made["prune"], "--blurred", tmp_path / "holiday", "--sheets", tmp_path / "sheets", "--json")

    (score,) = outcome.done().json["per_image"]
    assert score["name"] == "sea.png"
    assert 0 <= score["overshoot_share"] < 1
    sheet = load_rgb(tmp_path / "sheets" / "sea.png.png")
    assert np.array_equal(sheet[:160, :208], photo)
    assert sheet.shape[1] == 2 * 208
    assert "overshoot" in outcome.err


def test_inspect(run, made):
    answer = run("inspect", made["export-onnx"], "--json").done().json

    keys = {"kind", "stage", "bytes", "params", "gmacs", "multiple_of", "precision", "history"}
    assert answer.keys() == keys | {"bytes_by_category", "findings"}
    assert sum(answer["bytes_by_category"].values()) == answer["bytes"]
    assert {finding["rule"] for finding in answer["findings"]} == {"residual", "island"}
    assert (answer["kind"], answer["stage"]) == ("onnx", "export-onnx")
    assert answer["bytes"] == load_artifact(made["export-onnx"]).path.stat().st_size
    assert [step["stage"] for step in answer["history"]] == ROAD
    assert 0.5 < answer["precision"]["int8"] < 1
    assert sum(answer["precision"].values()) == pytest.approx(1, abs=0.01)
    assert answer["multiple_of"] == 1
    assert run("inspect", made["prune"], "--json").done().json["precision"] == {"fp32": 1.0}
    assert run("inspect", made["qat"], "--json").done().json["precision"] is None  # it only simulates INT8
    text = run("inspect", made["qat"]).done().out
    assert "a quantized checkpoint from qat" in text
    assert "quantized INT8, reduced range, ranges by max; in float: levels.0.enter, deform." in text
    graph = run("inspect", made["export-onnx"]).done().out
    assert "fusion    /deform/deform/DeformConv2d: this DeformConv2d runs in float between integer layers" in graph
    assert "bytes     quantized weights" in graph
    assert "level_channels = [8, 8, 16]" in text


def test_the_waterfall_is_read_from_the_history():
    def step(stage, **figures):
        return Step(stage, {}, {}, None, "2026-01-02T03:04:05.000000+00:00", {"bytes": 2_500_000, **figures})

    history = (
        step("import", params=1000, gmacs=2.0),
        step("train", psnr_db=30.0, ssim_matlab=0.9),
        step("prune", params=500, gmacs=1.0, psnr_db=29.9),
        step("export-onnx"),
        step("to-fp16", psnr_db=29.901, psnr_blurred_db=25.0),
        step("to-fp16", psnr_db=28.0, psnr_blurred_db=24.0),  # evaluated on other pairs
        step("qat", psnr_db=None, psnr_blurred_db=None),  # everything came out equal
    )
    when, size = "2026-01-02 03:04:05", "2.50 MB"
    assert waterfall(history) == [
        ["import", when, size, "1,000", "2.0", "–", "–", "–", "–"],
        ["train", when, size, "1,000", "2.0", "30.00", "–", "–", "0.9000"],
        ["prune", when, size, "500", "1.0", "29.90", "0.10", "–", "–"],
        ["export-onnx", when, size, "500", "1.0", "–", "–", "–", "–"],
        ["to-fp16", when, size, "500", "1.0", "29.90", "0.00", "–", "–"],
        ["to-fp16", when, size, "500", "1.0", "28.00", "–", "–", "–"],
        ["qat", when, size, "500", "1.0", "∞", "–", "–", "–"],
    ]


def test_the_waterfall_tells_what_is_kept_of_the_gain():
    def step(stage, psnr_db, blurred_db=25.0, **figures):
        figures |= {"bytes": 1000, "psnr_db": psnr_db, "psnr_blurred_db": blurred_db}
        return Step(stage, {}, {}, None, "2026-01-02T03:04:05.000000+00:00", figures)

    def kept(*history):
        return [row[7] for row in waterfall(history)]

    assert kept(step("train", 27.0), step("prune", 26.5), step("qat", 24.9)) == ["–", "75%", "-5%"]
    assert kept(step("train", 25.1), step("prune", 25.1)) == ["–", "too small to tell"]
    other = {"psnr_original_db": 26.0}
    assert kept(step("train", 27.0), step("prune", 25.5, 24.0, **other), step("export-onnx", 25.0, 24.0)) == [
        *("–", "75%", "50%")
    ]


def test_qat_scans_layers(run, made, tmp_path):
    answer = run("qat", made["prune"], "--scan", "--out", tmp_path / "scan", "--json").done().json

    drops = [layer["drop_db"] for layer in answer["layers"]]
    assert drops == sorted(drops, reverse=True)
    assert {layer["layer"] for layer in answer["layers"]} > {"head", "deform.deform", "pyramid.up.0"}
    assert [Path(path).name for path in answer["files"]] == ["sensitivity.csv", "sensitivity.json"]
    assert all(Path(path).is_file() for path in answer["files"])


def test_qat_takes_every_setting(run, made, tmp_path):
    options = ("--format", "fp8", "--weights-only", "--include", "head", "--exempt", "recurrent.gate", "--steps", 0)
    ranges = ("--calibrator", "percentile", "--percentile", 99.5, "--max-drop", 50)
    run("qat", made["prune"], *options, *ranges, "--out", tmp_path / "qat").done()

    assert load_artifact(tmp_path / "qat").network.quantization == {
        "format": "fp8",
        "bits": 8,
        "weights_only": True,
        "reduce_range": False,  # which is of INT8 in integers alone
        "calibrator": "percentile",
        "percentile": 99.5,
        "exempt": ["levels.0.enter", "deform.deform.conv_offset", "recurrent.gate"],
    }
    assert "quantized FP8, weights only, ranges by percentile" in run("inspect", tmp_path / "qat").done().out


@pytest.mark.rtx
def _median(row):
    return row["latency_ms"]["median"]  # the throughput is that of the mean, whose order may be another one


def test_bench_measures_the_newest_chain(run, runs, made, engine, tmp_path):
    options = ("--res", "64x48", "--seconds", 0.05, "--save", tmp_path / "bench.jsonl")
    outcome = run("bench", "--runs", runs, *options, "--json").done()

    answer = outcome.json
    assert answer.keys() == {"device", "baseline", "results"}
    timed = [row for row in answer["results"] if row["artifact"] == str(made["import"]) and row["ratio"]]
    fastest = min(timed, key=_median)
    assert answer["baseline"] == {"artifact": fastest["artifact"], "runtime": fastest["runtime"]}
    keys = {"artifact", "runtime", "res", "latency_ms", "throughput_fps", "ratio", "ratio_ci", "stable", "skipped"}
    assert all(row.keys() >= keys for row in answer["results"])
    rows = {(row["artifact"], row["runtime"]): row for row in answer["results"]}
    for runtime in ("onnxruntime", "openvino"):
        row = rows[str(made["export-onnx"]), runtime]
        assert row["latency_ms"].keys() >= {"median", "p90", "p95", "p99"}
        assert row["ratio"] > 0
        assert row["res"] == "64x48"
    skipped = rows[engine.json["artifact"], "tensorrt-rtx"]
    assert skipped["latency_ms"] is None
    assert "RTX 2080 Ti" in skipped["skipped"]
    assert str(made["qat"]) not in {row["artifact"] for row in answer["results"]}
    assert len((tmp_path / "bench.jsonl").read_text().splitlines()) == len(answer["results"])
    assert (
        f"source    {made['import']} (a float checkpoint from import; of the newest chain under {runs})" in outcome.err
    )


def test_bench_measures_a_checkpoint_that_led_to_nothing(run, checkpoint_file, tmp_path):
    source = Path(run("import", checkpoint_file, "--runs", tmp_path, "--json").done().json["artifact"])
    leaf = Path(run("prune", "--steps", 0, "--runs", tmp_path, "--json").done().json["artifact"])

    answer = run("bench", "--runs", tmp_path, "--res", "32x16", "--seconds", 0, "--json").done().json

    assert {row["artifact"] for row in answer["results"]} == {str(source), str(leaf)}


def test_bench_without_artifacts_takes_the_shipped_generator(run, shipped_generator, tmp_path):
    outcome = run("bench", "--runs", tmp_path / "runs", "--res", "32x16", "--seconds", 0, "--json").done()

    assert "; the shipped generator)" in outcome.err
    assert {row["artifact"] for row in outcome.json["results"]} == {str(shipped_generator)}


def test_bench_of_a_chain_begins_with_the_shipped_generator_it_came_from(run, shipped_generator, tmp_path):
    pruned = run("prune", "--steps", 0, "--runs", tmp_path / "runs", "--json").done()

    answer = run("bench", "--runs", tmp_path / "runs", "--res", "32x16", "--seconds", 0, "--json").done().json

    assert answer["baseline"]["artifact"] == str(shipped_generator)
    assert {row["artifact"] for row in answer["results"]} == {str(shipped_generator), pruned.json["artifact"]}


def test_pruning_takes_the_newest_unpruned_network(run, checkpoint_file, tmp_path):
    older, newer = (run("import", checkpoint_file, "--runs", tmp_path, "--json").done().json for _ in range(2))
    for _ in range(2):  # the second time, the newest checkpoint is a pruned one
        outcome = run("prune", "--steps", 0, "--runs", tmp_path, "--json").done()
        assert f"source    {newer['artifact']} (" in outcome.err
        assert [step.stage for step in load_artifact(Path(outcome.json["artifact"])).history] == ["import", "prune"]
    assert older["artifact"] != newer["artifact"]
    assert len(find_artifacts(tmp_path)) == 4


def test_pruning_never_prunes_a_pruned_network_unasked(run, shipped_generator, made, tmp_path):
    out = tmp_path / "pruned"

    outcome = run("prune", "--steps", 0, "--runs", made["prune"], "--out", out, "--json").done()

    assert f"source    {shipped_generator} (a float checkpoint from import; the shipped generator)" in outcome.err
    assert [step.stage for step in load_artifact(out).history] == ["import", "prune"]
    assert outcome.json["figures"]["loss"] is None  # nothing was fitted, and JSON has no NaN


def test_a_pruned_network_is_pruned_again_on_request(run, made, tmp_path):
    outcome = run("prune", made["prune"], "--steps", 0, "--keep", 0.5, "--out", tmp_path / "again", "--json").done()

    assert [step.stage for step in load_artifact(tmp_path / "again").history] == ["import", "prune", "prune"]
    assert "named on the command line" in outcome.err


def test_without_json_stdout_is_for_people(run, made, tmp_path):
    outcome = run("export-onnx", made["prune"], "--res", "33x17", "--out", tmp_path / "graph").done()

    assert outcome.err == ""
    assert "input     1x3x17x33 (NCHW)" in outcome.out
    assert f"wrote     {tmp_path / 'graph' / 'model.onnx'} (" in outcome.out
