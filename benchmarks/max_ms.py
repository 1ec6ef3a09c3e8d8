"""What pruning to a frame time buys over pruning by shares, how true its predictions are, and how long it searches."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from global_pruning import library_version
from measurement import Measurement
from time_contest import OURS, Entry, TimeContest

from deblur_deploy.config import FitConfig, FrameTimeConfig, PruneConfig, QatConfig, TuningConfig
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.sources import shipped
from deblur_deploy.network.generator import Generator

_PRECISIONS = ("fp32", "int8")
_LEAST_CERTAIN = 0.05
"""Spread of a table that is called unstable, as a share of the times."""

_HEADINGS = ("precision", "as fast as", "way", "ms", "parameters", "dB before tuning", "dB")


@dataclass(frozen=True)
class MaxMs:
    """A shipped generator pruned to the time of uniform pruning, in FP32 and INT8, beside its rivals.

    Args:
        source: Name of a shipped generator.
        keeps: Shares of uniform pruning; the time of each is a budget.
        budgets: For how many budgets predictions are held against measurements.
        runtime: What frames are timed in.
        resolution: Size of the frame.
        images: Evaluation pairs that the scan and the comparison look at.
        side: Longest side of what they look at of each, in pixels.
        fit: Fine-tuning, the same for all.
    """

    source: str
    keeps: tuple[float, ...]
    budgets: int
    runtime: str
    resolution: Resolution
    images: int
    side: int
    fit: FitConfig

    def measure(self) -> Measurement:
        """The least lead in dB over the rivals, with a table of all, the predictions, and the time of the search.

        Raises:
            MissingDependencyError: Torch-Pruning is not installed.
            DeblurDeployError: The network cannot be pruned or timed, or the machine is too noisy.
        """
        from deblur_deploy.pipeline.frame_clock import FrameClock

        version = library_version()  # that a rival is missing is told before anything is timed
        source = load_artifact(shipped("models") / self.source)
        rows: list[dict[str, Any]] = []
        searches: dict[str, dict[str, Any]] = {}
        tuned: dict[str, _Tuned] = {}
        for precision in _PRECISIONS:
            config = self._config(precision)
            with TemporaryDirectory() as folder, FrameClock(source, config) as clock:
                contest = TimeContest(source, config, clock, Path(folder))
                searches[precision] = contest.searched(self.budgets)
                for keep in self.keeps:
                    for entry in contest.entries(keep):
                        key = f"{entry.way} {entry.net.config}"
                        tuned[key] = done = tuned.get(key) or _tune(entry.net, contest.net, config.prune)
                        rows.append(_row(precision, keep, entry, done))
        details = {"model_sha256": source.sha256, "torch_pruning": version, "searches": searches, "outcomes": rows}
        details["table"] = {"headings": _HEADINGS, "rows": [_cells(row) for row in rows]}
        stable = all(found["spread"] <= _LEAST_CERTAIN for found in searches.values())
        return Measurement(min(_leads(rows)), "dB", {}, _note(searches), details, stable)

    def _config(self, precision: str) -> FrameTimeConfig:
        prune = PruneConfig(scan_images=self.images, scan_size=self.side, tuning=TuningConfig(fit=self.fit))
        size = self.resolution
        return FrameTimeConfig(1.0, self.runtime, precision == "int8", size.width, size.height, prune)


@dataclass(frozen=True)
class _Tuned:
    """What a network restores: before the fine-tuning, after it, and after it in INT8."""

    untuned_db: float
    fp32_db: float
    int8_db: float


def _tune(net: Generator, teacher: Generator, config: PruneConfig) -> _Tuned:
    from deblur_deploy.compress.finetune import evaluation_pairs, finetune
    from deblur_deploy.compress.quantize import calibration_frames, plan_scheme, quantize_network
    from deblur_deploy.compress.sensitivity import scan_pairs
    from deblur_deploy.quality.evaluate import evaluate_network

    pairs = scan_pairs(evaluation_pairs(config.tuning), config.scan_images, config.scan_size)
    net = copy.deepcopy(net)
    untuned_db = evaluate_network(net, pairs)
    finetune(net, teacher, config.tuning, None)
    fp32_db = evaluate_network(net, pairs)
    quick = QatConfig(calibration_images=1, tuning=config.tuning)
    quantize_network(net, dataclasses.asdict(plan_scheme(net, quick)), calibration_frames(quick))
    return _Tuned(untuned_db, fp32_db, evaluate_network(net, pairs))


def _row(precision: str, keep: float, entry: Entry, tuned: _Tuned) -> dict[str, Any]:
    return {
        "precision": precision,
        "keep": keep,
        "way": entry.way,
        "ms": entry.ms,
        "params": sum(array.numel() for array in entry.net.parameters()),
        "psnr_untuned_db": tuned.untuned_db,
        "psnr_db": tuned.int8_db if precision == "int8" else tuned.fp32_db,
    }


def _leads(rows: list[dict[str, Any]]) -> list[float]:
    """By how many dB ours is ahead of each rival at the same precision and time."""
    ours = {(row["precision"], row["keep"]): row["psnr_db"] for row in rows if row["way"] == OURS}
    return [ours[row["precision"], row["keep"]] - row["psnr_db"] for row in rows if row["way"] != OURS]


def _note(searches: dict[str, dict[str, Any]]) -> str:
    parts = []
    for precision, found in searches.items():
        seconds, error = found["seconds"], found["error"]
        parts.append(
            f"{precision}: predictions {error['median']:.1%} off in the median, {error['worst']:.1%} at worst, table "
            f"of {found['networks']} networks in {seconds['table']:.0f} s, solved in {seconds['solve']:.1f} s"
        )
    return "the least lead over all rivals; " + "; ".join(parts)


def _cells(row: dict[str, Any]) -> list[str]:
    decibels = (f"{row[name]:.2f}" for name in ("psnr_untuned_db", "psnr_db"))
    return [row["precision"], f"{row['keep']:.0%}", row["way"], f"{row['ms']:.1f}", f"{row['params']:,}", *decibels]
