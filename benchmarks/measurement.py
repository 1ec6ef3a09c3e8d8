"""What a run of a scenario gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """What one run of a scenario found.

    Args:
        figure: The number that is held against the target.
        unit: ``s`` or ``×``.
        samples_ms: Every time taken, by what was timed; where windows were measured, one list for each.
        note: What else the table says.
        details: Whatever belongs to the figure.
        stable: Whether the windows of time agree, where there are windows.
    """

    figure: float
    unit: str
    samples_ms: dict[str, Any]
    note: str
    details: dict[str, Any]
    stable: bool = True
