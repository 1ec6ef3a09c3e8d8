"""How the difference between two forms of one recurrent network grows on its way through the recurrence.

A scale-recurrent network feeds every pass with the output of the pass before it, so a small error of the coarsest scale
travels on. Two figures show whether it dies out or builds up: the difference after each of the three scales, and after
each of many applications of one scale to its own estimate and state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deblur_deploy.network.generator import pad_to_multiple
from deblur_deploy.network.srn import MULTIPLE_OF, SRN

APPLICATIONS = 30
"""Applications of one scale that drift is followed over: a second of video at 30 frames per second."""


@dataclass(frozen=True)
class Drift:
    """Mean absolute differences between two networks' estimates, where black is 0 and white is 1.

    Args:
        scales: After each scale, coarse to fine.
        applications: After each application of the finest scale to its own estimate and state.
    """

    scales: tuple[float, ...]
    applications: tuple[float, ...]

    @property
    def growth(self) -> float:
        """The last application's difference over the first one's; 1 where the two never differ, above 1 grows."""
        first, last = self.applications[0], self.applications[-1]
        return last / first if first else (1.0 if last == 0 else math.inf)

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``; an infinite growth is null."""
        growth = self.growth if math.isfinite(self.growth) else None
        return {"scales": list(self.scales), "applications": list(self.applications), "growth": growth}


def measure_drift(a: SRN, b: SRN, frames: Sequence[NDArray[np.float32]], applications: int = APPLICATIONS) -> Drift:
    """Run two networks side by side, each on its own estimates.

    Args:
        a: One network, such as the float one.
        b: The other, such as the same network with fake quantization.
        frames: Blurred pictures, (1, 3, H, W) float32 in [0, 1], any H and W; differences are means over all of them.
        applications: How often one scale is applied to its own estimate.
    """
    inputs = [pad_to_multiple(torch.from_numpy(frame), MULTIPLE_OF) for frame in frames]
    with torch.no_grad():
        scales = [_differences(a.forward_scales(image), b.forward_scales(image)) for image in inputs]
        repeated = [
            _differences(_applied(a, image, applications), _applied(b, image, applications)) for image in inputs
        ]
    return Drift(_means(scales), _means(repeated))


def _applied(net: SRN, image: Tensor, applications: int) -> list[Tensor]:
    """Estimates (1, 3, H, W) of one scale that is given its own estimate and state again and again."""
    estimate, state = image, None
    estimates: list[Tensor] = []
    for _ in range(applications):
        estimate, state = net.forward_one_scale(image, estimate, state)
        estimates.append(estimate)
    return estimates


def _differences(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[float]:
    return [float((x - y).abs().mean()) for x, y in zip(first, second, strict=True)]


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(np.mean(rows, axis=0).tolist())
