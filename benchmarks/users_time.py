"""What a user waits for: commands, the demo with the share of every stage, and setting up."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measurement import Measurement

from deblur_deploy.core.errors import DeblurDeployError, MissingDependencyError
from deblur_deploy.core.sources import shipped

ROOT = Path(__file__).parent.parent
_PROGRAM = (sys.executable, "-m", "deblur_deploy.cli")
_SMALL = (96, 64)
_BEGINNINGS = re.compile(r"running   (?P<stage>\S+) …|(?P<work>measuring latency|writing the report) …")


@dataclass(frozen=True)
class Commands:
    """Whole commands on the shipped generator, from the start of the process to its end.

    Args:
        limits_s: Seconds that each may take, by its arguments; ``{picture}`` stands for a small photograph, and every
            command writes into a folder of its own.
        runs: Number of timed runs of each; one before them is not timed.
    """

    limits_s: dict[str, float]
    runs: int

    def measure(self) -> Measurement:
        """The largest share of its limit that a command takes."""
        samples: dict[str, list[float]] = {name: [] for name in self.limits_s}
        with TemporaryDirectory() as name:
            folder = Path(name)
            picture = _write_small_picture(folder / "small.png")
            for run in range(self.runs + 1):
                for command in self.limits_s:
                    arguments = command.replace("{picture}", str(picture)).split()
                    taken = _seconds([*_PROGRAM, *arguments], folder / f"{run}-{len(samples[command])}")
                    if run:
                        samples[command].append(1000 * taken)
        medians = {command: statistics.median(taken) / 1000 for command, taken in samples.items()}
        shares = {command: medians[command] / limit for command, limit in self.limits_s.items()}
        note = "; ".join(f"{name} {medians[name]:.2f} s of {limit:g} s" for name, limit in self.limits_s.items())
        rows = [[name, f"{medians[name]:.2f}", f"{limit:g}"] for name, limit in self.limits_s.items()]
        details = {"table": {"headings": ("command", "median s", "limit s"), "rows": rows}}
        return Measurement(max(shares.values()), "of the limit", dict(samples), note, details)


@dataclass(frozen=True)
class Demo:
    """``deblur-deploy demo`` from its start to its end, with the share of every stage.

    Args:
        quick: With ``--quick``.
    """

    quick: bool

    def measure(self) -> Measurement:
        """Seconds of one run."""
        with TemporaryDirectory() as name:
            command = [*_PROGRAM, "demo", "--runs", name, *(["--quick"] if self.quick else [])]
            total, stages = _timed_stages(command)
            (summary,) = Path(name).rglob("summary.md")  # the table that README has
            shown = summary.read_text(encoding="utf-8")
        rows = [[stage, f"{taken:.1f}", f"{taken / total:.0%}"] for stage, taken in stages.items()]
        note = ", ".join(f"{stage} {taken / total:.0%}" for stage, taken in stages.items())
        table = {"headings": ("stage", "s", "share"), "rows": rows}
        details = {"stages_s": stages, "summary": shown, "table": table}
        return Measurement(total, "s", {"demo": [1000 * total]}, note, details)


@dataclass(frozen=True)
class SetUp:
    """``make`` from a fresh copy of the source to an environment that is ready; packages are pip's, or in its cache.

    Args:
        target: The file that make is to make: the environment of the demo, or of the tests.
    """

    target: str

    def measure(self) -> Measurement:
        """Seconds of one run."""
        if shutil.which("make") is None:
            raise MissingDependencyError("make is not installed", hint="install make")
        with TemporaryDirectory() as name:
            copy = Path(name) / "source"
            ignored = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", "dist", ".*_cache")
            shutil.copytree(ROOT, copy, ignore=ignored)
            started = time.perf_counter()
            ran = subprocess.run(["make", "-C", str(copy), self.target], capture_output=True, text=True)
            total = time.perf_counter() - started
            if ran.returncode:
                raise DeblurDeployError(f"make {self.target} failed: {ran.stderr[-300:]}", hint="see pip's own words")
            size = sum(path.stat().st_size for path in (copy / ".venv").rglob("*") if path.is_file())
        note = f"{size / 1e9:.2f} GB on disk"
        return Measurement(total, "s", {self.target: [1000 * total]}, note, {"bytes": size})


def _write_small_picture(path: Path) -> Path:
    """A corner of a shipped photograph."""
    from PIL import Image

    source = next(iter(sorted((shipped("calibration") / "photos" / "images").glob("*.png"))))
    with Image.open(source) as photograph:
        photograph.convert("RGB").crop((0, 0, *_SMALL)).save(path)
    return path


def _seconds(command: list[str], runs: Path) -> float:
    """Wall time of a command that must succeed; those that write get a place for it."""
    if command[len(_PROGRAM)] != "inspect":
        command = [*command, *(["--out", str(runs)] if command[len(_PROGRAM)] == "infer" else ["--runs", str(runs)])]
    started = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    taken = time.perf_counter() - started
    if ran.returncode:
        raise DeblurDeployError(
            f"{' '.join(command[len(_PROGRAM) :])} failed: {ran.stderr[-300:]}", hint="run it alone"
        )
    return taken


def _timed_stages(command: list[str]) -> tuple[float, dict[str, float]]:
    """Seconds of the demo, in all and from the line with which each stage begins to that of the next."""
    started = time.perf_counter()
    begun: dict[str, float] = {"start": started}
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            said.append(line)
            if found := _BEGINNINGS.match(line):
                begun[found["stage"] or found["work"]] = time.perf_counter()
    ended = time.perf_counter()
    if demo.returncode:
        raise DeblurDeployError(f"the demo failed: {''.join(said[-5:])}", hint="run `deblur-deploy demo` alone")
    moments: list[Any] = [*begun.values(), ended]
    return ended - started, {name: moments[i + 1] - moment for i, (name, moment) in enumerate(begun.items())}
