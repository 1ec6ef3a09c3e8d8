"""The one training loop: training, fine-tuning after pruning, and quantization-aware training all run it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.config import FitConfig
from deblur_deploy.errors import DeblurDeployError


class ScaleNetwork(Protocol):
    """A generator that shows its estimates on every scale, coarse to fine."""

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        """Estimates for (N, 3, H, W), the last of full size."""


@dataclass(frozen=True)
class FitReport:
    """What a run did.

    Args:
        steps: Optimiser steps done.
        seconds: Wall time.
        data_seconds: Seconds of it spent waiting for crops.
        loss: Mean loss of the last tenth of the steps, or None where there were no steps.
    """

    steps: int
    seconds: float
    data_seconds: float
    loss: float | None


def fit(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    config: FitConfig,
    teacher: nn.Module | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> FitReport:
    """Train a generator in place.

    AdamW with warm-up and cosine decay, L1 on every scale, gradient clipping, and a moving average of the weights that
    replaces them at the end.

    Args:
        net: Network with ``forward_scales``; left in evaluation mode.
        batches: Blurred and sharp crops, each (N, 3, H, W) float32 in [0, 1]; at least ``config.steps`` of them.
        config: Steps and rates.
        teacher: Network whose picture the student also follows.
        on_step: Called with the step (from 1) and its loss.

    Raises:
        DeblurDeployError: The loss or its gradient is no number any more; the weights are those before the bad step.
    """
    net.train()
    student = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    average = _WeightAverage(parameters, config.ema_decay)
    losses: list[float] = []
    started, waited = time.perf_counter(), 0.0
    source = iter(batches)
    for step in range(1, config.steps + 1):
        before = time.perf_counter()
        blurred, sharp = next(source)
        waited += time.perf_counter() - before
        loss = reconstruction_loss(student, blurred, sharp, config, teacher)
        losses.append(float(loss.detach()))
        _check_finite("loss", losses[-1], step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        _check_finite("gradient", float(nn.utils.clip_grad_norm_(parameters, config.clip_norm)), step)
        optimizer.step()
        schedule.step()
        average.update()
        if on_step:
            on_step(step, losses[-1])
    average.copy_to_parameters()
    net.eval()
    return FitReport(len(losses), time.perf_counter() - started, waited, _final_loss(losses))


def reconstruction_loss(
    net: nn.Module, blurred: Tensor, sharp: Tensor, config: FitConfig, teacher: nn.Module | None
) -> Tensor:
    """L1 on every scale, plus L1 to the teacher's full-size picture where there is a teacher."""
    blurred = blurred.contiguous(memory_format=torch.channels_last)
    estimates: list[Tensor] = net.forward_scales(blurred)  # type: ignore[operator]
    loss = F.l1_loss(estimates[-1], sharp)
    target = sharp
    for estimate in reversed(estimates[:-1]):
        target = F.avg_pool2d(target, 2)
        loss = loss + config.coarse_weight * F.l1_loss(estimate, target)
    if teacher is not None:
        with torch.no_grad():
            wanted = teacher(blurred)
        loss = loss + config.distill_weight * F.l1_loss(estimates[-1], wanted)
    return loss


def _rate(step: int, config: FitConfig) -> float:
    """Learning rate of a step as a share of the peak: linear warm-up, then half a cosine."""
    warmup = min(config.warmup, config.steps // 5)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, config.steps - warmup))
    floor = config.lr_final / config.lr
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def _final_loss(losses: list[float]) -> float | None:
    """Mean of the last tenth, or None where there is none."""
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail) if tail else None


def _check_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise DeblurDeployError(
            f"the {name} became {value} at step {step}", hint="lower the learning rate, or check the images for damage"
        )


class _WeightAverage:
    """Exponential moving average of parameters, with the start-up bias removed by a growing decay."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.updates = 0
        self.shadow = [copy.deepcopy(p.data) for p in parameters]

    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, [p.data for p in self.parameters], 1 - decay)

    def copy_to_parameters(self) -> None:
        for parameter, average in zip(self.parameters, self.shadow, strict=True):
            parameter.data.copy_(average)
