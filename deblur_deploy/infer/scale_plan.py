"""The tiles of every scale of a scale-recurrent network, so that all of them together stay within the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from deblur_deploy.core.images import Resolution
from deblur_deploy.infer.tiles import TileNeeds, TilePlan, smallest_tile, too_little_memory
from deblur_deploy.network.scales import Scales

_FLOAT_PIXEL = 12
"""Bytes of three float32."""

_TILE_SHARES = (0.9, 0.75, 0.6, 0.45, 0.3, 0.2)
"""Parts of the memory that are tried for the network on one tile; rows that are held share the rest."""

_FINEST_WEIGHTS = (1, 2, 4)
"""How much higher tiles of the finest scale may be than those of the others, as is tried."""

_NEAR = 1.02
"""How near to the least memory that suffices the one is that is named."""

_HEIGHTS = 16
"""How many heights of tiles are tried."""


@dataclass(frozen=True)
class ScalePlan:
    """Tiles of every scale of a picture.

    Args:
        width: Width of the picture in pixels.
        height: Height of the picture.
        scales: The tiles of each scale, the finest first; of the picture as the network pads it.
    """

    width: int
    height: int
    scales: tuple[TilePlan, ...]

    @property
    def tiles(self) -> int:
        """How many tiles there are of the finest scale."""
        return self.scales[0].tiles

    @property
    def tile_height(self) -> int:
        """Height of the tiles of the finest scale."""
        return self.scales[0].tile_height

    @property
    def pixels(self) -> int:
        """Pixels that the network works through on all scales."""
        return sum(plan.pixels for plan in self.scales)


class Margins(NamedTuple):
    """Pixels of a scale along cut edges that have to be thrown away.

    Args:
        across: On the left and on the right.
        down: Above and below.
    """

    across: int
    down: int


class ScalePlanner:
    """Plans for a network.

    Attributes:
        smallest: The least width and height of a tile.

    Args:
        scales: How its scales fit together.
        margins: Of the tiles of every scale.
        bytes_per_pixel: Memory of the network per pixel of a tile.
    """

    def __init__(self, scales: Scales, margins: Margins, bytes_per_pixel: int) -> None:
        self._scales, self._margins, self._bytes = scales, margins, bytes_per_pixel
        self._multiple = 2 * scales.state_stride  # tiles begin and end where the coarser scale's state has values
        self.smallest = Resolution(*(smallest_tile(margin, self._multiple) for margin in margins))

    def with_tiles(self, width: int, height: int, tiles: Sequence[Resolution]) -> ScalePlan:
        """A plan with tiles of given sizes.

        Args:
            width: Width of the picture.
            height: Height of the picture.
            tiles: Sizes for each scale, the finest first; rounded down to what fits the network.

        Raises:
            ConfigError: One is too small for the margins.
        """
        plans = []
        for index, tile in enumerate(tiles):
            wide, tall = self._size(width, height, index)
            across, down = (
                whole if side >= whole else side // self._multiple * self._multiple
                for side, whole in ((tile.width, wide), (tile.height, tall))
            )
            plan = self._grid(wide, tall, across, down)
            _ = plan.tiles  # refuses tiles that are too small
            plans.append(plan)
        return ScalePlan(width, height, tuple(plans))

    def within(self, width: int, height: int, stored_bytes: int, budget_bytes: int) -> ScalePlan:
        """The plan within a memory budget with the least work that was found.

        Args:
            width: Width of the picture.
            height: Height of the picture.
            stored_bytes: Bytes of a pixel of the picture as it is stored.
            budget_bytes: Memory for the network, and for rows that are held.

        Raises:
            ConfigError: Not even the smallest tiles fit.
        """
        best = self._best(width, height, stored_bytes, budget_bytes)
        if best is None:
            too_little, enough = budget_bytes, 2 * max(1, budget_bytes)
            while self._best(width, height, stored_bytes, enough) is None:
                too_little, enough = enough, 2 * enough
            while enough > _NEAR * too_little:
                middle = (too_little + enough) // 2
                if self._best(width, height, stored_bytes, middle) is None:
                    too_little = middle
                else:
                    enough = middle
            raise too_little_memory(width, height, enough, budget_bytes)
        return best

    def _best(self, width: int, height: int, stored_bytes: int, budget_bytes: int) -> ScalePlan | None:
        """The plan of the least work out of some ways to share the memory, if any suffices."""
        needs = [self._needs(index, stored_bytes) for index in range(self._scales.count)]
        best: ScalePlan | None = None
        sizes = [self._size(width, height, index) for index in range(len(needs))]
        row_bytes = [wide * each.band_bytes for (wide, _), each in zip(sizes, needs, strict=True)]
        for tile_share, weight in product(_TILE_SHARES, _FINEST_WEIGHTS):
            held = int(budget_bytes * (1 - tile_share))
            rows = held // (weight * row_bytes[0] + sum(row_bytes[1:]))
            coarser = [min(rows, tall) for _, tall in sizes[1:]]
            finest = (held - sum(a * b for a, b in zip(coarser, row_bytes[1:], strict=True))) // row_bytes[0]
            largest = int(budget_bytes * tile_share) // needs[0].tile_bytes
            plans = [
                self._fewest_pixels(wide, tall, largest, limit)
                for (wide, tall), limit in zip(sizes, (finest, *coarser), strict=True)
            ]
            found = ScalePlan(width, height, tuple(plan for plan in plans if plan is not None))
            if None not in plans and (best is None or found.pixels < best.pixels):
                best = found
        return best

    def _fewest_pixels(self, width: int, height: int, largest: int, rows: int) -> TilePlan | None:
        """The least work on one scale with tiles of so many pixels and rows, if any fit."""
        least, highest = min(self.smallest.height, height), min(rows, height)
        if least > highest:
            return None
        steps = np.geomspace(least, highest, _HEIGHTS)
        fitting = []
        for tall in {height if step >= height else int(step) // self._multiple * self._multiple for step in steps}:
            wide = min(width, largest // tall // self._multiple * self._multiple)
            if tall >= least and wide >= min(self.smallest.width, width):
                fitting.append(self._grid(width, height, wide, tall))
        return min(fitting, key=lambda plan: plan.pixels, default=None)

    def _grid(self, width: int, height: int, tile_width: int, tile_height: int) -> TilePlan:
        across, down = self._margins
        return TilePlan(width, height, tile_width, tile_height, across, self._multiple, margin_down=down)

    def _size(self, width: int, height: int, index: int) -> tuple[int, int]:
        """Size of the padded picture on a scale."""
        multiple = self._scales.multiple_of
        return (-(-width // multiple) * multiple) // 2**index, (-(-height // multiple) * multiple) // 2**index

    def _needs(self, index: int, stored_bytes: int) -> TileNeeds:
        """What tiles of a scale take, with the rows of the finer scales that wait for a row of them."""
        stored = [stored_bytes] + [_FLOAT_PIXEL] * index
        waiting = sum(4 ** (index - finer) * stored[finer] for finer in range(index))
        if index:  # nothing of a coarser scale is on its way to a file: there are its window, and sums
            return self._tile_needs(0, 2 * _FLOAT_PIXEL + waiting + self._given_bytes)
        return self._tile_needs(stored_bytes, self._given_bytes)

    def _tile_needs(self, stored_bytes: int, beside_bytes: int) -> TileNeeds:
        return TileNeeds(max(self._margins), self._multiple, self._bytes, stored_bytes, beside_bytes)

    @property
    def _given_bytes(self) -> int:
        """What estimate and state of the coarser scale take per pixel, twice while they are moved."""
        area = self._scales.state_stride**2  # of the coarser scale, whose pixels are four of this one
        return -(-2 * (_FLOAT_PIXEL * area + 4 * self._scales.state_channels) // (4 * area))
