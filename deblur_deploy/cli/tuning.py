"""Flags of the fine-tuning that pruning and quantization share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

from deblur_deploy.config import PruneConfig, QatConfig

C = TypeVar("C", PruneConfig, QatConfig)


def with_tuning(config: C, photos: Path | None, steps: int | None) -> C:
    """The config with the user's photographs and number of steps, where they gave any."""
    tuning = config.tuning
    if photos is not None:
        tuning = dataclasses.replace(tuning, photos=str(photos))
    if steps is not None:
        tuning = dataclasses.replace(tuning, fit=dataclasses.replace(tuning.fit, steps=steps))
    return dataclasses.replace(config, tuning=tuning)
