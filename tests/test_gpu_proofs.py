"""What a GPU has to prove: never proven without one, with the reason and a command that finds its tests."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from deblur_deploy.runtime.nvidia import count_nvidia_gpus

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
[[parameters.probes]]
claim = "probes"
probe = "torch-runners"
rank = 1
[[parameters.probes]]
claim = "comes last"
probe = "kernel-speed"
feeds = "kernels"
rank = 90
seconds = 0
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
@pytest.mark.filterwarnings("error")
def test_passes(record_property):
    record_property("cases", 2)
    record_property("cases", 1)
def test_fails(): assert False
def test_skips(): pytest.skip("a card is too old")
"""


FINDINGS = {"torch-runners": [("unproven", "starting"), ("proven", "seen")], "kernel-speed": [("proven", "timed")]}


@pytest.fixture
def scripts(monkeypatch):
    """The scripts of ``benchmarks/`` that prove."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = ("run", "gpu_proofs", "proof_needs", "probing", "gpu_probes", "network_probes", "proof_figures")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for module in BENCHMARKS.glob("*.py"):
        sys.modules.pop(module.stem, None)


@pytest.fixture
def root(tmp_path, scripts, monkeypatch):
    """A folder with a scenario, tests in place of the repository's, and probes that say what they are told."""

    def probe(name, seconds):
        rows = [{"element": "f16", "ratios": {"im2col + cuBLAS": 2.25}, "floor_share": 0.5}]
        for verdict, found in FINDINGS[name]:
            yield scripts.probing.Finding(verdict, found, {"rows": rows})

    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "proofs.toml").write_text(SCENARIO)
    (tmp_path / "test_given.py").write_text(TESTS)
    monkeypatch.setattr(scripts.gpu_proofs, "ROOT", tmp_path)
    monkeypatch.setattr(scripts.gpu_proofs, "run_probe", probe)
    return tmp_path


@pytest.fixture
def no_gpu(scripts, monkeypatch):
    monkeypatch.setattr(scripts.proof_needs, "count_nvidia_gpus", lambda: None)


@pytest.fixture
def a_gpu(scripts, monkeypatch):
    monkeypatch.setattr(scripts.proof_needs, "count_nvidia_gpus", lambda: 1)
    monkeypatch.setattr(scripts.proof_needs, "has", lambda need: need == "pytest")


def recorded(root: Path) -> dict:
    (line,) = (root / "results" / "here" / "proofs.jsonl").read_text("utf-8").splitlines()
    return json.loads(line)


def table(scripts, root: Path) -> list[str]:
    assert scripts.run.main(["--render"], root) == 0
    text = (root / "README.md").read_text("utf-8").split("## What a GPU has to prove")[1]
    return [line for line in text.splitlines() if line.startswith("|")][2:]


def test_without_a_gpu_nothing_is_proven(scripts, root, no_gpu, capsys):
    assert "not run yet" in table(scripts, root)[0]

    assert scripts.run.main(["--device-dir", "here"], root) == 3

    record = recorded(root)
    assert (record["figure"], record["met"]) == (6, False)
    assert record["note"] == "claims: 0 proven, 0 failed, 6 unproven; this machine has no NVIDIA GPU"
    assert {row["verdict"] for row in record["details"]["proofs"]} == {"unproven"}
    found = {row["claim"]: row["found"] for row in record["details"]["proofs"]}
    assert found["needs more"] == "this machine has no NVIDIA GPU; tensorrt is not installed"
    assert len(capsys.readouterr().out.splitlines()) == 9
    lines = table(scripts, root)
    assert len(lines) == 8
    assert all("| **unproven** | this machine has no NVIDIA GPU" in line for line in lines)
    assert "`python benchmarks/gpu_probes.py torch-runners`" in lines[0]
    assert "`python -m pytest test_given.py -k passes`" in lines[1]
    assert "`python benchmarks/run.py kernels`" in lines[6]


def test_with_a_gpu_tests_and_probes_prove_or_fail(scripts, root, a_gpu):
    assert scripts.run.main(["--device-dir", "here"], root) == 3

    assert recorded(root)["figure"] == 3
    found = {row["claim"]: (row["verdict"], row["found"]) for row in recorded(root)["details"]["proofs"]}
    assert found == {
        "probes": ("proven", "seen"),
        "passes": ("proven", "1 tests passed, 3 cases"),
        "fails": ("failed", "1 of 2 tests failed, the first is test_fails"),
        "skips": ("unproven", "1 of 2 tests skipped: a card is too old"),
        "needs more": ("unproven", "tensorrt is not installed"),
        "comes last": ("proven", "timed"),
        "is fast": ("proven", "2.25×, at least 2×"),  # the probe feeds it
        "graphs": ("unproven", "read from the latest record of its scenario"),
    }


