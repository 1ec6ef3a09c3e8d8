"""The one training loop: training, fine-tuning after pruning, and quantization-aware training all run it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deblur_deploy.config import FitConfig
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.core.process_memory import freed_memory_kept
from deblur_deploy.training.average import WeightAverage
from deblur_deploy.training.devices import Devices, dilated_in_float32
from deblur_deploy.training.guard import Check, Guard
from deblur_deploy.training.losses import FeatureMatch, Objective
from deblur_deploy.training.monitor import Monitor
from deblur_deploy.training.state import SavedState, StateKeeper, deferred_signals

_log = logging.getLogger(__name__)

OnStep = Callable[[int, float], None]
Batches = Iterable[tuple[Tensor, Tensor]]


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
    batches: Batches,
    config: FitConfig,
    teacher: nn.Module | None = None,
    on_step: OnStep | None = None,
) -> FitReport:
    """Train a generator in place on the device where it is: the short way for fine-tuning.

    L1 on every scale, to the teacher's picture, and the distance to its features; for the rest see :class:`Trainer`.

    Args:
        net: Network with ``forward_scales``; left in evaluation mode.
        batches: Blurred and sharp crops, each (N, 3, H, W) float32 in [0, 1]; at least ``config.steps`` of them.
        config: Steps and rates.
        teacher: Network whose picture, and features where ``config.feature_weight`` is above 0, the student follows.
        on_step: Called with the step (from 1) and its loss.

    Raises:
        ConfigError: Student and teacher do not say where their features are.
        DeblurDeployError: The loss or its gradient is no longer a number; the weights are those before the bad step.
    """
    objective = Objective(config, teacher=teacher)
    with ExitStack() as stack:
        if teacher is not None and config.feature_weight:
            objective.match = stack.enter_context(FeatureMatch(net, teacher))
        return Trainer(net, config, objective).run(batches, on_step)


class Trainer:
    """One run: AdamW or Adam with warm-up and cosine decay, gradient clipping, and a moving average of the weights.

    Args:
        net: Network with ``forward_scales``.
        config: Steps and rates.
        objective: What is minimised.
        devices: Where; None stays where the network is.
        guard: Watches the moving average on held-out pairs, and ends the run where that has become bad.
    """

    def __init__(
        self,
        net: nn.Module,
        config: FitConfig,
        objective: Objective,
        devices: Devices | None = None,
        guard: Guard | None = None,
    ) -> None:
        parameters = [p for p in net.parameters() if p.requires_grad]
        self.devices = devices or Devices(parameters[0].device if parameters else torch.device("cpu"))
        self.net = net.to(self.devices.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config = config
        self.objective = objective
        objective.to(self.devices.device)
        net.train()
        self.forward_scales = self.devices.wrap(objective.scales_of(net))
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.parameters, config)
        self.partner = objective.partner
        self.partner_parameters = list(self.partner.parameters()) if self.partner is not None else []
        if self.partner_parameters:
            factor = objective.partner_lr / config.lr
            self.optimizer.add_param_group({"params": self.partner_parameters, "factor": factor})
        self.average = WeightAverage(self.parameters, config.ema_decay)
        self.guard = guard
        self.critic = objective.critic
        self.critic_optimizer = (
            torch.optim.Adam(self.critic.parameters(), lr=objective.loss.discriminator_lr, betas=(0.5, 0.99))
            if self.critic is not None
            else None
        )
        _warn_of_emulation(config, self.devices.device)
        self.losses: list[float] = []
        self.seconds, self.data_seconds = 0.0, 0.0
        self._generators: dict[str, Tensor] = {}

    def run(
        self,
        batches: Batches,
        on_step: OnStep | None = None,
        keeper: StateKeeper | None = None,
        monitor: Monitor | None = None,
    ) -> FitReport:
        """Train to the last step; the moving average replaces the weights at the end, or the guard's best does.

        Args:
            batches: Blurred and sharp crops, each (N, 3, H, W) float32 in [0, 1], from the first step not yet done.
            on_step: Called with the step (from 1) and its loss.
            keeper: Saves the state of the run every few minutes, at the end, before a step that cannot be done,
                and when Ctrl-C or SystemExit ends the run, after the step that is being done.
            monitor: Shows the run.

        Raises:
            DeblurDeployError: The loss or its gradient is no longer a number; the weights, and the state that was
                saved, are those before the bad step.
        """
        source = iter(batches)
        # A loader draws a seed when it starts, so the generators are set after that.
        _set_generators(self._generators, self.devices.device)
        with ExitStack() as stack:
            stack.enter_context(freed_memory_kept())
            if self.devices.device.type == "cpu" and uses_bfloat16(self.config, self.devices.device):
                for part in (self.net, *([self.partner] if self.partner is not None else [])):
                    stack.enter_context(dilated_in_float32(part))
            try:
                while not self._is_over():
                    self._run_step(source, keeper, monitor)
                    if on_step:
                        on_step(len(self.losses), self.losses[-1])
            except (KeyboardInterrupt, SystemExit):
                if keeper and self.losses:
                    keeper.save(self.state())
                raise
        self.average.copy_to_parameters()
        if self.guard is not None and self.guard.has_turned:
            self.guard.put_best(self.net)
        self.net.eval()
        return FitReport(len(self.losses), self.seconds, self.data_seconds, _final_loss(self.losses))

    def _is_over(self) -> bool:
        """Whether the last step is done, or the guard, whose check may be due, finds that the run does harm."""
        step = len(self.losses)
        if self.guard is not None and self.guard.is_due(step, self.config.last_step):
            with deferred_signals(), self.average.in_place():
                found = torch.tensor(self.guard.psnr_db(self.net), dtype=torch.float64, device=self.devices.device)
                self.guard.note(Check(step, float(self.devices.mean(found))), self.net)
        return step >= self.config.last_step or (self.guard is not None and self.guard.has_turned)

    def _run_step(
        self, source: Iterator[tuple[Tensor, Tensor]], keeper: StateKeeper | None, monitor: Monitor | None
    ) -> None:
        """Wait for a batch, do one step on it, and save and show what is due."""
        started = time.perf_counter()
        blurred, sharp = next(source)
        waited = time.perf_counter() - started
        generators = _get_generators(self.devices.device)
        try:
            with deferred_signals():
                values = self._step(len(self.losses) + 1, blurred, sharp)
        except DeblurDeployError:
            if keeper:
                keeper.save(self.state(generators))
            raise
        took, step = time.perf_counter() - started, len(self.losses)
        self.seconds, self.data_seconds = self.seconds + took, self.data_seconds + waited
        if monitor:
            monitor.record(step, {**values, "time/step_ms": took * 1e3, "time/data_ms": waited * 1e3}, self.net)
        if keeper and (keeper.is_due() or step == self.config.last_step):
            keeper.save(self.state())

    def state(self, generators: dict[str, Tensor] | None = None) -> SavedState:
        """Everything that the rest of the run depends on.

        Args:
            generators: States of the random generators, if not those of this moment.
        """
        tensors = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        tensors |= {f"average.{i}": tensor for i, tensor in enumerate(self.average.shadow)}
        tensors |= _moments("optimizer", self.optimizer)
        if self.critic is not None and self.critic_optimizer is not None:
            tensors |= {f"critic.{name}": tensor for name, tensor in self.critic.state_dict().items()}
            tensors |= _moments("critic_optimizer", self.critic_optimizer)
        if self.partner is not None:
            tensors |= {f"partner.{name}": tensor for name, tensor in self.partner.state_dict().items()}
        tensors |= _get_generators(self.devices.device) if generators is None else generators
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        facts: dict[str, Any] = {"updates": self.average.updates, "seconds": self.seconds}
        facts["data_seconds"] = self.data_seconds
        if self.guard is not None:
            weights, facts["checks"] = self.guard.state()
            tensors |= {f"guard.{name}": tensor for name, tensor in weights.items()}
        return SavedState(len(self.losses), tensors, facts)

    def restore(self, state: SavedState) -> None:
        """Resume from a state; the run is then the same, bit for bit, as if it had never stopped."""
        tensors = state.tensors
        self.net.load_state_dict(_below("net", tensors))
        for i, average in enumerate(self.average.shadow):
            average.copy_(tensors[f"average.{i}"])
        _set_moments(self.optimizer, _below("optimizer", tensors))
        if self.critic is not None and self.critic_optimizer is not None:
            self.critic.load_state_dict(_below("critic", tensors))
            _set_moments(self.critic_optimizer, _below("critic_optimizer", tensors))
        if self.partner is not None:
            self.partner.load_state_dict(_below("partner", tensors))
        if self.guard is not None:
            self.guard.restore(_below("guard", tensors), state.facts["checks"])
        self._generators = {name: tensor for name, tensor in tensors.items() if name.startswith("generator.")}
        self.losses = tensors["losses"].tolist()
        self.average.updates = state.facts["updates"]
        self.seconds, self.data_seconds = state.facts["seconds"], state.facts["data_seconds"]

    def _step(self, step: int, blurred: Tensor, sharp: Tensor) -> dict[str, float]:
        """One step of generator and discriminator; nothing is changed before everything is known to be finite."""
        device = self.devices.device
        blurred = blurred.to(device, non_blocking=True, memory_format=torch.channels_last)
        sharp = sharp.to(device, non_blocking=True)
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(self.config, device)),
            torch.set_grad_enabled(step > self.objective.frozen_steps),
        ):
            estimates = self.forward_scales(blurred)
        terms = self.objective.terms(estimates, blurred, sharp)
        loss = torch.stack(list(terms.values())).sum()
        value = float(self.devices.mean(loss.detach()))
        _check_finite("loss", value, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.devices.average_gradients(self.partner_parameters)
        norm = float(nn.utils.clip_grad_norm_([*self.parameters, *self.partner_parameters], self.config.clip_norm))
        _check_finite("gradient", norm, step)
        values = {f"loss/{name}": float(term.detach()) for name, term in terms.items()}
        values |= {"loss/total": value, "gradient norm": norm}
        if self.critic_optimizer is not None:
            values["loss/discriminator"] = self._backward_critic(step, estimates[-1].float(), blurred, sharp)
            self.critic_optimizer.step()
        values["learning rate"] = _set_rate(self.optimizer, step, self.config)
        self.optimizer.step()
        self.average.update()
        self.losses.append(value)
        return values

    def _backward_critic(self, step: int, restored: Tensor, blurred: Tensor, sharp: Tensor) -> float:
        """The discriminator's gradients, averaged over processes; returns its loss."""
        assert self.critic is not None
        assert self.critic_optimizer is not None
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss = self.objective.telling_loss(restored, blurred, sharp)
        value = float(self.devices.mean(loss.detach()))
        _check_finite("discriminator's loss", value, step)
        loss.backward()  # type: ignore[no-untyped-call]
        self.devices.average_gradients(self.critic.parameters())
        norm = float(nn.utils.clip_grad_norm_(self.critic.parameters(), self.config.clip_norm))
        _check_finite("discriminator's gradient", norm, step)
        return value


