"""``run``: a recipe's stages each once, and budgets that name the stage that missed them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import deblur_deploy
from deblur_deploy.config import PruneConfig, QatConfig
from deblur_deploy.core.errors import BudgetError, ConfigError
from deblur_deploy.pipeline.budgets import check_budgets
from deblur_deploy.pipeline.recipe import Budget, Recipe, load_recipe
from deblur_deploy.pipeline.run_stages import RunArtifacts

STAGES = """
[prune]
tuning.fit = { steps = 1, batch = 1, crop = 32 }
[qat]
tuning.fit = { steps = 1, batch = 1, crop = 32 }
[export]
width = 64
height = 48
"""
TIMING = "[bench]\nduration_ms = 0.0\nwarmup_ms = 0.0\nmin_iterations = 1\nwindows = 1\nmax_windows = 1\n"


@pytest.fixture
def recipe(tmp_path: Path, shipped_generator: Path) -> Path:
    """A recipe for the generator in the shipped one's place."""
    path = tmp_path / "small.toml"
    path.write_text(STAGES + TIMING)
    return path


def test_a_recipe_runs_every_stage_once(run, recipe, tmp_path):
    outcome = run("run", recipe, "--runs", tmp_path / "runs", "--json").done()

    made = {path.parent.name for path in (tmp_path / "runs" / "small").glob("*/manifest.json")}
    assert made == {"prune", "qat", "onnx-original", "onnx-pruned", "onnx-int8"}
    assert [row["stage"] for row in outcome.json["rows"]] == ["original", "pruned", "int8"]
    assert all(float(row["openvino ms"]) >= 0 for row in outcome.json["rows"])
    assert outcome.err.count("running ") == 5

    again = run("run", recipe, "--runs", tmp_path / "runs", "--json").done()
    assert again.json == outcome.json
    assert again.err.count("done ") == 5
    assert "running " not in again.err


