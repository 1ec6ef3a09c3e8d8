"""Bad input: one error, one hint, exit code 1 or 2, and nothing left behind."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deblur_deploy.core.images import save_rgb

COMMAND_LINE = [sys.executable, "-c", "from deblur_deploy.cli import main; main()"]


@pytest.fixture
def photos(photo, tmp_path) -> Path:
    """A folder with one good photograph."""
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "good.png", photo)
    return tmp_path / "photos"


def reading_commands(made: dict[str, Path], folder: Path) -> list[list[object]]:
    """Every command that reads photographs, reading them from this folder."""
    return [
        ["prune", made["import"], "--data", folder, "--steps", 1],
        ["qat", made["import"], "--data", folder, "--steps", 1],
        ["eval", made["import"], "--data", folder],
        ["verify", made["import"], made["prune"], "--images", folder],
        ["demo", made["import"], "--images", folder, "--quick"],
    ]


# Photographs


def test_not_an_image(refuse, made, photos):
    (photos / "letter.jpg").write_text("Dear reader, this is a text.")
    for arguments in reading_commands(made, photos):
        assert "letter.jpg is not an image" in refuse(1, *arguments)


def test_a_truncated_image(refuse, made, photos):
    whole = (photos / "good.png").read_bytes()
    (photos / "half.png").write_bytes(whole[: len(whole) // 2])
    for arguments in reading_commands(made, photos):
        assert "half.png cannot be read" in refuse(1, *arguments)


def test_an_empty_folder(refuse, made, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments in reading_commands(made, tmp_path / "empty"):
        assert "empty holds no images" in refuse(1, *arguments)


def test_no_such_folder(refuse, made, tmp_path):
    for arguments in reading_commands(made, tmp_path / "nowhere"):
        assert "nowhere is not a folder" in refuse(1, *arguments)


def test_photographs_too_small(refuse, made, tmp_path):
    (tmp_path / "small").mkdir()
    save_rgb(tmp_path / "small" / "stamp.png", np.zeros((40, 60, 3), np.uint8))
    assert "a side of 40 px" in refuse(2, "prune", made["import"], "--data", tmp_path / "small", "--steps", 1)
    assert "too few for a crop of 640x360" in refuse(1, "demo", made["import"], "--images", tmp_path / "small")
    assert "too few for a crop of 64x48" in refuse(1, "eval", made["export-onnx"], "--data", tmp_path / "small")


# Values


@pytest.mark.parametrize("keep", ["0", "-0.5", "1.01", "nan"])
def test_keep_outside_zero_to_one(refuse, made, keep):
    assert "keep is" in refuse(2, "prune", made["import"], "--keep", keep)


@pytest.mark.parametrize("size", ["0x48", "64x0", "-64x48", "64", "64x48x3", "64*48", "wide", "6.4x48", "", "99999x9"])
def test_a_bad_resolution(refuse, made, size):
    for command in ("export-onnx", "export-trt", "bench"):
        assert "resolution" in refuse(2, command, made["import"], f"--res={size}")


def test_other_values_out_of_range(refuse, made):
    assert "steps is -1" in refuse(2, "prune", made["import"], "--steps", -1)
    assert "round_to is 0" in refuse(2, "prune", made["import"], "--round-to", 0)
    assert "threads is 0" in refuse(2, "bench", made["import"], "--threads", 0)
    assert "a time to measure is negative" in refuse(2, "bench", made["import"], "--seconds", -1)
    assert "there is no runtime 'onnx'" in refuse(2, "eval", made["export-onnx"], "--runtime", "onnx")
    assert "torch runs artifacts of kind checkpoint" in refuse(2, "eval", made["export-onnx"], "--runtime", "torch")


def test_photographs_without_sharp_ones_and_what_needs_them(refuse, made, photos, tmp_path):
    assert "--sheets needs --blurred" in refuse(2, "eval", made["import"], "--sheets", tmp_path / "sheets")
    for options in (["--data", photos], ["--align"], ["--lpips"], ["--csv", tmp_path / "scores.csv"]):
        assert "has no sharp photographs for" in refuse(2, "eval", made["import"], "--blurred", photos, *options)
    (tmp_path / "file").write_text("in the way")
    message = refuse(1, "eval", made["import"], "--blurred", photos, "--sheets", tmp_path / "file")
    assert "file cannot be written" in message


def test_a_bad_recipe(refuse, tmp_path):
    recipe = tmp_path / "recipe.toml"
    assert "recipe.toml cannot be read as a recipe" in refuse(2, "train", recipe)
    for content, complaint in (
        ("base = ", "recipe.toml cannot be read as a recipe"),
        ("bsae = 8", "did you mean 'base'?"),
        ("base = 0", "base is 0"),
        ("[fit]\nsteps = 0.5", "recipe.toml.fit.steps is 0.5"),
    ):
        recipe.write_text(content)
        assert complaint in refuse(2, "train", recipe)


def test_a_layer_that_does_not_exist(refuse, made):
    for options in (("--steps", 1), ("--scan",)):
        message = refuse(2, "qat", made["import"], "--exempt", "levels.9", *options)
        assert "there is no layer 'levels.9'" in message


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--include", "levels.9"], "there is no layer 'levels.9' to include"),
        (["--include", "head", "--exempt", "head"], "exempt and include both name {'head'}"),
        (["--format", "int4"], "format is 'int4'"),
        (["--calibrator", "mean"], "calibrator is 'mean'"),
        (["--percentile", "101"], "percentile is 101"),
        (["--max-drop", "-1"], "max_drop is -1"),
        (["--format", "fp8", "--calibrator", "entropy"], "FP8 has none"),
    ],
)
def test_bad_settings_of_quantization(refuse, made, options, complaint):
    assert complaint in refuse(2, "qat", made["import"], *options, "--steps", 1)


def test_flat_photographs_to_calibrate_on(refuse, made, tmp_path):
    (tmp_path / "flat").mkdir()
    save_rgb(tmp_path / "flat" / "grey.png", np.full((160, 208, 3), 128, np.uint8))
    message = refuse(2, "qat", made["import"], "--data", tmp_path / "flat", "--steps", 1)
    assert "all are flat" in message


@pytest.mark.rtx
def test_an_unknown_card_or_flavour(refuse, made):
    assert "'RTX 9999'" in refuse(2, "export-trt", made["import"], "--target", "RTX 9999")
    assert "'fast'" in refuse(2, "export-trt", made["import"], "--flavour", "fast")
    assert "'RTX 9999'" in refuse(2, "demo", made["import"], "--target", "RTX 9999")


def test_an_onnx_file_of_another_size(refuse, made):
    message = refuse(2, "export-trt", made["export-onnx"], "--res", "32x32")
    assert "was exported for 64x48, and --res 32x32 was asked for" in message


def test_fp32_from_a_quantized_network(refuse, made):
    assert "is quantized, and --fp32 was asked for" in refuse(2, "export-trt", made["export-onnx"], "--fp32")


@pytest.mark.rtx
def test_options_of_an_engine_that_do_not_go_together(refuse, made):
    def refusal(code: int, *options: object) -> str:
        return refuse(code, "export-trt", *options)

    assert "--fp16 and --int8 were given" in refusal(2, made["qat"], "--fp16", "--int8")
    assert "--batch is 'many'" in refusal(2, made["qat"], "--batch", "many")
    assert "batch is 4 to 1" in refusal(2, made["qat"], "--batch", "4-1")
    assert "range of sizes were given" in refusal(2, made["qat"], "--res", "64x48", "--max-res", "64x48")
    assert "a range has both ends" in refusal(2, made["qat"], "--max-res", "64x48")
    assert "'64' is not a resolution" in refusal(2, made["qat"], "--res", "64")
    assert "--workspace is 0" in refusal(2, made["qat"], "--workspace", 0)
    assert "is not quantized to int8" in refusal(2, made["import"], "--int8", "--target", "sm86")
    assert "`deblur-deploy qat --format fp8`" in refusal(2, made["qat"], "--fp8", "--target", "sm89")


@pytest.mark.rtx
def test_options_that_tensorrt_rtx_lacks(refuse, made):
    for option, reason in (
        (("--timing-cache", "kernels.cache"), "times no kernels"),
        (("--version-compatible",), "lean runtime"),
        (("--hardware-compatibility", "ampere_plus"), "no such levels"),
        (("--plugin", "libdeblur_plugin.so"), "no plugins"),
        (("--int8",), "silently build them in float"),
    ):
        assert reason in refuse(1, "export-trt", made["qat"], *option)


def test_several_sizes_of_a_network_that_has_one(refuse, made):
    for options in (("--res", "64x48", "--res", "32x32"), ("--batch", 4), ("--min-res", "8x8", "--max-res", "64x48")):
        message = refuse(2, "export-trt", made["export-onnx"], *options)
        assert "does not leave free" in message
        assert "--dynamic" in message


# The command line itself


def test_an_unknown_command(run):
    assert "there is no command 'prone'" in run("prone").refusal(2)
    assert "did you mean `deblur-deploy prune`?" in run("prone").err
    assert "--help` lists them" in run("--colour").refusal(2)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["prune", "--keeep", "0.5"], "--keeep"),
        (["prune", "--keep", "most"], "--keep"),
        (["prune", "--keep"], "--keep"),
        (["prune", "one", "two"], "two"),
        (["import"], "checkpoint"),
        (["verify", "only-one"], "second"),
    ],
)
def test_bad_usage(run, arguments, complaint):
    message = run(*arguments).refusal(2)
    assert complaint in message
    assert f"Hint: `deblur-deploy {arguments[0]} --help`" in message


@pytest.mark.parametrize(
    "arguments", [["prune", "--keep", "0"], ["prune", "nowhere"], ["prune", "--nonsense"], ["prone"]], ids=" ".join
)
def test_a_real_process_ends_the_same_way(run, arguments, tmp_path):
    ended = subprocess.run([*COMMAND_LINE, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert (ended.returncode, ended.stderr) == (run(*arguments).code, run(*arguments).err)
    assert ended.returncode == (1 if "nowhere" in arguments else 2)
    assert ended.stdout == ""
    assert ended.stderr.startswith("Error: ")
    assert list(tmp_path.iterdir()) == []


# Artifacts


def test_a_source_that_is_not_there(refuse, tmp_path):
    for command in ("prune", "qat", "export-onnx", "export-trt", "eval", "inspect", "bench", "demo"):
        assert "there is no " in refuse(1, command, tmp_path / "nowhere")
    assert "there is no " in refuse(1, "verify", tmp_path / "nowhere", tmp_path)


def test_a_source_that_is_no_artifact(refuse, checkpoint_file, tmp_path):
    message = refuse(1, "prune", checkpoint_file)
    assert "is not an artifact" in message
    assert "deblur-deploy import" in message
    assert "is not an artifact" in refuse(1, "inspect", tmp_path)


@pytest.mark.parametrize(
    ("command", "source", "complaint"),
    [
        ("prune", "export-onnx", "is a quantized onnx from export-onnx"),
        ("prune", "qat", "is a quantized checkpoint from qat"),
        ("qat", "qat", "is a quantized checkpoint from qat"),
        ("export-onnx", "export-onnx", "which this stage cannot start from"),
        ("demo", "qat", "is quantized"),
    ],
)
def test_a_source_of_the_wrong_kind(refuse, made, command, source, complaint):
    assert complaint in refuse(1, command, made[source])


@pytest.mark.rtx
def test_an_engine_is_no_source(refuse, engine):
    directory = engine.json["artifact"]
    for command in ("prune", "qat", "export-onnx", "export-trt"):
        assert "which this stage cannot start from" in refuse(1, command, directory)
    assert "needs an NVIDIA GPU" in refuse(1, "eval", directory) or torch.cuda.is_available()


@pytest.mark.parametrize(
    "edit",
    [{"sha256": "0" * 64}, {"kind": "engine"}, {"history": []}, {"file": "../weights.safetensors"}, {"note": "mine"}],
    ids=str,
)
def test_a_manifest_edited_by_hand(refuse, run, checkpoint_file, tmp_path, edit):
    run("import", checkpoint_file, "--out", tmp_path / "net").done()
    manifest = tmp_path / "net" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | edit))

    for command in ("inspect", "prune", "export-onnx", "bench"):
        assert "manifest.json was changed after it was written" in refuse(1, command, tmp_path / "net")


def test_a_changed_payload(refuse, run, checkpoint_file, tmp_path):
    run("import", checkpoint_file, "--out", tmp_path / "net").done()
    payload = tmp_path / "net" / "weights.safetensors"
    content = bytearray(payload.read_bytes())
    content[-1] ^= 1
    payload.write_bytes(content)

    assert "is not the file its manifest describes" in refuse(1, "prune", tmp_path / "net")


# Outputs


def test_an_output_that_cannot_be_written(refuse, made, checkpoint_file, tmp_path):
    (tmp_path / "file").write_text("in the way")
    sources = {"import": checkpoint_file, "train": tmp_path / "recipe.toml", "qat": made["prune"]}
    (tmp_path / "recipe.toml").write_text("base = 8\nfit.steps = 1")
    for command in ("import", "train", "prune", "qat", "export-onnx", "export-trt"):
        source = sources.get(command, made["import"])
        for out in ("file", "file/below", "file/far/below"):
            message = refuse(1, command, source, "--out", tmp_path / out)
            assert "cannot be written" in message
            assert "file is a file" in message
        assert "cannot be written" in refuse(1, command, source, "--runs", tmp_path / "file" / "runs")
    assert "cannot be written" in refuse(1, "demo", made["import"], "--quick", "--runs", tmp_path / "file")


def test_an_output_that_holds_other_files(refuse, made, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    message = refuse(1, "export-onnx", made["import"], "--res", "32x32", "--out", tmp_path / "mine")
    assert "holds files that are not an artifact" in message


def test_samples_that_cannot_be_saved(run, made, tmp_path):
    (tmp_path / "file").write_text("in the way")
    options = ("--res", "32x16", "--seconds", 0, "--save", tmp_path / "file" / "bench.jsonl")
    assert "bench.jsonl cannot be written" in run("bench", made["import"], *options).refusal(1)


# Missing packages


def test_no_tensorrt(refuse, made, monkeypatch):
    present = importlib.util.find_spec
    monkeypatch.setattr(
        "deblur_deploy.engine.flavour.find_spec", lambda name: None if "tensorrt" in name else present(name)
    )
    for command in ("export-trt", "demo"):
        message = refuse(1, command, made["import"])
        assert "is not installed" in message
        assert "Hint: pip install 'deblur-deploy[rtx]'" in message
    assert "Hint: pip install 'deblur-deploy[trt]'" in refuse(1, "export-trt", made["import"], "--flavour", "tensorrt")


def test_no_modelopt(refuse, made, monkeypatch):
    for name in ("modelopt", "modelopt.torch.quantization"):
        monkeypatch.setitem(sys.modules, name, None)
    message = refuse(1, "qat", made["import"], "--steps", 1)
    assert "quantization needs NVIDIA ModelOpt" in message
    assert "Hint: pip install 'deblur-deploy[compress]'" in message


def test_a_missing_package_of_a_stage(refuse, made, monkeypatch):
    for module in [name for name in sys.modules if name.startswith("deblur_deploy.export.to_onnx")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "onnx", None)
    message = refuse(1, "export-onnx", made["import"])
    assert "`deblur-deploy export-onnx` needs onnx, which is not installed" in message
    assert "Hint: pip install 'deblur-deploy[export]'" in message


def test_a_bug_keeps_its_traceback(run, monkeypatch):
    def broken(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'deblur_deploy.typo'", name="deblur_deploy.typo")

    monkeypatch.setattr("deblur_deploy.cli.inspect_command.summarize", broken)
    monkeypatch.setattr("deblur_deploy.cli.console.Output.source", broken)
    with pytest.raises(ModuleNotFoundError, match="typo"):
        run("inspect")
