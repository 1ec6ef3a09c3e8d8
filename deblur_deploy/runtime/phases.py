"""When the parts of one inference on a device began and ended."""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[float, float]
"""When something began and ended, in milliseconds."""


@dataclass(frozen=True)
class Phases:
    """The parts of one inference, on a clock that begins when the runner is opened.

    Args:
        enqueue: The host's work to put the network into the queue, on the host's clock; None where there is no queue.
        h2d: Copy of the input to the device; an empty span where there is none.
        compute: The network.
        d2h: Copy of the output back; an empty span where there is none.
    """

    enqueue: Span | None
    h2d: Span
    compute: Span
    d2h: Span

    @property
    def latency_ms(self) -> float:
        """Latency as trtexec has it: both copies and the computation, without gaps between them."""
        return sum(end - start for start, end in (self.h2d, self.compute, self.d2h))
