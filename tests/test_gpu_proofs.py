"""What a GPU has to prove: never proven without one, with the reason and a command that finds its tests."""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from deblur_deploy.runtime.nvidia import Gpu

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SCENARIO = """
title = "Proofs"
about = "Proofs."
kind = "gpu-proofs"
target.at_most = 0
[[parameters.tests]]
claim = "passes"
tests = ["test_given.py", "-k", "passes"]
[[parameters.tests]]
claim = "fails"
tests = ["test_given.py", "-k", "passes or fails"]
[[parameters.tests]]
claim = "skips"
tests = ["test_given.py", "-k", "passes or skips"]
[[parameters.tests]]
claim = "needs more"
tests = ["test_given.py"]
needs = ["tensorrt"]
[[parameters.figures]]
claim = "is fast"
scenario = "kernels"
quantity = "im2col-ratio"
bound.at_least = 2
[[parameters.figures]]
claim = "graphs"
scenario = "matrix"
quantity = "graph-ratio"
bound.at_least = 1
"""
TESTS = """
import pytest
def test_passes(): pass
def test_fails(): assert False
def test_skips(): pytest.skip("a card is too old")
"""


@pytest.fixture
def scripts(monkeypatch):
    """The scripts ``run`` and ``gpu_proofs`` of ``benchmarks/``."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("run"), importlib.import_module("gpu_proofs")
    for module in BENCHMARKS.glob("*.py"):
        sys.modules.pop(module.stem, None)


@pytest.fixture
def root(tmp_path, scripts, monkeypatch):
    """A folder with a scenario, and with tests in place of the repository's."""
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "proofs.toml").write_text(SCENARIO)
    (tmp_path / "test_given.py").write_text(TESTS)
    monkeypatch.setattr(scripts[1], "ROOT", tmp_path)
    return tmp_path


def recorded(root: Path) -> dict:
    (line,) = (root / "results" / "here" / "proofs.jsonl").read_text("utf-8").splitlines()
    return json.loads(line)


def table(scripts, root: Path) -> list[str]:
    assert scripts[0].main(["--render"], root) == 0
    text = (root / "README.md").read_text("utf-8").split("## What a GPU has to prove")[1]
    return [line for line in text.splitlines() if line.startswith("|")][2:]


def test_without_a_gpu_nothing_is_proven(scripts, root, monkeypatch):
    monkeypatch.setattr(scripts[1], "find_gpu", lambda: None)
    assert "not run yet" in table(scripts, root)[0]

    assert scripts[0].main(["--device-dir", "here"], root) == 3

    record = recorded(root)
    assert (record["figure"], record["met"]) == (4, False)
    assert record["note"] == "tests: 0 proven, 0 failed, 4 unproven; this machine has no NVIDIA GPU"
    assert {row["verdict"] for row in record["details"]["proofs"]} == {"unproven"}
    lines = table(scripts, root)
    assert len(lines) == 6
    assert all("| **unproven** | this machine has no NVIDIA GPU |" in line for line in lines)
    assert "`python -m pytest test_given.py -k passes`" in lines[0]
    assert "`python benchmarks/run.py kernels`" in lines[4]


def test_with_a_gpu_tests_prove_or_fail(scripts, root, monkeypatch):
    monkeypatch.setattr(scripts[1], "find_gpu", lambda: Gpu("NVIDIA card", "8.6", "13.0"))
    monkeypatch.setattr(scripts[1], "_has", lambda need: False)

    assert scripts[0].main(["--device-dir", "here"], root) == 3

    assert recorded(root)["figure"] == 3
    found = {row["claim"]: (row["verdict"], row["found"]) for row in recorded(root)["details"]["proofs"]}
    assert found == {
        "passes": ("proven", "1 tests passed"),
        "fails": ("failed", "1 of 2 tests failed, the first is test_fails"),
        "skips": ("unproven", "1 of 2 tests skipped: a card is too old"),
        "needs more": ("unproven", "tensorrt is not installed"),
        "is fast": ("unproven", "read from the latest record of its scenario"),
        "graphs": ("unproven", "read from the latest record of its scenario"),
    }


def test_figures_are_read_from_the_records_of_their_scenarios(scripts, root, monkeypatch):
    monkeypatch.setattr(scripts[1], "find_gpu", lambda: None)
    assert scripts[0].main(["--device-dir", "here"], root) == 3
    made = recorded(root)
    folder = root / "results" / "a-card"
    folder.mkdir()
    device = made["device"] | {"gpu": {"name": "NVIDIA card"}}
    kernels = [{"element": kind, "ratios": {"im2col + cuBLAS": ratio}} for kind, ratio in (("f16", 2.5), ("f32", 1))]
    engines = [
        {"artifact": "engine", "runtime": f"tensorrt-rtx{end}", "latency_ms": {"median": ms}, "stable": True}
        for end, ms in (("", 4.0), ("-no-graph", 3.0))
    ]
    skipped = {"artifact": "engine", "runtime": "tensorrt", "latency_ms": None, "stable": False}
    for name, rows in (("kernels", kernels), ("matrix", [*engines, skipped])):
        record = made | {"scenario": name, "device": device, "details": {"rows": rows}}
        (folder / f"{name}.jsonl").write_text(json.dumps(record))

    lines = table(scripts, root)

    assert "| is fast | **proven** | 2.50×, at least 2× | `python benchmarks/run.py kernels` | NVIDIA card |" in lines
    assert "| graphs | **failed** | 0.75×, at least 1× | `python benchmarks/run.py matrix` | NVIDIA card |" in lines
    assert "no NVIDIA GPU" in lines[0]


def test_every_command_finds_tests_and_every_scenario_is_there(scripts):
    work = scripts[0].load_scenario(BENCHMARKS / "scenarios" / "gpu-proofs.toml").work
    known = {path.stem for path in (BENCHMARKS / "scenarios").glob("*.toml")}
    assert {proof.scenario for proof in work.figures} <= known
    files = sorted({proof.tests[0] for proof in work.tests})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    for proof in work.tests:
        assert (ROOT / proof.tests[0]).is_file()
        assert shlex.split(proof.command)[:3] == ["python", "-m", "pytest"]
    ended = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    names = [line.split("::")[1] for line in ended.stdout.splitlines() if "::" in line]
    for proof in work.tests:
        words = set(proof.tests[2].replace("(", " ").replace(")", " ").split()) - {"and", "or"}
        assert all(any(word in name for name in names) for word in words), proof.claim