def test_there_is_a_whole_record_after_each_proof(scripts, root, a_gpu, monkeypatch):
    """What is killed on the way has lost nothing of what was proven before."""

    def killed(proof, seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(scripts.gpu_proofs, "run_tests", killed)
    (root / "results" / "here").mkdir(parents=True)
    (root / "results" / "here" / "proofs.jsonl").write_text('{"earlier": 1}\n')
    with pytest.raises(KeyboardInterrupt):
        scripts.run.main(["--device-dir", "here"], root)

    earlier, line = (root / "results" / "here" / "proofs.jsonl").read_text("utf-8").splitlines()
    assert json.loads(earlier) == {"earlier": 1}
    found = {row["claim"]: (row["verdict"], row["found"]) for row in json.loads(line)["details"]["proofs"]}
    assert found["probes"] == ("proven", "seen")
    assert found["passes"] == ("unproven", "not reached yet")


def test_what_there_is_no_time_for_is_named(scripts, root, a_gpu):
    assert scripts.run.main(["--minutes", "0.001", "--device-dir", "here", "--results", str(root / "else")], root) == 3

    (line,) = (root / "else" / "here" / "proofs.jsonl").read_text("utf-8").splitlines()
    found = {row["claim"]: row["found"] for row in json.loads(line)["details"]["proofs"]}
    assert found["probes"] == found["passes"] == "the time was up before its turn"
    assert found["needs more"] == "tensorrt is not installed"
    assert not (root / "results").exists()


@pytest.mark.parametrize("minutes", ["0", "-1", "1e9", "nan"])
def test_minutes_that_cannot_be_meant_are_bad_usage(scripts, root, minutes, capsys):
    assert scripts.run.main([f"--minutes={minutes}"], root) == 2
    assert "--minutes" in capsys.readouterr().err


PROBE = """
import json, sys, time
name = sys.argv[1]
def tell(verdict, found): print(json.dumps({"verdict": verdict, "found": found, "details": {"n": 1}}), flush=True)
print("a library says something")
if name != "silent": tell("unproven", "starting")
if name in ("good", "slow"): tell("proven", "seen")
if name == "crash": sys.exit("out of luck")
if name in ("slow", "hangs"): time.sleep(60)
"""


@pytest.mark.parametrize(
    ("name", "verdict", "found"),
    [
        ("good", "proven", "seen"),
        ("slow", "proven", "seen; not done after 12 s"),  # what was seen is not taken back by the clock
        ("hangs", "unproven", "starting; not done after 12 s"),
        ("crash", "failed", "the probe ended with 1: out of luck"),
        ("silent", "failed", "the probe said nothing"),
    ],
)
def test_a_probe_runs_apart_and_within_its_time(scripts, tmp_path, name, verdict, found):
    (tmp_path / "probe.py").write_text(PROBE)
    seconds = 12.0 if name in ("slow", "hangs") else 120.0  # a busy machine takes seconds to start Python
    *_, last = scripts.probing.run_probe(name, seconds, tmp_path / "probe.py")
    assert (last.verdict, last.found) == (verdict, found)


def test_figures_are_read_from_the_records_of_their_scenarios(scripts, root, no_gpu):
    assert scripts.run.main(["--device-dir", "here"], root) == 3
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


def test_a_figure_that_was_not_measured_proves_nothing(scripts):
    figure_of = scripts.proof_figures.figure_of
    assert figure_of("compile-ratio", {"rows": [{"element": "f16", "ratios": {"grid_sample": 2.0}}]}) is None
    assert figure_of("floor-share", {}) is figure_of("graph-ratio", {}) is None


def test_every_command_finds_tests_and_every_scenario_and_probe_is_there(scripts):
    work = scripts.run.load_scenario(BENCHMARKS / "scenarios" / "gpu-proofs.toml").work
    known = {path.stem for path in (BENCHMARKS / "scenarios").glob("*.toml")}
    assert {proof.scenario for proof in work.figures} | {proof.feeds for proof in work.probes} <= known | {""}
    assert {proof.probe for proof in work.probes} == set(scripts.gpu_probes.PROBES)
    assert all(callable(scripts.gpu_probes.load_probe(name)) for name in scripts.gpu_probes.PROBES)
    assert sum(proof.seconds for proof in work.probes if proof.rank < 50) <= 8 * 60
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


ABSENT = (
    "tensorrt", "tensorrt_rtx", "openvino", "modelopt", "torch_pruning", "spandrel", "onnxscript", "accelerate",
    "matplotlib", "jinja2", "pytest", "pynvml",
)  # fmt: skip
BARE = f"""
import importlib.abc, importlib.machinery, runpy, sys
from pathlib import Path
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        on_path = name != "deblur_deploy" or {str(ROOT)!r} in sys.path  # nothing is installed
        if name.split(".")[0] in {ABSENT!r} or not on_path:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return importlib.machinery.PathFinder.find_spec(name, [{str(ROOT)!r}]) if name == "deblur_deploy" else None
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bare(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as on a machine that has few libraries, from a checkout that is not installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = [sys.executable, "-c", BARE, *command]
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.skipif(bool(count_nvidia_gpus()), reason="needs a machine without a GPU")
def test_the_command_runs_to_its_end_without_a_gpu_and_with_few_libraries(tmp_path):
    command = [str(BENCHMARKS / "run.py"), "gpu-proofs", "--minutes", "8", "--device-dir", "here"]
    ended = bare(*command, "--results", str(tmp_path), cwd=tmp_path)

    assert ended.returncode == 3, ended.stderr
    (line,) = (tmp_path / "here" / "gpu-proofs.jsonl").read_text("utf-8").splitlines()
    proofs = json.loads(line)["details"]["proofs"]
    assert len(proofs) >= 24
    assert all(row["verdict"] == "unproven" and "no NVIDIA GPU" in row["found"] for row in proofs)
    lacks = {row["claim"]: row["found"] for row in proofs}
    assert any("tensorrt is not installed" in found or "pytest and tensorrt" in found for found in lacks.values())
    assert any("nvidia-ml-py is not installed" in found for found in lacks.values())
    assert all(row["claim"] in ended.stdout for row in proofs)


def test_every_probe_starts_with_few_libraries(scripts, tmp_path):
    """What a probe imports at its start is there: it comes as far as the device, or to its end."""
    script = "import gpu_probes, network_probes; [gpu_probes.load_probe(name) for name in gpu_probes.PROBES]"
    (tmp_path / "start.py").write_text(
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\nimport checkout\n{script}\n"
    )
    ended = bare(str(tmp_path / "start.py"), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