def uses_bfloat16(config: FitConfig, device: torch.device) -> bool:
    """Whether a run computes in bfloat16 (see ``FitConfig.precision``)."""
    if device.type == "cuda":
        in_hardware = torch.cuda.is_bf16_supported(including_emulation=False)
        return in_hardware if config.precision in ("auto", "fastest") else config.precision == "bfloat16"
    return config.precision == "bfloat16" or (config.precision == "fastest" and processor_has_bfloat16())


def _warn_of_emulation(config: FitConfig, device: torch.device) -> None:
    """Warn that the processor lacks the bfloat16 that was asked for: the run works, but is slower than in float32."""
    if device.type == "cpu" and config.precision == "bfloat16" and not processor_has_bfloat16():
        _log.warning(
            "warning   this processor has no bfloat16: PyTorch emulates it, which is slower than float32; "
            'precision = "fastest" takes bfloat16 only where a processor computes in it'
        )


def processor_has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; elsewhere PyTorch emulates it, slower than float32."""
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _optimizer(parameters: list[nn.Parameter], config: FitConfig) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay)


def _set_rate(optimizer: torch.optim.Optimizer, step: int, config: FitConfig) -> float:
    """Set and return the learning rate of a step, counted from 1; a group's ``factor`` is against that of the net."""
    rate = config.lr * _rate(step - 1, config)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)
    return rate


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


def _moments(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's tensors by names such as ``optimizer.3.exp_avg``."""
    state = optimizer.state_dict()["state"]
    return {f"{name}.{i}.{key}": value for i, values in state.items() for key, value in values.items()}


def _set_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore tensors in the memory layout of the parameters, as a run that never stopped would have them."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        index, key = name.split(".")
        parameter = parameters[int(index)]
        fits = tensor.shape == parameter.shape and key != "step"
        optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(tensor) if fits else tensor


def _below(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def _get_generators(device: torch.device) -> dict[str, Tensor]:
    """States of the random generators that a step may draw from."""
    states = {"generator.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["generator.cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_generators(states: dict[str, Tensor], device: torch.device) -> None:
    if "generator.cpu" in states:
        torch.set_rng_state(states["generator.cpu"])
    if "generator.cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["generator.cuda"], device)
