"""Scalars and sample pictures of a run, for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from deblur_deploy.core.errors import MissingDependencyError


class Monitor:
    """Writes what TensorBoard shows.

    Args:
        folder: Where its event files lie.
        done: Steps done before; what an interrupted run showed beyond them is hidden.
        sample: A blurred and a sharp picture, each (1, 3, H, W) in [0, 1], restored now and then.
        every: Steps between two sets of scalars.
        sample_every: Steps between two sample pictures.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(
        self, folder: Path, done: int, sample: tuple[Tensor, Tensor], every: int = 50, sample_every: int = 1000
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as err:
            raise MissingDependencyError(
                "--tensorboard needs tensorboard, which is not installed", hint="pip install 'deblur-deploy[train]'"
            ) from err
        self.sample = sample
        self.every = every
        self.sample_every = sample_every
        self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def record(self, step: int, values: Mapping[str, float], net: nn.Module) -> None:
        """Write the scalars of a step, and the sample as the network restores it, where their turn has come.

        Args:
            step: Steps done, from 1.
            values: Scalars by name.
            net: Maps (1, 3, H, W) to the same shape; left in training mode.
        """
        if step % self.every == 0 or step == 1:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        if step % self.sample_every == 0 or step == 1:
            self._writer.add_image("blurred, restored, sharp", self._triptych(net), step)
            self._writer.flush()

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()

    def _triptych(self, net: nn.Module) -> Tensor:
        blurred, sharp = self.sample
        device = next(net.parameters()).device
        net.eval()
        with torch.no_grad():
            restored = net(blurred.to(device)).float().clamp(0, 1).cpu()
        net.train()
        return torch.cat([blurred, restored, sharp], dim=-1)[0]
