"""The network that a compressed one learns from, and how good it is, reported before minutes of training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.data.pairs import Pair
from deblur_deploy.quality.evaluate import evaluate_network, pairs_psnr_db
from deblur_deploy.quality.gain import gain_figures, lost_db, original_quality

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """What a teacher does to the evaluation pairs.

    Args:
        psnr_db: Mean PSNR of what it restores; infinite where every picture comes out equal to the sharp one.
        blurred_db: Mean PSNR of the blurred pictures.
        original_db: That of the network that compression began with: the teacher itself, unless it was compressed
            before and says so.
    """

    psnr_db: float
    blurred_db: float
    original_db: float | None

    def figures(self, quality: dict[str, Any]) -> dict[str, Any]:
        """What a manifest says of a network made from it: ``drop_db``, ``psnr_original_db`` and ``gain_kept``.

        Args:
            quality: ``psnr_db`` and ``psnr_blurred_db`` of that network.
        """
        return {"drop_db": lost_db(self.psnr_db, quality["psnr_db"]), **gain_figures(quality, self.original_db)}


def measure_teacher(source: Artifact, net: nn.Module, pairs: Sequence[Pair]) -> Teacher:
    """Evaluate a teacher, and warn where its pictures are worse than the blurred ones.

    Args:
        source: The artifact that it was read from.
        net: The network.
        pairs: What figures are quoted on.

    Raises:
        ConfigError: There are no pairs.
        VerificationError: The network gives NaN or infinite values.
    """
    restored = evaluate_network(net, pairs)
    blurred = pairs_psnr_db(pairs)
    if restored < blurred:
        _log.warning(
            "warning   %s does harm: what it restores has %.2f dB, and the blurred pictures have %.2f dB (mean of %d); "
            "a network that is made from it learns that",
            source.path,
            restored,
            blurred,
            len(pairs),
        )
    earlier = original_quality(source.history, {"psnr_db": restored, "psnr_blurred_db": blurred})
    return Teacher(restored, blurred, earlier["psnr_db"] if earlier else restored)
