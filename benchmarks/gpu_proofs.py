"""What only a GPU can prove of this project: run where there is one; unproven, with the reason, where there is none.

Proofs run in order of value, each in a process of its own and within a budget, so that one that hangs or crashes takes
nothing with it; after each there is a whole record. So a GPU that is lent for minutes proves what it can in them.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from checkout import ROOT
from measurement import Measurement, Target
from probing import LEAST_SECONDS, Finding, run_probe
from proof_figures import Quantity, figure_of
from proof_needs import Need, lacking

from deblur_deploy.core.errors import ConfigError

HEADINGS = ("to prove", "", "found", "command that repeats it", "measured on")
_ORDER = {"proven": 0, "failed": 0, "unproven": 1}
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class ProofByTests:
    """What tests prove that need a GPU.

    Args:
        claim: What they prove.
        tests: What pytest is told to run.
        needs: What it takes beside a GPU.
        rank: Its place in the order of value, the smaller the earlier.
        seconds: What it may take where time is short.
    """

    claim: str
    tests: tuple[str, ...]
    needs: tuple[Need, ...] = ()
    rank: int = 50
    seconds: int = 120

    @property
    def command(self) -> str:
        """What repeats it."""
        return f"python -m pytest {shlex.join(self.tests)}"


@dataclass(frozen=True)
class ProofByProbe:
    """What a program of ours proves on a GPU, with no library but those that it needs itself.

    Args:
        claim: What it proves.
        probe: Which one of :mod:`gpu_probes`.
        needs: What it takes beside a GPU.
        rank: As for :class:`ProofByTests`.
        seconds: What it may take; 0 for all that is left.
        feeds: The scenario whose figures its details have, too; empty where there is none.
    """

    claim: str
    probe: str
    needs: tuple[Need, ...] = ()
    rank: int = 50
    seconds: int = 60
    feeds: str = ""

    @property
    def command(self) -> str:
        """What repeats it."""
        return f"python benchmarks/gpu_probes.py {self.probe}"


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


Proof = ProofByTests | ProofByProbe | ProofByFigure


@dataclass(frozen=True)
class GpuProofs:
    """All that a GPU has to prove. Figures are read from the records of their own scenarios.

    Args:
        tests: What tests prove.
        figures: What figures prove.
        probes: What programs prove.
    """

    tests: tuple[ProofByTests, ...]
    figures: tuple[ProofByFigure, ...]
    probes: tuple[ProofByProbe, ...] = ()

    def __post_init__(self) -> None:
        claims = [proof.claim for proof in (*self.in_order(), *self.figures)]
        if len(set(claims)) != len(claims) or not self.tests:
            raise ConfigError("a GPU is asked for nothing, or for one thing twice", hint="name each claim once")

    def in_order(self) -> list[ProofByTests | ProofByProbe]:
        """Tests and probes in the order in which they run."""
        return sorted((*self.probes, *self.tests), key=lambda proof: proof.rank)

    def measure(self) -> Measurement:
        """Number of claims that are not proven, be it that they failed or that they could not be tried."""
        *_, last = self.measure_in_steps(None)
        return last

    def measure_in_steps(self, minutes: float | None) -> Iterator[Measurement]:
        """As :meth:`measure`, with a whole record after each proof.

        Args:
            minutes: How long all of it may take; None where there is no haste.
        """
        end = None if minutes is None else time.monotonic() + 60 * minutes
        lacks_gpu = lacking(())
        read = lacks_gpu or "read from the latest record of its scenario"
        outcomes = {proof.claim: _row(proof, "unproven", "not reached yet") for proof in self.in_order()}
        outcomes |= {proof.claim: _row(proof, "unproven", read) for proof in self.figures}
        yield self._so_far(outcomes, lacks_gpu)
        for proof in self.in_order():
            for outcome in _outcomes(proof, end):
                outcomes[proof.claim] = outcome
                if isinstance(proof, ProofByProbe) and proof.feeds:
                    outcomes |= self._figures_of(proof.feeds, outcome.get("details", {}))
                yield self._so_far(outcomes, lacks_gpu)

    def _figures_of(self, scenario: str, details: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What a probe's details prove of the figures of a scenario."""
        judged = {proof.claim: _judge_figure(proof, details) for proof in self.figures if proof.scenario == scenario}
        return {claim: row for claim, row in judged.items() if row}

    def _so_far(self, outcomes: Mapping[str, dict[str, Any]], lacks_gpu: str) -> Measurement:
        tried = [outcomes[proof.claim] for proof in self.in_order()]
        counts = {verdict: sum(row["verdict"] == verdict for row in tried) for verdict in _ORDER}
        note = f"claims: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}"
        note += f"; {lacks_gpu}" if lacks_gpu else ""
        details = {"proofs": list(outcomes.values())}
        return Measurement(float(len(tried) - counts["proven"]), "not proven", {}, note, details)


