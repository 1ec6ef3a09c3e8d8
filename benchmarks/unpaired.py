"""Training on blurred footage without its sharp twins, measured on those twins afterwards.

The pictures are not in this repository: ``--pairs`` names them, and ``--photos`` sharp photographs of something else.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measurement import Measurement

from deblur_deploy.config import RunConfig, TrainConfig, UnpairedConfig
from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.sources import shipped
from deblur_deploy.data.pairs import PairsOnDisk, pair_files
from deblur_deploy.training.train import state_folder, train

RUNS = Path(__file__).parents[1] / "runs" / "benchmarks"
"""Where the state of the training is kept, so that it goes on where it was stopped."""

_HEADINGS = ("", "dB on the footage's pairs", "SSIM (matlab)", "pixels that overshoot", "dB on the shipped pairs")


@dataclass(frozen=True)
class Unpaired:
    """A shipped generator through ``train --unpaired``.

    Args:
        model: Name of the generator under ``models/``.
        train: The recipe; photographs and footage are those that are given.
        pairs: Folder of blurred and sharp pictures; only the blurred ones are trained on.
        photos: Folder of sharp photographs.
    """

    model: str
    train: TrainConfig
    pairs: Path | None = None
    photos: Path | None = None

    def measure(self) -> Measurement:
        """PSNR on the pairs after training less that before it."""
        if self.pairs is None or self.photos is None:
            raise ConfigError("the pictures are not here", hint="give --pairs and --photos")
        source = load_artifact(shipped("models") / self.model)
        tuned = self._tuned(source, _footage_of(self.pairs), self.photos)
        found = tuned.figures["unpaired"]
        before, after = (self._quality(artifact) for artifact in (source, tuned))
        shipped_db = {"before": found["checks"][0][1], "after": tuned.figures["psnr_db"]}
        rows = [_cells(name, row, shipped_db[name]) for name, row in (("before", before), ("after", after))]
        turned = "" if found["turned_at"] is None else f", turned at step {found['turned_at']}"
        note = (
            f"{before['psnr_blurred_db']:.2f} dB blurred, {before['psnr_db']:.2f} dB before, {after['psnr_db']:.2f} dB "
            f"after {found['kept_step']} of {self.train.fit.steps} steps{turned}"
        )
        details = {"before": before, "after": after, "guard": found}
        details["table"] = {"headings": _HEADINGS, "rows": rows}
        return Measurement(after["psnr_db"] - before["psnr_db"], "dB", {}, note, details)

    def _tuned(self, source: Artifact, footage: Path, photos: Path) -> Artifact:
        """The generator after training; a run that was stopped goes on."""
        out = RUNS / f"unpaired-{self.model}"
        shutil.rmtree(out, ignore_errors=True)
        unpaired = dataclasses.replace(self.train.unpaired or UnpairedConfig(), blurred=str(footage))
        recipe = dataclasses.replace(self.train, photos=str(photos), unpaired=unpaired)
        run = RunConfig(resume=any(state_folder(out).glob("state-*")), save_minutes=2.0, workers=0)
        return train(source, recipe, out, _tell, run)

    def _quality(self, artifact: Artifact) -> dict[str, Any]:
        """On the pairs, and what can be seen without the sharp twins."""
        from deblur_deploy.quality.evaluate import artifact_quality
        from deblur_deploy.quality.evaluate_blurred import evaluate_blurred

        assert self.pairs is not None
        files = [pair.blurred for pair in pair_files(self.pairs, "evaluation")]
        overshoot = evaluate_blurred(artifact, files).overshoot_share
        return artifact_quality(artifact, PairsOnDisk(self.pairs)) | {"overshoot_share": overshoot}


def _footage_of(pairs: Path) -> Path:
    """The folder of the blurred pictures."""
    folders = {pair.blurred.parent for pair in pair_files(pairs, "evaluation")}
    if len(folders) != 1:
        raise ConfigError(
            f"{pairs} has {len(folders)} folders of blurred pictures", hint="give one with blur/ and sharp/"
        )
    return folders.pop()


def _cells(name: str, quality: dict[str, Any], shipped_db: float) -> list[str]:
    figures = [f"{quality['psnr_db']:.2f}", f"{quality['ssim_matlab']:.4f}", f"{quality['overshoot_share']:.2%}"]
    return [name, *figures, f"{shipped_db:.2f}"]


def _tell(step: int, steps: int, loss: float) -> None:
    if step % 10 == 0 or step == steps:
        print(f"step {step} of {steps}, loss {loss:.4f}", flush=True)
