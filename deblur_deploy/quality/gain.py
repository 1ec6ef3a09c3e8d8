"""What compression leaves of a generator's worth: dB lost, and the share kept of its gain over the blurred input.

"0.15 dB lost" says little by itself: of a gain of 3 dB it is a twentieth, of one of 0.6 dB a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deblur_deploy.core.artifact import Step
from deblur_deploy.quality.decibels import bounded_db

SMALL_GAIN_DB = 0.2
"""A gain of the original below this is too small to take a share of."""

TOO_SMALL = "too small to tell"
"""Shown in tables instead of the share of such a gain."""

COMPRESSING = ("prune", "qat")
"""Stages that change what a network restores, and are fine-tuned for it."""

TRAINING = "train"
"""The stage that makes a generator."""


def lost_db(before_db: float | None, after_db: float | None) -> float:
    """PSNR lost between two evaluations on the same pairs in dB; below zero where quality rose.

    Args:
        before_db: Mean PSNR; infinite, or None as manifests have it, where every picture was equal to the sharp one.
        after_db: The same after a change.
    """
    return bounded_db(before_db) - bounded_db(after_db)


def gain_kept(psnr_db: float | None, original_db: float | None, blurred_db: float | None) -> float | None:
    """Share of the original's gain that is kept, ``(PSNR - blurred) / (original - blurred)``.

    Args:
        psnr_db: Mean PSNR of the compressed network; infinite or None as in :func:`lost_db`.
        original_db: That of the network it was made from, on the same pairs.
        blurred_db: That of the blurred pictures.

    Returns:
        1 where nothing is lost, below 0 where the result is worse than the blurred input. None where the original gains
        less than ``SMALL_GAIN_DB``, or does harm: there is nothing of which a share could be told.
    """
    gain = -lost_db(blurred_db, original_db)
    return -lost_db(blurred_db, psnr_db) / gain if gain >= SMALL_GAIN_DB else None


def format_share(share: float | None) -> str:
    """A share of the gain in a table: whole percent, or that the gain is too small."""
    return TOO_SMALL if share is None else f"{share:.0%}"


def format_db(psnr_db: float | None, digits: int = 2) -> str:
    """A mean PSNR in a table, without its unit; ``∞`` where every picture was equal to the sharp one."""
    return "∞" if psnr_db is None or math.isinf(psnr_db) else f"{psnr_db:.{digits}f}"


def same_pairs(figures: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two evaluations can be of the same pairs: their blurred pictures score the same.

    Args:
        figures: Figures of a step that was evaluated. Old manifests lack ``psnr_blurred_db``, and any pairs fit them.
        other: Figures of another.
    """
    if "psnr_db" not in figures or "psnr_db" not in other:
        return False
    return same_blurred(blurred_of(figures), blurred_of(other))


def same_blurred(blurred_db: float | None, other_db: float | None) -> bool:
    """Whether two mean PSNRs of blurred pictures can be those of the same pictures; None is not known."""
    return blurred_db is None or other_db is None or math.isclose(blurred_db, other_db, abs_tol=1e-6)


def blurred_of(figures: Mapping[str, Any]) -> float | None:
    """PSNR of the blurred pictures that a step was evaluated on, to calculate with; None in old manifests."""
    return bounded_db(figures["psnr_blurred_db"]) if "psnr_blurred_db" in figures else None


def gain_figures(quality: Mapping[str, Any], original_db: float | None) -> dict[str, Any]:
    """A manifest's figures for a compressed network's gain.

    Args:
        quality: ``psnr_db`` and ``psnr_blurred_db`` of the compressed network.
        original_db: PSNR of the original on the same pairs.

    Returns:
        ``psnr_original_db`` and ``gain_kept``.
    """
    share = gain_kept(quality["psnr_db"], original_db, quality["psnr_blurred_db"])
    return {"psnr_original_db": original_db, "gain_kept": share}


def original_quality(history: Sequence[Step], quality: Mapping[str, Any]) -> dict[str, Any] | None:
    """The evaluation of the network that compression began with, on the pairs of another evaluation.

    Args:
        history: Steps of a network, oldest first.
        quality: ``psnr_db`` and ``psnr_blurred_db`` of the network that they led to.

    Returns:
        ``psnr_db`` and ``psnr_blurred_db`` of the original; None where it was never evaluated on these pairs, or where
        nothing was compressed.
    """
    # A pruned network that was trained on is a generator of its own, such as a smaller one made from a large one.
    trained = max((index for index, step in enumerate(history) if step.stage == TRAINING), default=0)
    if not any(step.stage in COMPRESSING for step in history[trained:]) or "psnr_blurred_db" not in quality:
        return None
    before: dict[str, Any] | None = None
    for step in history[trained:]:
        figures = step.figures
        if step.stage in COMPRESSING:
            if before is None and "psnr_original_db" in figures and same_pairs(figures, quality):
                before = {**figures, "psnr_db": figures["psnr_original_db"]}
            break
        if "psnr_blurred_db" in figures and same_pairs(figures, quality):
            before = dict(figures)
    return before


def gain_of(history: Sequence[Step], quality: Mapping[str, Any]) -> dict[str, Any]:
    """The same as :func:`gain_figures`, with the original taken from a history; nothing where that does not say.

    Args:
        history: Steps of a network, oldest first.
        quality: ``psnr_db`` and ``psnr_blurred_db`` of the network that they led to.
    """
    original = original_quality(history, quality)
    return {} if original is None else gain_figures(quality, original["psnr_db"])