def _outcomes(proof: ProofByTests | ProofByProbe, end: float | None) -> Iterator[dict[str, Any]]:
    """Try a proof; what a probe has found so far comes as an outcome too, the last one counts."""
    if reason := lacking(_needs(proof)):
        yield _row(proof, "unproven", reason)
        return
    left = _TIMEOUT_S if end is None else end - time.monotonic()
    budget = min(left, proof.seconds or left) if end is not None else _TIMEOUT_S
    if budget < LEAST_SECONDS:
        yield _row(proof, "unproven", "the time was up before its turn")
        return
    start = time.monotonic()
    if isinstance(proof, ProofByTests):
        found: Iterator[Finding] = iter([run_tests(proof, budget)])
    else:
        found = run_probe(proof.probe, budget)
    for finding in found:
        row = _row(proof, finding.verdict, finding.found)
        yield row | {"seconds": round(time.monotonic() - start, 1), "details": finding.details}


def _needs(proof: ProofByTests | ProofByProbe) -> tuple[Need, ...]:
    return ("pytest", *proof.needs) if isinstance(proof, ProofByTests) else proof.needs


def run_tests(proof: ProofByTests, seconds: float) -> Finding:
    """Run the tests of a proof, which is unproven where they are not done in time."""
    with TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        # Of pytest's two forms of the report, this one has room for what tests record.
        options = [*proof.tests, "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "-o", "junit_family=xunit1"]
        command = [sys.executable, "-m", "pytest", *options]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *_python_path()])}
        try:
            ended = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return Finding("unproven", f"not done after {seconds:.0f} s")
        if not report.exists():
            return Finding("failed", f"pytest ended with {ended.returncode}: {ended.stderr.strip()[-200:]}")
        return Finding(*read_report(report.read_text(encoding="utf-8")))


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def read_report(text: str) -> tuple[str, str]:
    """Verdict and finding of a run of pytest: proven where tests passed, none failed and none was skipped.

    Args:
        text: What pytest wrote as JUnit XML. Numbers that tests recorded as properties are added up and told.
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
    totals: dict[str, int] = {}
    for item in (item for case in cases for item in case.iter("property")):
        name = str(item.get("name"))
        totals[name] = totals.get(name, 0) + int(str(item.get("value")))
    return "proven", ", ".join([f"{len(cases)} tests passed", *(f"{total} {name}" for name, total in totals.items())])


def render_proofs(work: GpuProofs, devices: Sequence[Mapping[str, Mapping[str, Any]]], name: str) -> dict[str, Any]:
    """The table of proofs: of each, the device that proves it one way or the other, else why there is none.

    Args:
        work: The proofs.
        devices: The latest record of each scenario by its name, for every device.
        name: Of the scenario that runs the tests.
    """
    rows = []
    for proof in (*work.in_order(), *work.figures):
        found = [outcome for records in devices if (outcome := _found(proof, records, name))]
        found.sort(key=lambda pair: _ORDER[pair[0]["verdict"]])
        outcome, device = found[0] if found else (_row(proof, "unproven", "not run yet"), "")
        rows.append([proof.claim, f"**{outcome['verdict']}**", outcome["found"], f"`{proof.command}`", device])
    return {"headings": HEADINGS, "rows": rows}


def _found(proof: Proof, records: Mapping[str, Mapping[str, Any]], name: str) -> tuple[dict[str, Any], str] | None:
    """What one device's records say of a proof, and the device's name; None where they say nothing."""
    if isinstance(proof, ProofByFigure) and (record := records.get(proof.scenario)):
        row = _judge_figure(proof, record["details"])
        if row and record["stable"]:
            return row, _device(record)
    if record := records.get(name):
        rows = [row for row in record["details"]["proofs"] if row["claim"] == proof.claim]
        return (rows[0], _device(record)) if rows else None
    return None


def _judge_figure(proof: ProofByFigure, details: Mapping[str, Any]) -> dict[str, Any] | None:
    """A figure against its bound; None where the details do not have it."""
    figure = figure_of(proof.quantity, details)
    if figure is None:
        return None
    verdict = "proven" if proof.bound.is_met(figure) else "failed"
    return _row(proof, verdict, f"{figure:.2f}×, {proof.bound.describe('×')}")


def _row(proof: Proof, verdict: str, found: str) -> dict[str, Any]:
    return {"claim": proof.claim, "verdict": verdict, "found": found, "command": proof.command}


def _device(record: Mapping[str, Any]) -> str:
    device = record["device"]
    return (device.get("gpu") or {}).get("name") or f"{device['cpu']}, no GPU"


@dataclass(frozen=True)
class Emulation:
    """Claims that tests prove without a GPU.

    Args:
        tests: What they prove.
    """

    tests: tuple[ProofByTests, ...]

    def measure(self) -> Measurement:
        """Number of claims that are not proven."""
        found = [run_tests(proof, _TIMEOUT_S) for proof in self.tests]
        table = {
            "headings": ["claim", "", "found"],
            "rows": [[proof.claim, one.verdict, one.found] for proof, one in zip(self.tests, found, strict=True)],
        }
        proven = sum(one.verdict == "proven" for one in found)
        note = f"{proven} of {len(found)} claims proven"
        return Measurement(float(len(found) - proven), "not proven", {}, note, {"table": table})
