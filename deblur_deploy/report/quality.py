"""Picture quality as manifests keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deblur_deploy.core.artifact import Step
from deblur_deploy.quality.gain import blurred_of
from deblur_deploy.quality.metrics import bounded_db


@dataclass(frozen=True)
class Quality:
    """What a step's evaluation found.

    Args:
        stage: Stage that was evaluated.
        psnr_db: Mean PSNR of the restored photographs in dB, 100 where all were equal to the sharp ones.
        blurred_db: Mean PSNR of the blurred photographs that went in, or None in old manifests.
        images: Number of photographs, or None in old manifests.
    """

    stage: str
    psnr_db: float
    blurred_db: float | None
    images: int | None


def last_quality(history: Sequence[Step]) -> Quality | None:
    """The evaluation of the latest step that has one; None where nothing was evaluated.

    Args:
        history: An artifact's steps, oldest first.
    """
    for step in reversed(history):
        figures = step.figures
        if "psnr_db" in figures:
            psnr_db, images = bounded_db(figures["psnr_db"]), figures.get("evaluation_images")
            return Quality(step.stage, psnr_db, blurred_of(figures), images)
    return None
