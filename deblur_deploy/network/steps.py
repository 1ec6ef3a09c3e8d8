"""How a temporal network is driven frame by frame: names and sizes of its tensors. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path

from deblur_deploy.core.errors import ConfigError

STEP_INPUTS = ("blurred", "before", "state", "flow", "trust")
STEP_OUTPUTS = ("restored", "state_out")
"""What exported files and engines call the inputs and outputs of a ``TemporalStep`` (see ``temporal.py``)."""

FLOW_STRIDE = 4
"""Pixels of a frame for one of its flow, along each side."""


def not_temporal(path: Path) -> ConfigError:
    """The error for a network that does not take the frame before, and should."""
    return ConfigError(
        f"{path} is not a temporal network",
        hint="leave out --temporal, or train one: a recipe with [clip], and --init with this one",
    )


def flow_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the flow for frames of a size."""
    return -(-height // FLOW_STRIDE), -(-width // FLOW_STRIDE)
