"""Short fine-tuning with the uncompressed network as teacher: what pruning and quantization share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from deblur_deploy.config import FitConfig, TuningConfig
from deblur_deploy.config.training import CROP_MULTIPLE
from deblur_deploy.data.crops import crop_batches
from deblur_deploy.data.pairs import Pair, load_pairs, load_photos
from deblur_deploy.data.shake import Image8
from deblur_deploy.network.generator import Generator, padded_side
from deblur_deploy.training.loop import FitReport, fit

OnStep = Callable[[int, int, float], None]
"""Called with the step, the number of steps, and the loss."""


def finetune(net: nn.Module, teacher: nn.Module, config: TuningConfig, on_step: OnStep | None) -> FitReport:
    """Train a compressed network in place on freshly shaken photographs.

    Args:
        net: Network with ``forward_scales``.
        teacher: The network it was made from; its picture is half of the target.
        config: Photographs, shake and schedule.
        on_step: Called after each step.
    """
    steps = config.fit.steps
    fitted = fitting_crops(config.fit, net)
    batches = crop_batches(tuning_photos(config), fitted, config.blur, workers=1 if steps else 0)
    report = (lambda step, loss: on_step(step, steps, loss)) if on_step else None
    return fit(net, batches, fitted, teacher, report)


def fitting_crops(config: FitConfig, net: nn.Module) -> FitConfig:
    """The schedule with crops that a network takes as they are: at least as large as it says, and a multiple of it.

    Args:
        config: The schedule that was asked for.
        net: Any network; only a :class:`Generator` says what it takes.
    """
    if not isinstance(net, Generator):
        return config
    side = padded_side(config.crop, math.lcm(CROP_MULTIPLE, net.multiple_of), net.smallest_side)
    return replace(config, crop=side)


def tuning_photos(config: TuningConfig) -> list[Image8]:
    """The sharp photographs to tune on: the user's folder, else the shipped calibration split."""
    return load_photos(Path(config.photos) if config.photos else None, "calibration")


def evaluation_pairs(config: TuningConfig) -> list[Pair]:
    """The pairs that figures are quoted on: the user's folder, else the shipped evaluation split."""
    return load_pairs(Path(config.evaluation) if config.evaluation else None, "evaluation")
