"""Picture quality as manifests keep it, and which of two figures may be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deblur_deploy.core.artifact import Step


@dataclass(frozen=True)
class Quality:
    """What a step's evaluation found.

    Args:
        stage: Stage that was evaluated.
        psnr_db: Mean PSNR of the restored photographs in dB.
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
        psnr_db = step.figures.get("psnr_db")
        if psnr_db is not None:
            return Quality(
                step.stage, psnr_db, step.figures.get("psnr_blurred_db"), step.figures.get("evaluation_images")
            )
    return None


def comparable(before: Mapping[str, Any], figures: Mapping[str, Any]) -> bool:
    """Whether two steps were evaluated on the same pairs: the blurred ones score the same. Old manifests do not say.

    Args:
        before: Figures of one step.
        figures: Figures of the other.
    """
    if "psnr_db" not in before or "psnr_db" not in figures:
        return False
    return same_pairs(before.get("psnr_blurred_db"), figures.get("psnr_blurred_db"))


def same_pairs(blurred_db: float | None, other_db: float | None) -> bool:
    """Whether two PSNR of blurred photographs can be those of the same pairs; None is not known."""
    return blurred_db is None or other_db is None or math.isclose(blurred_db, other_db, abs_tol=1e-6)
