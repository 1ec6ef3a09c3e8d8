"""The moving average of a network's weights, which is what a run ends with."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of parameters, with the start-up bias removed by a growing decay.

    Args:
        parameters: What is averaged.
        decay: What it grows to; 0 keeps the latest weights alone.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.updates = 0
        self.shadow = [copy.deepcopy(p.data) for p in parameters]

    def update(self) -> None:
        """Take in the weights of a step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, [p.data for p in self.parameters], 1 - decay)

    def copy_to_parameters(self) -> None:
        """Put the average into the place of the weights."""
        for parameter, average in zip(self.parameters, self.shadow, strict=True):
            parameter.data.copy_(average)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the average stand in for the weights while the block runs."""
        latest = [p.data.clone() for p in self.parameters]
        self.copy_to_parameters()
        try:
            yield
        finally:
            for parameter, value in zip(self.parameters, latest, strict=True):
                parameter.data.copy_(value)
