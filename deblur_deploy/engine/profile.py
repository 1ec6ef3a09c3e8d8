"""A range of shapes that an engine takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deblur_deploy.errors import BuildError

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


def add_profile(builder: Any, builder_config: Any, profile: Profile) -> None:
    """Give a profile to the builder.

    Args:
        builder: TensorRT's ``Builder``.
        builder_config: Its ``IBuilderConfig``.
        profile: The range of shapes.

    Raises:
        BuildError: The builder refuses it.
    """
    made = builder.create_optimization_profile()
    made.set_shape(profile.input, profile.min, profile.opt, profile.max)
    if builder_config.add_optimization_profile(made) < 0:
        raise BuildError(
            f"the builder refuses the shapes {profile.min} to {profile.max}, tuned for {profile.opt}",
            hint="every size must lie between the smallest and the largest",
        )
