"""A range of shapes that an engine takes."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """A range of shapes of the network's input, in TensorRT's words an optimization profile.

    Args:
        input: The input's name.
        min: Smallest size on every axis.
        opt: The shape that is tuned for.
        max: Largest size on every axis.
    """

    input: str
    min: Shape
    opt: Shape
    max: Shape

    @property
    def is_one_shape(self) -> bool:
        """Whether it holds a single shape."""
        return self.min == self.max
