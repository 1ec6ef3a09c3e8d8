"""How the scales of a scale-recurrent network fit together, for those that run them one by one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scales:
    """How the scales of a scale-recurrent network fit together; each is half the size of the next.

    Args:
        count: How many there are.
        state_stride: Pixels of a scale along one side of a value of its state.
        state_channels: Channels of the state.
        reach: Pixels of a scale that its layers see to either side, on paper; offsets may reach further.
    """

    count: int
    state_stride: int
    state_channels: int
    reach: int

    @property
    def multiple_of(self) -> int:
        """What height and width of a picture divide by inside the network."""
        return int(self.state_stride * 2 ** (self.count - 1))
