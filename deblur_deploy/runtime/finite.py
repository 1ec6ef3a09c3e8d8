"""Restoring a photograph whose quality is going to be measured: what is no number has none."""

from __future__ import annotations

import numpy as np

from deblur_deploy.core.errors import VerificationError
from deblur_deploy.runtime.runner import Batch, Runner


def infer_finite(runner: Runner, batch: Batch, name: str) -> Batch:
    """Restore a photograph, and refuse what is none.

    Args:
        runner: An open runner.
        batch: As for :meth:`Runner.infer`.
        name: What the photograph is called in the message.

    Raises:
        VerificationError: The network gives NaN or infinite values.
        DeblurDeployError: As :meth:`Runner.infer`.
    """
    restored = runner.infer(batch)
    if not np.isfinite(restored).all():
        raise VerificationError(
            f"the network gives NaN or infinite values for {name} on {runner.name}",
            hint="its weights or its number format overflow; take an earlier checkpoint, or evaluate it in float32",
        )
    return restored
