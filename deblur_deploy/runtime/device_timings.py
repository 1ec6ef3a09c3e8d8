"""When the parts of one inference on a device began and ended."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Span = tuple[float, float]
"""When something began and ended, in milliseconds."""

Event = TypeVar("Event")


@dataclass(frozen=True)
class DeviceTimings:
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

    @classmethod
    def of_compute(cls, enqueue: Span | None, compute: Span) -> DeviceTimings:
        """Those of an inference without copies."""
        began, ended = compute
        return cls(enqueue, (began, began), compute, (ended, ended))

    @property
    def latency_ms(self) -> float:
        """Latency as trtexec has it: both copies and the computation, without gaps between them."""
        return sum(end - start for start, end in (self.h2d, self.compute, self.d2h))


def spans_between(elapsed_ms: Callable[[Event, Event], float], opened: Event, marks: Sequence[Event]) -> list[Span]:
    """When the device was busy from each mark to the next.

    CUDA gives single precision, so what is added up are the short times between neighbours.

    Args:
        elapsed_ms: Milliseconds between two events.
        opened: The event at which the clock begins.
        marks: Events in the order in which the device came to them, at least two.
    """
    first = elapsed_ms(opened, marks[0])
    times = [first, *(first + elapsed_ms(marks[0], mark) for mark in marks[1:])]
    return list(itertools.pairwise(times))
