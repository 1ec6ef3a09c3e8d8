"""Films through a temporal network: the frame before is kept, and brought to each frame by its motion.

A runtime runs the network as a function of five tensors (see :class:`~deblur_deploy.network.temporal.TemporalStep`);
what stands here keeps state and result from one frame to the next, finds the motion, and begins anew where the film was
cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError, MissingDependencyError
from deblur_deploy.core.images import from_batch
from deblur_deploy.core.tables import from_table
from deblur_deploy.network.steps import flow_size, not_temporal
from deblur_deploy.runtime.abilities import KeepsMemory
from deblur_deploy.runtime.runner import Batch, Runner
from deblur_deploy.runtime.runtimes import RUNTIMES

try:
    from deblur_deploy.data.optical_flow import find_motion, quarter_gray
except ModuleNotFoundError as err:
    raise MissingDependencyError(
        "motion between frames is found with OpenCV, which is not installed", hint="pip install 'deblur-deploy[video]'"
    ) from err


class RunsSteps(Protocol):
    """A runner that can run a temporal network on all its tensors."""

    def run_step(self, tensors: dict[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The restored frame and the next state, for the tensors of a ``TemporalStep`` by name."""


class TemporalRunner(Runner):
    """A temporal network that restores the frames of a film in order.

    Args:
        inner: What runs the network; it is closed with this one.
        artifact: The network.
        remembers: Whether a frame is the one behind the frame before; else each is the first of a film, as where
            pictures have nothing to do with each other.

    Attributes:
        cuts: How often the film was found to be cut.
        begins: How often a film began: at the first frame, at :meth:`begin_film`, and where the size changes.
    """

    def __init__(self, inner: Runner, artifact: Artifact, *, remembers: bool) -> None:
        super().__init__(inner.name, inner.image)
        self.failures = inner.failures  # type: ignore[misc]
        self._inner, self._remembers = inner, remembers
        self._state_of = _state_of(artifact)
        self._before: _Before | None = None
        self.cuts = self.begins = 0

    def begin_film(self) -> None:
        """Forget the frame before: the next one is the first of a film."""
        self._before = None

    def close(self) -> None:
        """As :meth:`Runner.close`."""
        self._before = None
        self._inner.close()

    def give_back_memory(self) -> None:
        """As :meth:`deblur_deploy.runtime.abilities.KeepsMemory.give_back_memory`."""
        if isinstance(self._inner, KeepsMemory):
            self._inner.give_back_memory()

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        if len(batch) != 1:
            raise ConfigError(f"a batch of {len(batch)} frames", hint="frames of a film go through one after the other")
        height, width = batch.shape[-2:]
        before, gray = self._before, None
        if self._remembers:
            gray = quarter_gray(from_batch(batch))
        if before is None or gray is None or before.restored.shape != batch.shape:
            known, self.begins = None, self.begins + 1
        else:
            motion = find_motion(gray, before.gray)
            known = None if motion.is_cut else motion
            self.cuts += motion.is_cut
        tensors: dict[str, NDArray[np.float32]] = {"blurred": batch}
        if before is None or known is None:
            small = flow_size(height, width)
            tensors |= {"before": batch, "state": np.zeros(self._state_of(height, width), np.float32)}
            tensors |= {"flow": np.zeros((1, 2, *small), np.float32), "trust": np.zeros((1, 1, *small), np.float32)}
        else:
            tensors |= {"before": before.restored, "state": before.state}
            tensors |= {"flow": known.flow[None], "trust": known.trust[None]}
        restored, state = cast(RunsSteps, self._inner).run_step(tensors)
        if gray is not None:
            # What runtimes hand out may be memory of their own, which the next frame overwrites.
            self._before = _Before(np.clip(restored, 0, 1), state.copy(), gray)
        return restored


class _Before(NamedTuple):
    """The frame before: its result (1, 3, H, W), its state, and what motion is looked for in."""

    restored: Batch
    state: NDArray[np.float32]
    gray: NDArray[np.uint8]


def require_temporal(artifact: Artifact, name: str) -> None:
    """Refuse networks and runtimes that do not take the frame before.

    Args:
        artifact: The network.
        name: The runtime.

    Raises:
        ConfigError: The network is not a temporal one, its file was exported without the frame before, or the runtime
            does not run it.
    """
    if artifact.kind == "checkpoint" and not artifact.network.config.get("temporal"):
        raise not_temporal(artifact.path)
    if artifact.kind != "checkpoint" and artifact.image.state is None:
        raise ConfigError(
            f"{artifact.path} does not take the frame before",
            hint="leave out --temporal, or export a temporal checkpoint with export-onnx --temporal",
        )
    variant = RUNTIMES[name].torch
    if variant is not None and variant.mode == "graph":
        raise ConfigError(
            f"{name} replays one graph of one picture, and a temporal network takes the frame before, too",
            hint=f"use {name.removesuffix('-graph')}",
        )


def _state_of(artifact: Artifact) -> Callable[[int, int], tuple[int, ...]]:
    """Shape of the state for a frame's height and width."""
    if artifact.image.state is not None:
        fixed = 1, *artifact.image.state
        return lambda height, width: fixed
    # A file without PyTorch runs where PyTorch is not installed.
    from deblur_deploy.network.srn import SRNConfig
    from deblur_deploy.network.temporal import state_shape

    config = from_table(SRNConfig, artifact.network.config, "network.config")
    return lambda height, width: state_shape(config, height, width)
