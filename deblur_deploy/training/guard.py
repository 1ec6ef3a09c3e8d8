"""A run that is watched on held-out pairs: where it does harm it ends, and its best state is taken.

For training whose loss never sees the right answer, such as that on footage without sharp partners.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from deblur_deploy.core.errors import VerificationError


@dataclass(frozen=True)
class Check:
    """What one measurement found.

    Args:
        step: After which step; 0 is before the first.
        psnr_db: Mean PSNR on the pairs in dB; minus infinity where the network gives no numbers.
    """

    step: int
    psnr_db: float


class Guard:
    """Measures a network now and then and keeps its best weights.

    Args:
        measure: Mean PSNR in dB of the network on held-out pairs.
        allowed_db: How far it may fall below that of the start.
        every: Steps between two checks; there is one before the first step and one after the last, too.
    """

    def __init__(self, measure: Callable[[nn.Module], float], allowed_db: float, every: int) -> None:
        self.measure = measure
        self.allowed_db = allowed_db
        self.every = every
        self.checks: list[Check] = []
        self._weights: dict[str, Tensor] = {}

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether to check after this step; what has been checked once is not checked again."""
        is_new = not self.checks or self.checks[-1].step < step
        return is_new and (step % self.every == 0 or step == last_step)

    def psnr_db(self, net: nn.Module) -> float:
        """What :attr:`measure` says; minus infinity where the network gives no numbers."""
        try:
            return self.measure(net)
        except VerificationError:
            return float("-inf")

    def note(self, check: Check, net: nn.Module) -> None:
        """Take in a measurement, and the weights that were measured if they are the best so far."""
        is_best = not self.checks or check.psnr_db > self.best.psnr_db
        self.checks.append(check)
        if is_best:
            self._weights = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}

    @property
    def best(self) -> Check:
        """The check with the highest PSNR, the earliest of equal ones."""
        return max(self.checks, key=lambda check: check.psnr_db)

    @property
    def has_turned(self) -> bool:
        """Whether the last check found the network further below the start than is allowed."""
        return bool(self.checks) and not self.checks[-1].psnr_db >= self.checks[0].psnr_db - self.allowed_db

    def put_best(self, net: nn.Module) -> None:
        """Give a network the best weights."""
        net.load_state_dict(self._weights)

    def figures(self) -> dict[str, Any]:
        """What a manifest says: PSNR of every check, at which step the run turned (None: it did not), what was kept."""
        kept = self.best if self.has_turned else self.checks[-1]
        return {
            "checks": [[check.step, check.psnr_db] for check in self.checks],
            "turned_at": self.checks[-1].step if self.has_turned else None,
            "kept_step": kept.step,
        }

    def state(self) -> tuple[dict[str, Tensor], list[list[float]]]:
        """The best weights by name, and the checks, for :meth:`restore`."""
        return self._weights, [[check.step, check.psnr_db] for check in self.checks]

    def restore(self, weights: dict[str, Tensor], checks: list[list[float]]) -> None:
        """Go on from what :meth:`state` gave."""
        self._weights = weights
        self.checks = [Check(int(step), psnr_db) for step, psnr_db in checks]
