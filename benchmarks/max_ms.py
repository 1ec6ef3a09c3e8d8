"""What pruning to a frame time buys over pruning by shares, how true its predictions are, and how long it searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from global_pruning import library_version
from measurement import Measurement
from time_contest import OURS, OURS_FASTER, Entry, TimeContest
from tuned import Restored, Tuner

from deblur_deploy.config import FrameTimeConfig, PruneConfig, TuningConfig
from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.sources import shipped
from deblur_deploy.data.pairs import Pair, sharp_files

PRECISIONS = ("fp32", "int8")
LEAST_CERTAIN = 0.05
"""Spread of a table that is called unstable, as a share of the times."""

_HEADINGS = ("precision", "as fast as", "way", "ms", "parameters", "dB before tuning", "dB")


@dataclass(frozen=True)
class MaxMs:
    """A network pruned to the time of uniform pruning, in FP32 and INT8, beside its rivals.

    Args:
        keeps: Shares of uniform pruning; the time of each is a budget.
        budgets: For how many budgets predictions are held against measurements.
        runtime: What frames are timed in.
        resolution: Size of the frame.
        images: Evaluation pairs that the scan looks at; the others are what the networks are compared on.
        side: Longest side of what is looked at of each, in pixels.
        tuning: Fine-tuning, the same for all.
        learned: On how many of the photographs that are given the networks learn.
        source: Name of a shipped generator.
        arch: Instead of one, a name in the table of architectures, whose published weights are given.
        weights: The checkpoint of the latter.
        pairs: Its folder of blurred and sharp pictures.
        photos: Its folder of sharp photographs to learn on.
    """

    keeps: tuple[float, ...]
    budgets: int
    runtime: str
    resolution: Resolution
    images: int
    side: int
    tuning: TuningConfig
    learned: int = 16
    source: str = ""
    arch: str = ""
    weights: Path | None = None
    pairs: Path | None = None
    photos: Path | None = None

    def __post_init__(self) -> None:
        if bool(self.source) == bool(self.arch):
            raise ConfigError("max-ms needs one network", hint="give source, or arch")
        if self.source and (self.weights or self.pairs or self.photos):
            raise ConfigError(f"{self.source} comes with all that is needed", hint="leave --weights and the like out")

    def measure(self) -> Measurement:
        """The least lead in dB over the rivals, with a table of all, the predictions, and the time of the search.

        Raises:
            MissingDependencyError: Torch-Pruning is not installed.
            DeblurDeployError: The network cannot be pruned or timed, or the machine is too noisy.
        """
        version = library_version()  # that a rival is missing is told before anything is timed
        with TemporaryDirectory() as folder:
            source = self._artifact(Path(folder) / "source")
            rows, searches = self._contested(source, Path(folder))
        details = {"model_sha256": source.sha256, "torch_pruning": version, "searches": searches, "outcomes": rows}
        details["table"] = {"headings": _HEADINGS, "rows": [_cells(row) for row in rows]}
        stable = all(found["spread"] <= LEAST_CERTAIN for found in searches.values())
        return Measurement(min(leads(rows)), "dB", {}, _note(rows, searches), details, stable)

    def _artifact(self, out: Path) -> Artifact:
        from deblur_deploy.network.checkpoint import import_checkpoint

        if self.source:
            return load_artifact(shipped("models") / self.source)
        if self.weights is None or self.pairs is None or self.photos is None:
            raise ConfigError("the weights and the pictures are not here", hint="give --weights, --pairs and --photos")
        return import_checkpoint(self.weights, self.arch, out)

    def _tuning(self, folder: Path) -> TuningConfig:
        """The fine-tuning on what was given: a few of the photographs, so that they are read in no time."""
        if self.photos is None:
            return self.tuning
        folder.mkdir()
        for photo in sharp_files(self.photos, "calibration")[: self.learned]:
            (folder / photo.name).symlink_to(photo.resolve())
        return replace(self.tuning, photos=str(folder), evaluation=str(self.pairs))

    def _contested(self, source: Artifact, folder: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
        """A row for each network of the contest, and the searches by precision."""
        from deblur_deploy.pipeline.frame_clock import FrameClock

        rows: list[dict[str, Any]] = []
        searches: dict[str, dict[str, Any]] = {}
        contest: TimeContest | None = None
        tuner: Tuner | None = None
        prune = PruneConfig(scan_images=self.images, scan_size=self.side, tuning=self._tuning(folder / "photos"))
        for precision in PRECISIONS:
            int8, size = precision == "int8", self.resolution
            config = FrameTimeConfig(1.0, self.runtime, int8, size.width, size.height, prune)
            with FrameClock(source, config) as clock:
                contest = TimeContest(source, config, clock, folder / f"{precision}.json", contest)
                tuner = tuner or Tuner(contest.net, prune.tuning, _judged(prune))
                searches[precision] = contest.searched(self.budgets)
                for keep in self.keeps:
                    for entry in contest.entries(keep):
                        restored = tuner.restored(f"{entry.way} {entry.net.config}", entry.net, int8)
                        rows.append(_row(precision, keep, entry, restored))
        return rows, searches


def _judged(config: PruneConfig) -> Sequence[Pair]:
    """The middle of the pairs that the scan does not see; of all of them where it sees all."""
    from deblur_deploy.compress.finetune import evaluation_pairs
    from deblur_deploy.compress.sensitivity import scan_pairs

    pairs = evaluation_pairs(config.tuning)
    unseen = pairs[config.scan_images :] or pairs
    return scan_pairs(unseen, len(unseen), config.scan_size)


def _row(precision: str, keep: float, entry: Entry, restored: Restored) -> dict[str, Any]:
    return {
        "precision": precision,
        "keep": keep,
        "way": entry.way,
        "ms": entry.ms,
        "params": sum(array.numel() for array in entry.net.parameters()),
        "psnr_untuned_db": restored.untuned_db,
        "psnr_db": restored.psnr_db,
    }


def leads(rows: Sequence[dict[str, Any]], way: str = OURS) -> list[float]:
    """By how many dB a way is ahead of each rival at the same precision and budget.

    Args:
        rows: All networks of the contest.
        way: :data:`OURS` at the same time, or :data:`OURS_FASTER` in 85 % of it.
    """
    ours = {(row["precision"], row["keep"]): row["psnr_db"] for row in rows if row["way"] == way}
    rivals = [row for row in rows if row["way"] not in (OURS, OURS_FASTER)]
    return [ours[row["precision"], row["keep"]] - row["psnr_db"] for row in rivals]


def _note(rows: Sequence[dict[str, Any]], searches: dict[str, dict[str, Any]]) -> str:
    faster = leads(rows, OURS_FASTER)
    parts = [
        f"the least lead over {len(faster)} rivals at equal time; in 85 % of the time it is as good as "
        f"{sum(lead >= 0 for lead in faster)} of them"
    ]
    parts += [f"{precision}: {search_note(found)}" for precision, found in searches.items()]
    return "; ".join(parts)


def search_note(found: dict[str, Any]) -> str:
    """One search in words: predictions, table and solution."""
    seconds, error = found["seconds"], found["error"]
    return (
        f"predictions {error['median']:.1%} off in the median, {error['worst']:.1%} at worst, table of "
        f"{found['networks']} networks in {seconds['table']:.0f} s, scan in {seconds['scan']:.0f} s, solved in "
        f"{seconds['solve']:.1f} s"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    decibels = (f"{row[name]:.2f}" for name in ("psnr_untuned_db", "psnr_db"))
    return [row["precision"], f"{row['keep']:.0%}", row["way"], f"{row['ms']:.1f}", f"{row['params']:,}", *decibels]
