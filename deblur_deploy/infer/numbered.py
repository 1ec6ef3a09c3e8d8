"""Folders of numbered frames: which pictures follow each other in a film."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deblur_deploy.infer.jobs import Job

_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)
"""What stands before the last number of a name, the number, and what stands behind it."""


@dataclass(frozen=True, order=True)
class FrameNumber:
    """Where a picture stands in a film.

    Args:
        series: Its folder and its name without the number.
        number: The last number in its name; -1 where there is none, and the picture is a film of its own.
    """

    series: tuple[str, str, str]
    number: int = -1

    @classmethod
    def of(cls, path: Path) -> FrameNumber:
        """The place of a file, by its name."""
        match = _NUMBERED.fullmatch(path.name)
        if match is None:
            return cls((str(path.parent), path.name, ""))
        before, number, behind = match.groups()
        return cls((str(path.parent), before, behind), int(number))

    def missing_after(self, before: FrameNumber | None) -> int | None:
        """How many frames are missing between another and this one; None where it is not one of the same film."""
        if before is None or before.series != self.series or self.number <= before.number:
            return None
        return self.number - before.number - 1


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """Pictures film by film, frames by their numbers: ``2.png`` before ``10.png``."""
    return sorted(jobs, key=lambda job: FrameNumber.of(job.source))


def wanted_again(jobs: Sequence[Job], done: Sequence[bool]) -> list[bool]:
    """Which pictures that are done must go through the network again, since frames behind them are not done.

    Args:
        jobs: In the order of :func:`in_order`.
        done: Which of them are.
    """
    wanted = [False] * len(jobs)
    behind: FrameNumber | None = None
    for index in reversed(range(len(jobs))):
        here = FrameNumber.of(jobs[index].source)
        follows = behind is not None and behind.missing_after(here) == 0
        wanted[index] = done[index] and follows
        behind = here if wanted[index] or not done[index] else None
    return wanted
