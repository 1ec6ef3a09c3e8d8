"""What some runners can do beside running a network; who needs it asks with `isinstance`."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from deblur_deploy.network.scales import Scales
from deblur_deploy.runtime.runner import Batch


@runtime_checkable
class KeepsMemory(Protocol):
    """A runner that keeps the memory of one inference for the next one."""

    def give_back_memory(self) -> None:
        """Give it back to the system; the next inference takes it anew."""


@runtime_checkable
class FollowsFilm(Protocol):
    """A runner that keeps the frame before.

    Attributes:
        cuts: How often the film was found to be cut.
    """

    cuts: int

    def begin_film(self) -> None:
        """Forget it: the next frame is the first of a film."""


@runtime_checkable
class RunsScales(Protocol):
    """A runner that can run the scales of a scale-recurrent network one by one.

    Attributes:
        scales: How they fit together, or None where this network or this way of running it does not allow it.
    """

    scales: Scales | None

    def infer_scale(self, image: Batch, coarser: tuple[Batch, Batch] | None) -> tuple[Batch, Batch]:
        """Run one scale, as :class:`~deblur_deploy.network.generator.ScaleRecurrent` has it; all arrays are float32.

        Raises:
            DeblurDeployError: The runtime failed.
        """
