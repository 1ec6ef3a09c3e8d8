"""What a network expects of pictures, and their size; for code that reads no picture and needs no NumPy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from deblur_deploy.core.errors import ConfigError


@dataclass(frozen=True)
class ImageSpec:
    """What a network takes and gives.

    Args:
        layout: Axis order of the tensors.
        channels: Number of colour channels, RGB order.
        value_range: Values of black and white.
        multiple_of: Divisor of height and width inside the network; graphs pad to it themselves.
        height: Fixed height in pixels, or None where any is taken.
        width: Fixed width in pixels, or None where any is taken.
        dtype: Type of the values; ``uint8`` stands for camera frames as they come.
        state: Of a file that takes the frame before, too: channels, height and width of its state; else None.
    """

    layout: str = "NCHW"
    channels: int = 3
    value_range: tuple[float, float] = (0.0, 1.0)
    multiple_of: int = 1
    height: int | None = None
    width: int | None = None
    dtype: Literal["float32", "uint8"] = "float32"
    state: tuple[int, int, int] | None = None

    @classmethod
    def of_frames(cls, height: int | None, width: int | None, multiple_of: int = 1) -> ImageSpec:
        """What a network of camera frames, (N, H, W, 3) uint8, takes and gives."""
        return cls("NHWC", 3, (0.0, 255.0), multiple_of, height, width, "uint8")


@dataclass(frozen=True)
class Resolution:
    """A picture size in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def parse_resolution(text: str) -> Resolution:
    """Read ``WIDTHxHEIGHT``, such as ``640x360``.

    Raises:
        ConfigError: The text has another form, or a side is below 1.
    """
    sides = text.strip().lower().split("x")
    if len(sides) != 2 or not all(re.fullmatch("[0-9]{1,9}", side) for side in sides):
        raise ConfigError(f"{text!r} is not a resolution", hint="write WIDTHxHEIGHT in pixels, such as 640x360")
    width, height = (int(side) for side in sides)
    if not (1 <= width <= 65_536 and 1 <= height <= 65_536):
        raise ConfigError(f"resolution {text!r} is out of range", hint="both sides from 1 to 65536, such as 640x360")
    return Resolution(width, height)
