"""What only a GPU can prove of this project: run where there is one; unproven, with the reason, where there is none."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from measurement import Measurement
from proof_figures import Quantity, figure_of
from target import Target

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.runtime.nvidia import find_gpu

Need = Literal["compute-sanitizer", "tensorrt", "tensorrt-rtx", "nvcc"]

HEADINGS = ("to prove", "", "found", "command that repeats it", "measured on")
_MODULES: Mapping[Need, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_ORDER = {"proven": 0, "failed": 0, "unproven": 1}
_TIMEOUT_S = 1800
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class ProofByTests:
    """What tests prove that need a GPU.

    Args:
        claim: What they prove.
        tests: What pytest is told to run.
        needs: What it takes beside a GPU.
    """

    claim: str
    tests: tuple[str, ...]
    needs: tuple[Need, ...] = ()

    @property
    def command(self) -> str:
        """What repeats it."""
        return f"python -m pytest {shlex.join(self.tests)}"


@dataclass(frozen=True)
class ProofByFigure:
    """What a figure of another scenario proves, measured on a GPU.

    Args:
        claim: What it proves.
        scenario: Which one measures it.
        quantity: Which of its figures that is.
        bound: What it must be.
    """

    claim: str
    scenario: str
    quantity: Quantity
    bound: Target

    @property
    def command(self) -> str:
        """What repeats it."""
        return f"python benchmarks/run.py {self.scenario}"


@dataclass(frozen=True)
class GpuProofs:
    """All that a GPU has to prove. Figures are read from the records of their own scenarios.

    Args:
        tests: What tests prove.
        figures: What figures prove.
    """

    tests: tuple[ProofByTests, ...]
    figures: tuple[ProofByFigure, ...]

    def __post_init__(self) -> None:
        claims = [proof.claim for proof in (*self.tests, *self.figures)]
        if len(set(claims)) != len(claims) or not self.tests:
            raise ConfigError("a GPU is asked for nothing, or for one thing twice", hint="name each claim once")

    def measure(self) -> Measurement:
        """Number of claims that tests have not proven, be it that they failed or that they could not be run."""
        gpu = find_gpu()
        no_gpu = None if gpu else "this machine has no NVIDIA GPU"
        tested = [_outcome(proof, no_gpu) for proof in self.tests]
        read = no_gpu or "read from the latest record of its scenario"
        counts = {verdict: sum(row["verdict"] == verdict for row in tested) for verdict in _ORDER}
        note = f"tests: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}"
        note += f"; {no_gpu}" if no_gpu else ""
        outcomes = [*tested, *(_row(proof, "unproven", read) for proof in self.figures)]
        return Measurement(float(len(tested) - counts["proven"]), "not proven", {}, note, {"proofs": outcomes})


def _outcome(proof: ProofByTests, no_gpu: str | None) -> dict[str, str]:
    """Run the tests where that can be done."""
    reason = no_gpu or next((f"{need} is not installed" for need in proof.needs if not _has(need)), None)
    if reason:
        return _row(proof, "unproven", reason)
    with TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        options = [*proof.tests, "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", *options]
        try:
            ended = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return _row(proof, "failed", f"not done after {_TIMEOUT_S} s")
        if not report.exists():
            return _row(proof, "failed", f"pytest ended with {ended.returncode}: {ended.stderr.strip()[-200:]}")
        return _row(proof, *read_report(report.read_text(encoding="utf-8")))


def read_report(text: str) -> tuple[str, str]:
    """Verdict and finding of a run of pytest: proven where tests passed, none failed and none was skipped.

    Args:
        text: What pytest wrote as JUnit XML.
    """
    cases = list(ElementTree.fromstring(text).iter("testcase"))
    broken = [case for case in cases if any(child.tag in ("failure", "error") for child in case)]
    reasons = [str(child.get("message")) for case in cases for child in case if child.tag == "skipped"]
    if not cases:
        return "unproven", "no test was found"
    if broken:
        return "failed", f"{len(broken)} of {len(cases)} tests failed, the first is {broken[0].get('name')}"
    if reasons:
        return "unproven", f"{len(reasons)} of {len(cases)} tests skipped: {reasons[0]}"
    return "proven", f"{len(cases)} tests passed"


def render_proofs(work: GpuProofs, devices: Sequence[Mapping[str, Mapping[str, Any]]], name: str) -> dict[str, Any]:
    """The table of proofs: of each, the device that proves it one way or the other, else why there is none.

    Args:
        work: The proofs.
        devices: The latest record of each scenario by its name, for every device.
        name: Of the scenario that runs the tests.
    """
    rows = []
    for proof in (*work.tests, *work.figures):
        found = [outcome for records in devices if (outcome := _found(proof, records, name))]
        found.sort(key=lambda pair: _ORDER[pair[0]["verdict"]])
        outcome, device = found[0] if found else (_row(proof, "unproven", "not run yet"), "")
        rows.append([proof.claim, f"**{outcome['verdict']}**", outcome["found"], f"`{proof.command}`", device])
    return {"headings": HEADINGS, "rows": rows}


def _found(
    proof: ProofByTests | ProofByFigure, records: Mapping[str, Mapping[str, Any]], name: str
) -> tuple[dict[str, str], str] | None:
    """What one device's records say of a proof, and the device's name; None where they say nothing."""
    if isinstance(proof, ProofByFigure) and (record := records.get(proof.scenario)):
        figure = figure_of(proof.quantity, record["details"])
        if figure is not None and record["stable"]:
            verdict = "proven" if proof.bound.is_met(figure) else "failed"
            return _row(proof, verdict, f"{figure:.2f}×, {proof.bound.describe('×')}"), _device(record)
    if record := records.get(name):
        rows = [row for row in record["details"]["proofs"] if row["claim"] == proof.claim]
        return (rows[0], _device(record)) if rows else None
    return None


def _row(proof: ProofByTests | ProofByFigure, verdict: str, found: str) -> dict[str, str]:
    return {"claim": proof.claim, "verdict": verdict, "found": found, "command": proof.command}


def _device(record: Mapping[str, Any]) -> str:
    device = record["device"]
    return (device.get("gpu") or {}).get("name") or f"{device['cpu']}, no GPU"


def _has(need: Need) -> bool:
    module = _MODULES.get(need)
    return importlib.util.find_spec(module) is not None if module else shutil.which(need) is not None
