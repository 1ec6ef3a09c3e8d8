"""The kernel's benchmark as far as it runs without a GPU: its rivals' arithmetic, its figures, its refusals."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from deblur_deploy.kernels.compiler import compile_source, nvrtc_version
from deblur_deploy.kernels.geometry import ENTRIES
from deblur_deploy.kernels.resources import ARCHITECTURES

HERE = Path(__file__).parent
BENCHMARKS = HERE.parents[1] / "benchmarks"
SCRIPTS = ("run", "scenario", "rendering", "measurements", "compression", "kernels", "deform_rivals")


@pytest.fixture(scope="module")
def scripts():
    """The scripts of ``benchmarks/`` by name."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(BENCHMARKS)
    yield {name: importlib.import_module(name) for name in SCRIPTS}
    patch.undo()
    for name in SCRIPTS:
        del sys.modules[name]


@pytest.fixture
def rows(scripts):
    rivals = scripts["deform_rivals"]
    ways = {rivals.OURS: [0.2, 0.1, 0.3], "grid_sample": [2.0, 2.0, 2.0], rivals.IM2COL: [0.5, 0.6, 0.7]}
    return [scripts["kernels"].make_row("160x90x128", "f16", ways, (0.05, 1e-4))]


def test_the_layers_are_those_that_were_promised(scripts):
    work = scripts["scenario"].load_scenario(BENCHMARKS / "scenarios/kernels.toml").work

    assert [str(size) for size in work.sizes] == ["160x90x128", "320x180x64", "640x360x64"]
    assert work.elements == ("f16", "f32")
    assert work.judged == "f16"


def test_a_layers_row_has_medians_and_ratios(scripts, rows):
    rivals, (row,) = scripts["deform_rivals"], rows

    assert row["median_ms"] == {rivals.OURS: 0.2, "grid_sample": 2.0, rivals.IM2COL: 0.6}
    assert row["ratios"]["grid_sample"] == pytest.approx(10)
    assert row["im2col_ratio"] == pytest.approx(3)
    assert row["floor_share"] == pytest.approx(0.25)


def test_the_note_is_one_line_that_says_it_all(scripts, rows):
    note = scripts["kernels"].summarize(rows, "Some GPU")

    assert note == "Some GPU; 160x90x128 f16 0.200 ms, 3.00×, 25 % of the floor"


def test_the_roofline_floor_is_the_larger_of_both_times(scripts):
    ceilings = {"macs_per_s": 1e12, "bytes_per_s": 1e11}
    floor = scripts["kernels"].roofline_floor_ms

    assert floor(macs=10**9, bytes_moved=10**6, ceilings=ceilings) == pytest.approx(1.0)
    assert floor(macs=10**6, bytes_moved=10**9, ceilings=ceilings) == pytest.approx(10.0)


def test_a_layer_counts_its_work(scripts):
    layer = scripts["deform_rivals"].Layer.draw((20, 10, 8), "f16", "cpu")

    assert layer.macs == 20 * 10 * 8 * 8 * 9
    assert layer.bytes_moved == 2 * (2 * 8 * 200 + 18 * 200 + 8 * 8 * 9)
    assert layer.grid_sample().shape == (1, 8, 10, 20)


def test_im2col_and_a_product_give_the_layer(scripts, tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to run the kernel on the processor")
    layer = scripts["deform_rivals"].Layer.draw((9, 7, 5), "f32", "cpu")
    program = tmp_path / "im2col"
    with resources.as_file(resources.files("deblur_deploy.kernels")) as kernels:
        places = [f"-I{HERE}", f"-I{kernels}", f"-I{BENCHMARKS}"]
        sources = [str(HERE / "im2col_emulator.cpp"), "-o", str(program)]
        subprocess.run([compiler, "-std=c++17", "-O1", *places, *sources], check=True, timeout=120)
    case = layer.x.numpy().tobytes() + layer.offset.numpy().tobytes()
    raw = subprocess.run([str(program), "5", "7", "9", "3"], input=case, capture_output=True, check=True, timeout=60)

    columns = torch.from_numpy(np.frombuffer(raw.stdout, np.float32).copy()).view(5 * 9, 63)
    found = (layer.weight.reshape(5, -1) @ columns).view(1, 5, 7, 9)
    assert scripts["kernels"].relative_error(found, layer.grid_sample().double()) < 1e-5


def test_the_rival_compiles(scripts):
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC: pip install 'deblur-deploy[cuda]'")

    ptx = compile_source("compute_75", sources=scripts["deform_rivals"].im2col_sources()).code
    assert b".visible .entry im2col_f16" in ptx
    assert b".visible .entry im2col_f32" in ptx


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_nothing_is_recorded(scripts, tmp_path, capsys):
    (tmp_path / "scenarios").mkdir()
    shutil.copy(BENCHMARKS / "scenarios/kernels.toml", tmp_path / "scenarios")

    assert scripts["run"].main(["kernels", "--device-dir", "here"], tmp_path) == 1
    assert "the kernel is timed on a GPU, and there is none" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('judged = "f16"', 'judged = "f64"', "judged"),
        ('elements = ["f16", "f32"]', 'elements = ["f32"]', "times nothing that is judged"),
        ("width = 160", "width = 0", "is empty"),
    ],
)
def test_a_malformed_scenario_is_bad_usage(scripts, tmp_path, capsys, old, new, complaint):  # noqa: PLR0913
    (tmp_path / "scenarios").mkdir()
    text = (BENCHMARKS / "scenarios/kernels.toml").read_text(encoding="utf-8")
    (tmp_path / "scenarios/kernels.toml").write_text(text.replace(old, new), encoding="utf-8")

    assert scripts["run"].main(["kernels"], tmp_path) == 2
    assert complaint in capsys.readouterr().err


def recorded_builds() -> list[dict]:
    """The last record of the compilation on each machine, the newest last."""
    paths = (BENCHMARKS / "results").glob("*/kernel-build.jsonl")
    records = [json.loads(path.read_text(encoding="utf-8").splitlines()[-1]) for path in paths]
    return sorted(records, key=lambda record: record["date"])


def test_recorded_resources_cover_every_card_and_entry_point():
    records = recorded_builds()

    assert records
    for record in records:
        resources_by_arch = record["details"]["resources"]
        assert list(resources_by_arch) == list(ARCHITECTURES)
        for kernels in resources_by_arch.values():
            assert {entry.name for entry in ENTRIES} <= set(kernels)


def test_recorded_resources_are_those_of_the_source():
    """With the compiler that they were recorded with, one architecture comes out the same."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC: pip install 'deblur-deploy[cuda]'")
    from dataclasses import asdict

    from deblur_deploy.kernels.resources import parse_report

    record = recorded_builds()[-1]
    if record["details"]["nvrtc"] != nvrtc_version():
        pytest.skip(f"recorded with NVRTC {record['details']['nvrtc']}, installed is {nvrtc_version()}")
    entry = ENTRIES[0]
    found = parse_report(compile_source("sm_75", entry.definition).log)
    assert asdict(found[entry.name]) == record["details"]["resources"]["sm_75"][entry.name]
