"""What a run tells whoever waits for it: the command line prints it, and a program may keep silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class RunProgress(Protocol):
    """Where a run says what it is doing."""

    def say(self, text: str) -> None:
        """Take a line of text."""

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Take the summary of the run."""

    def tuning(self, title: str) -> AbstractContextManager[Callable[[int, int, float], None]]:
        """Follow fine-tuning; what it gives is called with the step, the number of steps and the loss."""

    def waiting(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """Follow a long wait; what it gives is called with what is being done."""


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Take a line of text."""

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Take the summary of the run."""

    @contextmanager
    def tuning(self, title: str) -> Iterator[Callable[[int, int, float], None]]:
        """Follow fine-tuning."""
        yield lambda step, steps, loss: None

    @contextmanager
    def waiting(self, title: str) -> Iterator[Callable[[str], None]]:
        """Follow a long wait."""
        yield lambda caption: None
