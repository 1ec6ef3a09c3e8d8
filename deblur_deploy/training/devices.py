"""Where a run happens: in one process or in several that accelerate launched, and what a processor gets wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deblur_deploy.core.errors import ConfigError, MissingDependencyError

_BLOCK = 16
"""Channels that oneDNN takes together."""


@dataclass(frozen=True)
class Devices:
    """One process's place in a run.

    Args:
        device: Where this process computes.
        rank: Number of this process.
        world: How many processes there are.
        accelerator: ``accelerate.Accelerator``, where there is more than one.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    accelerator: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, with gradients that are averaged over the processes (DistributedDataParallel)."""
        return self.accelerator.prepare_model(module) if self.accelerator else module

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a value over the processes."""
        return self.accelerator.reduce(value, reduction="mean") if self.accelerator else value

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients that no wrapped module averages.

        A gradient penalty differentiates twice, which DistributedDataParallel does not support.
        """
        if self.accelerator:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.copy_(self.mean(parameter.grad))

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()


def open_devices(batch: int) -> Devices:
    """The device of this process, a GPU where there is one, and its place in ``accelerate launch``.

    Args:
        batch: Crops per step, which the processes share evenly.

    Raises:
        MissingDependencyError: There are several processes, and accelerate is not installed.
        ConfigError: The batch cannot be shared evenly.
    """
    has_gpu = torch.cuda.is_available()
    if process_count() == 1:
        return Devices(torch.device("cuda" if has_gpu else "cpu"))
    try:
        from accelerate import Accelerator
    except ImportError as err:
        raise MissingDependencyError(
            "training in several processes needs accelerate, which is not installed",
            hint="pip install 'deblur-deploy[train]'",
        ) from err
    # The recipe decides the precision, not the settings that `accelerate config` has left on a machine.
    accelerator = Accelerator(cpu=not has_gpu, mixed_precision="no")
    world = accelerator.num_processes
    if batch % world:
        raise ConfigError(
            f"a batch of {batch} cannot be shared by {world} processes", hint=f"set fit.batch to a multiple of {world}"
        )
    return Devices(accelerator.device, accelerator.process_index, world, accelerator)


def process_count() -> int:
    """How many processes a launcher started for this run; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def dilated_in_float32(net: nn.Module) -> Iterator[None]:
    """Let some dilated convolutions compute in float32 although autocast asks for bfloat16.

    oneDNN, as PyTorch 2.13 has it, gives wrong, infinite or NaN weight gradients in bfloat16 where a convolution is
    dilated, its input channels are more than 16 and not a multiple of 16, and the picture is wider than some 40 pixels.
    Pruned networks have such layers: 24, 40 or 88 channels. Undilated ones, and multiples of 16, are right.

    Args:
        net: Its layers are changed in place, and are as before afterwards.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and _is_wrong_in_bfloat16(layer)]
    for layer in layers:
        layer._conv_forward = _in_float32(layer)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for layer in layers:
            del layer._conv_forward


def _is_wrong_in_bfloat16(layer: nn.Conv2d) -> bool:
    channels = layer.in_channels // layer.groups
    return max(layer.dilation) > 1 and channels > _BLOCK and channels % _BLOCK != 0


def _in_float32(layer: nn.Conv2d) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            result: Tensor = type(layer)._conv_forward(layer, inputs.float(), weight, bias)
        return result

    return forward
