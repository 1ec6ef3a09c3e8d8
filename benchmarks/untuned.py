"""A generator made smaller for timing only: latency does not depend on the values of the weights."""

from __future__ import annotations

from pathlib import Path

from deblur_deploy.artifact import Artifact
from deblur_deploy.config import FitConfig, PruneConfig, QatConfig, TuningConfig


def compress_untuned(original: Artifact, keep: float, folder: Path) -> tuple[Artifact, Artifact]:
    """Prune and quantize to INT8, both without fine-tuning.

    Args:
        original: A float checkpoint.
        keep: Share of the channels to keep.
        folder: Where to write.

    Returns:
        The pruned checkpoint, and the quantized one.
    """
    from deblur_deploy.compress.prune import prune
    from deblur_deploy.compress.quantize import qat

    untuned = TuningConfig(fit=FitConfig(steps=0, crop=128))
    pruned = prune(original, PruneConfig(keep=keep, tuning=untuned), folder / "prune")
    return pruned, qat(pruned, QatConfig(tuning=untuned), folder / "qat")
