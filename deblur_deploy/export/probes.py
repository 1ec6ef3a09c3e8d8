"""Pictures on which an exported network is compared with the one that it was made from.

Photographs show how it does in normal use. The others are what breaks number formats: flat areas, where variances
and norms are zero, borders between them and a photograph, and as much contrast as there can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.images import ImageSpec, Resolution, to_batch
from deblur_deploy.data.pairs import Image8

_BAR = 6
"""The bars of a letterboxed picture take a sixth of its height each."""

_LEAST_PART = 160
"""Pixels of the shorter side of a part of a sheet, so that most of it is away from its borders."""

_COLUMNS, _ROWS = 4, 2

_BLENDED = 32
"""Pixels beside a neighbour in which a part is not judged: a flat area is not as flat there."""


@dataclass(frozen=True)
class Sheet:
    """A picture that holds others side by side.

    Args:
        picture: (H, W, 3) uint8.
        parts: Rows and columns in which each is judged, by name.
    """

    picture: Image8
    parts: Mapping[str, tuple[slice, slice]]

    @classmethod
    def of_one(cls, name: str, picture: Image8) -> Sheet:
        """A sheet that is one picture."""
        return cls(picture, {name: (slice(None), slice(None))})

    def cut(self, part: str, output: NDArray[Any]) -> NDArray[Any]:
        """A part of what a network gave for the sheet: (N, 3, H, W) floats, or (N, H, W, 3) uint8."""
        rows, columns = self.parts[part]
        return output[:, rows, columns] if output.dtype == np.uint8 else output[:, :, rows, columns]


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


def probe_sheets(photos: Sequence[Image8], size: Resolution | None, *, together: bool) -> list[Sheet]:
    """The pictures of :func:`probe_pictures`, as few sheets as they fit on.

    Args:
        photos: As there.
        size: As there, and of every sheet.
        together: Whether a sheet may hold several, each smaller. It is for networks that look at neighbourhoods
            (``graph/locality.py``): black between photographs is then as black as a black picture.
    """
    columns = min(_COLUMNS, size.width // _LEAST_PART) if size and together else 0
    rows = min(_ROWS, size.height // _LEAST_PART) if size and together else 0
    if size is None or columns * rows < 2:
        return [Sheet.of_one(name, picture) for name, picture in probe_pictures(photos, size).items()]
    part = Resolution(size.width // columns, size.height // rows)
    places = [
        (slice(y, y + part.height), slice(x, x + part.width))
        for y, x in product(range(0, rows * part.height, part.height), range(0, columns * part.width, part.width))
    ]
    pictures = list(probe_pictures(photos, part).items())
    sheets = []
    for first in range(0, len(pictures), len(places)):
        sheet, parts = fit_photo(photos[0], size), {}
        for (name, picture), place in zip(pictures[first:], places, strict=False):
            sheet[place], parts[name] = picture, _away_from_others(place, (rows * part.height, columns * part.width))
        sheets.append(Sheet(sheet, parts))
    return sheets


def _away_from_others(place: tuple[slice, slice], ends: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns without those beside a neighbour; those at the edges of the sheet stay.

    Args:
        place: Rows and columns of a part.
        ends: Where the last rows and columns of parts end.
    """
    rows, columns = (
        slice(side.start + _BLENDED * (side.start > 0), side.stop - _BLENDED * (side.stop < end))
        for side, end in zip(place, ends, strict=True)
    )
    return rows, columns


def as_taken(picture: Image8, image: ImageSpec) -> NDArray[Any]:
    """A picture in the form that a network takes."""
    return picture[None] if image.dtype == "uint8" else to_batch(picture)