def test_a_recipe_runs_from_python_and_goes_on_where_the_command_was(
    run: Any, recipe: Path, tmp_path: Path, small_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = run("run", recipe, "--runs", tmp_path / "runs", "--json").done().json
    monkeypatch.setattr("deblur_deploy.data.pairs.shipped", lambda folder: small_set)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*/manifest.json")}

    result = deblur_deploy.run_recipe(recipe, tmp_path / "runs" / recipe.stem)

    assert [dict(zip(result.columns, row, strict=True)) for row in result.rows] == printed["rows"]
    assert (result.quality, result.bench) == (printed["quality"], printed["bench"])
    assert list(result.made.onnx) == ["original", "pruned", "int8"]
    assert {path: path.stat().st_mtime_ns for path in written} == written

    recipe.write_text(f"{STAGES}{TIMING}[budget]\nmax_size_ratio = 0.001\n")
    with pytest.raises(BudgetError, match="max_size_ratio"):
        deblur_deploy.run_recipe(recipe, tmp_path / "runs" / recipe.stem)
    with pytest.raises(ConfigError, match="needs a directory"):
        deblur_deploy.run_recipe(load_recipe(recipe))


def test_a_missed_budget_exits_3_with_everything_kept_and_a_wider_one_exits_0(run, recipe, tmp_path):
    recipe.write_text(STAGES + "[budget]\nmax_size_ratio = 0.001\n")

    refused = run("run", recipe, "--runs", tmp_path / "runs").refusal(3)

    assert "times what max_size_ratio = 0.001 allows (pruned x" in refused
    kept = tmp_path / "runs" / "small" / "onnx-int8" / "model.onnx"
    assert kept.is_file()
    assert str(kept) in refused.replace("\n", "")

    recipe.write_text(STAGES + "[budget]\nmax_size_ratio = 1.5\nmax_drop_db = 60.0\n")
    assert run("run", recipe, "--runs", tmp_path / "runs").done().out.count("done ") == 5


def test_a_source_on_the_command_line_goes_before_the_recipe_s(run, recipe, tmp_path, made):
    recipe.write_text('source = "nowhere"\n[export]\nwidth = 64\nheight = 48\n')
    outcome = run("run", recipe, "--source", made["import"], "--runs", tmp_path / "runs", "--json").done()
    assert [row["stage"] for row in outcome.json["rows"]] == ["original"]
    assert "nowhere" in run("run", recipe, "--runs", tmp_path / "runs").refusal(1)


def test_folders_are_relative_to_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('source = "a"\nphotos = "b"\n[prune]\n[qat]\ntuning.photos = "own"\n')
    recipe = load_recipe(path)
    assert (recipe.source, recipe.photos, recipe.evaluation) == (str(tmp_path / "a"), str(tmp_path / "b"), None)
    assert recipe.pairs_folder == tmp_path / "b"
    assert recipe.prune
    assert recipe.qat
    assert recipe.tuned_on_own_photos(recipe.prune).tuning.photos == str(tmp_path / "b")
    assert recipe.tuned_on_own_photos(recipe.qat).tuning.photos == str(tmp_path / "own")


def test_files_of_the_engine_are_relative_to_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    text = '[fp16]\ncalibration = "photos"\n[engine]\nplugin = "{}"\nplan.timing_cache = "kernels"\n'
    path.write_text(text.format("lib.so"))
    recipe = load_recipe(path)
    assert recipe.fp16
    assert recipe.engine
    found = (recipe.fp16.calibration, recipe.engine.plugin, recipe.engine.plan.timing_cache)
    assert found == tuple(str(tmp_path / name) for name in ("photos", "lib.so", "kernels"))
    path.write_text(text.format("aot"))
    again = load_recipe(path).engine
    assert again
    assert again.plugin == "aot"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[prune]\nkep = 0.7", "prune has no field 'kep'"),
        ("[pruning]", "has no field 'pruning'"),
        ("[prune]\nkeep = 2.0", "keep is 2.0"),
        ("[budget]\nmax_drop_db = -1", "max_drop_db is -1"),
        ("[budget]\nmin_gain_kept = -0.1", "min_gain_kept is -0.1"),
        ("[budget]\nmin_gain_kept = 90", "min_gain_kept is 90"),
        ("[budget]\nmin_speedup = 2", "min_speedup needs a latency table"),
        ("[engine]", "an FP16 engine is built from a typed FP16 graph"),
        ('[fp16]\n[engine]\nprecision = "fp32"', "an FP32 engine cannot be built from a typed FP16 graph"),
        ('[engine]\nprecision = "bf16"', "no stage that writes bfloat16"),
        ("[export]\ndynamic = true\n[fp16]\n[engine]", "an engine must know which"),
        ("[fp16]\n[engine]\nshapes.batch = [1, 4]", "the graph does not leave free"),
        ('[qat]\n[engine]\nprecision = "fp32"', r"an FP32 engine cannot follow \[qat\]"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(tmp_path / "recipe.toml")


def run_of(tmp_path: Path, sizes: dict[str, int]) -> RunArtifacts:
    """A run of which only the files' sizes are true."""

    class Graph:
        def __init__(self, row: str, size: int) -> None:
            self.directory = tmp_path / row
            self.path = self.directory / "model.onnx"
            self.directory.mkdir()
            self.path.write_bytes(bytes(size))

    graphs: Any = {row: Graph(row, size) for row, size in sizes.items()}
    return RunArtifacts(graphs, graphs, None)


def timed(tmp_path: Path, row: str, runtime: str, median: float) -> dict[str, Any]:
    return {"artifact": str(tmp_path / row), "runtime": runtime, "latency_ms": {"median": median}}


def test_each_budget_says_by_how_much_and_where(tmp_path: Path) -> None:
    made = run_of(tmp_path, {"original": 1000, "pruned": 500, "int8": 200})
    quality = {"psnr_db": {"original": 30.0, "pruned": 29.9, "int8": 29.5}}
    bench = {
        "results": [
            timed(tmp_path, "original", "torch", 800.0),
            timed(tmp_path, "original", "openvino", 400.0),
            timed(tmp_path, "pruned", "openvino", 200.0),
            timed(tmp_path, "int8", "onnxruntime", 300.0),
            timed(tmp_path, "int8", "openvino", 100.0),
        ]
    }
    check_budgets(Budget(0.5, 0.2, 4.0), made, quality, bench)
    check_budgets(Budget(), made, quality, None)

    with pytest.raises(BudgetError) as missed:
        check_budgets(Budget(0.3, 0.125, 10.0), made, quality, bench)
    loss, size, speed = missed.value.message.split("; ")
    assert loss == ("0.50 dB were lost, 0.20 more than max_drop_db = 0.3 allows (pruned 0.10, int8 0.40: most in int8)")
    assert size == (
        "the last file has 0.200 of the original's bytes, 1.60 times what max_size_ratio = 0.125 allows "
        "(pruned x0.50, int8 x0.40: pruned saved least)"
    )
    assert speed == (
        "int8 is 4.0 times as fast as the original in its fastest runtime, openvino, and min_speedup = 10.0 "
        "(original 1.0x, pruned 2.0x, int8 4.0x)"
    )
    assert str(tmp_path / "pruned" / "model.onnx") in missed.value.hint
    assert missed.value.hint.endswith("keep more channels or tune for longer")
    with pytest.raises(BudgetError) as missed:
        check_budgets(Budget(max_size_ratio=0.125), made, quality, None)
    assert missed.value.hint.endswith("keep fewer channels")


def test_the_share_of_the_gain_is_a_budget(tmp_path: Path) -> None:
    made = run_of(tmp_path, {"original": 1000, "pruned": 500, "int8": 200})
    quality = {"psnr_db": {"original": 30.0, "pruned": 29.9, "int8": 29.5}, "blurred_db": 28.0}
    check_budgets(Budget(min_gain_kept=0.75), made, quality, None)
    with pytest.raises(BudgetError) as missed:
        check_budgets(Budget(min_gain_kept=0.9), made, quality, None)
    assert missed.value.message == "75.0% of the gain is kept, and min_gain_kept = 0.9 (pruned 95%, int8 75%)"
    assert str(tmp_path / "pruned" / "model.onnx") in missed.value.hint

    with pytest.raises(BudgetError, match=r"gains 0\.10 dB over the blurred input, too little to say what is kept"):
        check_budgets(Budget(min_gain_kept=0.1), made, quality | {"blurred_db": 29.9}, None)
    equal = {"psnr_db": dict.fromkeys(quality["psnr_db"]), "blurred_db": 28.0}
    check_budgets(Budget(max_drop_db=0.0, min_gain_kept=1.0), made, equal, None)


def test_a_run_without_stages_can_miss_a_budget_too(tmp_path: Path) -> None:
    made = run_of(tmp_path, {"original": 10})
    quality = {"psnr_db": {"original": 1.0}}
    check_budgets(Budget(max_drop_db=0.0, max_size_ratio=1.0), made, quality, None)
    with pytest.raises(BudgetError, match="no stage saved least"):
        check_budgets(Budget(max_size_ratio=0.5), made, quality, None)


def test_a_speed_that_could_not_be_measured_is_not_shown(tmp_path: Path) -> None:
    made = run_of(tmp_path, {"original": 10, "int8": 5})
    bench: dict[str, Any] = {"results": [timed(tmp_path, "original", "torch", 5.0)]}
    with pytest.raises(BudgetError, match="int8 could not be timed here"):
        check_budgets(Budget(min_speedup=1.0), made, {"psnr_db": {"original": 1.0, "int8": 1.0}}, bench)


def test_the_settings_of_a_stage_are_those_of_its_command() -> None:
    assert Recipe(prune=PruneConfig(), qat=QatConfig()).tuned_on_own_photos(PruneConfig()) == PruneConfig()
