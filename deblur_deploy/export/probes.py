"""Pictures on which an exported network is compared with the one that it was made from.

Photographs show how it does in normal use. The others are what breaks number formats: flat areas, where variances
and norms are zero, borders between them and a photograph, and as much contrast as there can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.images import ImageSpec, Resolution, to_batch
from deblur_deploy.data.pairs import Image8

_BAR = 6
"""The bars of a letterboxed picture take a sixth of its height each."""


def fit_photo(photo: Image8, size: Resolution) -> Image8:
    """A photograph repeated and cropped to a size."""
    repeats = -(-size.height // photo.shape[0]), -(-size.width // photo.shape[1]), 1
    return np.ascontiguousarray(np.tile(photo, repeats)[: size.height, : size.width])


def probe_pictures(photos: Sequence[Image8], size: Resolution | None) -> Mapping[str, Image8]:
    """Photographs and pictures that are hard on number formats, by name.

    Args:
        photos: (H, W, 3) uint8, at least one.
        size: Size of all pictures; None leaves the photographs as they are and takes the first one's for the others.
    """
    fitted = [photo if size is None else fit_photo(photo, size) for photo in photos]
    shape = height, width, _ = fitted[0].shape
    black, white = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
    letterboxed, bar = fitted[0].copy(), -(-height // _BAR)
    letterboxed[:bar] = letterboxed[-bar:] = 0
    y, x = np.mgrid[:height, :width]
    checkerboard: NDArray[np.uint8] = np.where(((y // 8 + x // 8) % 2)[..., None], white, black)
    noise = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8) * np.uint8(255)
    named = {f"photograph {number}": photo for number, photo in enumerate(fitted, start=1)}
    return named | {
        "black": black,
        "white": white,
        "flat gray": np.full(shape, 128, np.uint8),
        "letterboxed photograph": letterboxed,
        "checkerboard": checkerboard,
        "saturated noise": noise,
    }


def as_taken(picture: Image8, image: ImageSpec) -> NDArray[Any]:
    """A picture in the form that a network takes."""
    return picture[None] if image.dtype == "uint8" else to_batch(picture)
