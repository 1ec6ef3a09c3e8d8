"""What a figure is held against."""

from __future__ import annotations

from dataclasses import dataclass

from deblur_deploy.core.errors import ConfigError


@dataclass(frozen=True)
class Target:
    """What the figure is held against: one of the two.

    Args:
        at_most: The largest figure that meets it.
        at_least: The smallest figure that meets it.
    """

    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ConfigError("a target needs one bound", hint="give at_most or at_least")

    def is_met(self, figure: float) -> bool:
        """Whether the figure is within the bound."""
        if self.at_most is not None:
            return figure <= self.at_most
        return figure >= (self.at_least or 0.0)

    def describe(self, unit: str) -> str:
        """The target in words, such as ``at most 2 s``."""
        bound, words = (self.at_most, "at most") if self.at_most is not None else (self.at_least, "at least")
        return f"{words} {bound:g}{spaced(unit)}"


def spaced(unit: str) -> str:
    """The unit as it follows a number: a word after a space, a sign at once."""
    return f" {unit}" if unit[0].isalpha() else unit
