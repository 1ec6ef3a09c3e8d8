"""What restoring a photograph does to it that it should not: colour shift and ringing.

Both compare a restored photograph with the blurred one, in a window around each pixel:

- **Colour shift.** Where a window is flat, blur changes nothing, and a restored picture must have the colours of the
  blurred one. Flat is what Shan, Jia and Agarwala (*High-quality Motion Deblurring from a Single Image*, SIGGRAPH
  2008) call smooth: the standard deviation in the window is below 5 codes.
- **Overshoot.** Blur averages what is near. Beside the edge between two even surfaces both colours are found close by
  in the blurred picture, whatever the blur, and a restored pixel beyond them is ringing. A line or a light narrower
  than its blur also has to go beyond them: on the shipped pairs the sharp photographs themselves are at 3 to 13 %. So
  this share is meant to be compared and bounded, not to be 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import VerificationError
from deblur_deploy.data.pairs import Image8

WINDOW = 13
"""Side of the windows in pixels: a path of the default shake, which is up to 12 pixels long, lies within."""
FLAT_BELOW = 5.0
"""Standard deviation, in codes of 0 to 255, below which a window is flat."""
OVERSHOOT_ABOVE = 8
"""Codes beyond the window's range that still count as noise."""


@dataclass(frozen=True)
class SideEffects:
    """What restoring a photograph did to it that it should not have.

    Args:
        flat_share: Share of the pixels whose window is flat in every channel, 0 to 1.
        color_shift: Mean of restored minus blurred over the flat pixels, in codes of 0 to 255, for R, G and B; None
            where nothing is flat.
        overshoot_share: Share of the pixels that lie in some channel more than :data:`OVERSHOOT_ABOVE` codes outside
            the range of their window in the blurred photograph, 0 to 1.
    """

    flat_share: float
    color_shift: tuple[float, float, float] | None
    overshoot_share: float


def side_effects(blurred: Image8, restored: Image8) -> SideEffects:
    """Measure colour shift and overshoot.

    Args:
        blurred: (H, W, 3) uint8 sRGB.
        restored: Same shape.

    Raises:
        VerificationError: Shapes differ.
    """
    if blurred.shape != restored.shape:
        raise VerificationError(
            f"images of {blurred.shape} and {restored.shape} cannot be compared", hint="give images of one size"
        )
    flat = _is_flat(blurred)
    shift = None
    if flat.any():
        red, green, blue = (restored[flat].mean(axis=0) - blurred[flat].mean(axis=0)).tolist()
        shift = (red, green, blue)
    beyond = _outside_of_range(blurred, restored) > OVERSHOOT_ABOVE
    return SideEffects(float(flat.mean()), shift, float(beyond.any(axis=-1).mean()))


def _outside_of_range(blurred: Image8, restored: Image8) -> NDArray[np.int16]:
    """How far each value lies outside the range of its window in the blurred photograph, in codes; 0 inside."""
    lowest, highest = (_over_windows(blurred, combine).astype(np.int16) for combine in (np.minimum, np.maximum))
    values = restored.astype(np.int16)
    outside: NDArray[np.int16] = np.maximum(np.maximum(lowest - values, values - highest), 0)
    return outside


def _is_flat(image: Image8) -> NDArray[np.bool_]:
    """(H, W): whether the standard deviation of the window is below the bound in every channel."""
    values = image.astype(np.float64)
    mean, mean_square = (_over_windows(plane, np.add) / WINDOW**2 for plane in (values, values * values))
    is_flat: NDArray[np.bool_] = mean_square - mean**2 < FLAT_BELOW**2
    return np.asarray(is_flat.all(axis=-1))


def _over_windows(image: NDArray[Any], combine: np.ufunc) -> NDArray[Any]:
    """The minimum, maximum or sum of the window around each pixel, borders repeated."""
    reach = WINDOW // 2
    for axis in (0, 1):
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = np.moveaxis(np.pad(image, pad, mode="edge"), axis, 0)
        size = image.shape[axis]
        combined = padded[:size].copy()
        for tap in range(1, WINDOW):
            combine(combined, padded[tap : tap + size], out=combined)
        image = np.moveaxis(combined, 0, axis)
    return image
