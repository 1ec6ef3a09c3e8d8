"""Pictures of any size through a network that takes only so much at once: a grid of overlapping tiles.

Each tile is larger than what is used of it. Within ``margin`` pixels of a cut edge the network misses what lies beyond,
so nothing of that is used; between the margins of two neighbours a linear ramp of ``feather`` pixels leads from one to
the other::

    tile A  ├───────────────────────┬──────┬ margin ┤
                           ├ margin ┴──────┴──────────────────────┤  tile B
                                     ramp

Tiles begin at multiples of the network's divisor, where its strides fall as they do in the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.errors import ConfigError

Float = NDArray[np.float32]

FEATHER = 16
"""Length of the ramp between two tiles in pixels."""

BAND_BYTES_PER_PIXEL, TILE_BYTES_PER_PIXEL = 36, 12
"""What a row of tiles takes per pixel of the picture, and each tile per pixel of its own, beside the network.

The row: three float32 of input, three of the blended result, and as much again for what the allocator keeps. The tile:
three float32, weighted.
"""


@dataclass(frozen=True)
class Span:
    """Where one tile lies along an axis, and how much it counts there.

    Args:
        start: First pixel.
        stop: Pixel after the last; may lie beyond the picture where the network takes one size only.
        ramp_in: Where the ramp from the tile before begins, or None for the first tile.
        ramp_out: Where the ramp to the next tile begins, or None for the last tile.
    """

    start: int
    stop: int
    ramp_in: int | None
    ramp_out: int | None

    def used(self, length: int) -> slice:
        """The part of the axis of ``length`` pixels to which the tile contributes."""
        first = self.start if self.ramp_in is None else self.ramp_in
        return slice(first, length if self.ramp_out is None else self.ramp_out + FEATHER)

    def weights(self, length: int) -> Float:
        """Share of the tile at every pixel that it contributes to, in (0, 1); neighbours add up to 1."""
        used = self.used(length)
        x = np.arange(used.start, used.stop, dtype=np.float32)
        share = np.ones_like(x)
        for begin, falling in ((self.ramp_in, False), (self.ramp_out, True)):
            if begin is not None:
                risen = np.clip((x - begin + 0.5) / FEATHER, 0, 1)
                share *= 1 - risen if falling else risen
        return share


@dataclass(frozen=True)
class TilePlan:
    """A grid of tiles over a picture.

    Args:
        width: Width of the picture in pixels.
        height: Height of the picture.
        tile_width: Width of the tiles.
        tile_height: Height of the tiles.
        margin: Pixels along a cut edge that are thrown away.
        multiple: Tiles begin at multiples of this.
        fixed: Whether the network takes tiles of exactly this size; otherwise those at the end are cut to the picture.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    margin: int
    multiple: int
    fixed: bool = False

    @property
    def columns(self) -> list[Span]:
        """The tiles' places from left to right."""
        return self._spans(self.width, self.tile_width)

    @property
    def rows(self) -> list[Span]:
        """The tiles' places from top to bottom."""
        return self._spans(self.height, self.tile_height)

    @property
    def tiles(self) -> int:
        """How many tiles there are."""
        return len(self.columns) * len(self.rows)

    @property
    def pixels(self) -> int:
        """Pixels that the network works through."""
        return sum(s.stop - s.start for s in self.columns) * sum(s.stop - s.start for s in self.rows)

    def _spans(self, length: int, tile: int) -> list[Span]:
        grid = _grid(self.multiple)
        step = (tile - 2 * self.margin - FEATHER) // grid * grid
        last = max(0, _round_up(length - tile, grid))  # the last tile moves back to end with the picture
        if last and step <= 0:
            raise ConfigError(
                f"tiles of {tile} pixels leave nothing between two margins of {self.margin}",
                hint=f"give tiles of at least {smallest_tile(self.margin, self.multiple)} pixels",
            )
        starts = [*range(0, last, step), last] if last else [0]
        stops = [start + tile if self.fixed else min(start + tile, length) for start in starts]
        ramps = [(start + stop - FEATHER) // 2 for start, stop in zip(starts[1:], stops[:-1], strict=True)]
        return [Span(*place) for place in zip(starts, stops, [None, *ramps], [*ramps, None], strict=True)]


def smallest_tile(margin: int, multiple: int) -> int:
    """The shortest side of a tile that leaves room for a ramp between its margins."""
    return _round_up(2 * margin + FEATHER, _grid(multiple)) + _grid(multiple)


def largest_margin(tile: int, multiple: int) -> int:
    """The widest margin with which tiles of one side still work, 0 or more."""
    return max(0, (tile - FEATHER - _grid(multiple)) // 2)


@dataclass(frozen=True)
class TileNeeds:
    """What tiles of a network take.

    Args:
        margin: Pixels along a cut edge that have to be thrown away.
        multiple: Divisor of the network.
        bytes_per_pixel: Memory of the network per pixel of a tile.
    """

    margin: int
    multiple: int
    bytes_per_pixel: int


def whole_bytes(width: int, height: int, bytes_per_pixel: int) -> int:
    """Memory for a picture that goes through the network as one tile."""
    return width * height * (bytes_per_pixel + TILE_BYTES_PER_PIXEL + BAND_BYTES_PER_PIXEL)


def plan_tiles(width: int, height: int, needs: TileNeeds, budget_bytes: int) -> TilePlan:
    """The grid within a memory budget that makes the network work through the fewest pixels.

    Args:
        width: Width of the picture in pixels.
        height: Height of the picture.
        needs: What tiles take.
        budget_bytes: Memory for the network and for one row of tiles.

    Returns:
        The plan; a single tile where the whole picture fits.

    Raises:
        ConfigError: Not even the smallest tiles fit.
    """
    if whole_bytes(width, height, needs.bytes_per_pixel) <= budget_bytes:
        return TilePlan(width, height, width, height, needs.margin, needs.multiple)
    smallest, per_pixel = smallest_tile(needs.margin, needs.multiple), needs.bytes_per_pixel + TILE_BYTES_PER_PIXEL
    best: TilePlan | None = None
    for tile_height in range(smallest, height + smallest, _grid(needs.multiple)):
        tall = min(tile_height, height)
        left = budget_bytes - tall * width * BAND_BYTES_PER_PIXEL
        tile_width = min(width, left // (tall * per_pixel) // needs.multiple * needs.multiple)
        if tile_width < min(smallest, width):
            break
        plan = TilePlan(width, height, tile_width, tall, needs.margin, needs.multiple)
        if best is None or plan.pixels < best.pixels:
            best = plan
    if best is None:
        least = min(smallest, width) * min(smallest, height) * per_pixel
        least += min(smallest, height) * width * BAND_BYTES_PER_PIXEL
        raise ConfigError(
            f"{width}x{height} does not fit into the memory: the smallest tiles take {least / 1e6:.0f} MB, and "
            f"{max(0, budget_bytes) / 1e6:.0f} MB are left",
            hint="give more with --max-memory",
        )
    return best


def restore_rows(
    read: Callable[[int, int], Float], restore: Callable[[Float], Float], plan: TilePlan
) -> Iterator[tuple[int, Float]]:
    """Run a network over a plan's tiles, from top to bottom.

    Args:
        read: Gives rows ``start`` to ``stop`` of the picture, (stop - start, width, C) float32. Each row is asked for
            once, in order.
        restore: The network on one tile, (h, w, C) to the same shape.
        plan: The grid.

    Yields:
        First row and finished rows, (n, width, C) float32, each row once, in order. All rows that the tiles so far
        reach have then been read, so the caller may write them over the picture, and change them.
    """
    window, begin = read(0, 0), 0  # rows [begin, begin + len(window)) of the picture
    unfinished, top = window, 0  # sums from row ``top`` on, which the next tiles will add to
    for row in plan.rows:
        seen, bottom = begin + len(window), min(row.stop, plan.height)
        window = window[row.start - begin :].copy()  # the old window goes before the new one is read
        window = np.concatenate([window, read(seen, bottom)])
        begin = row.start
        used = row.used(plan.height)
        band = _restore_band(window, restore, plan, row)[used.start - row.start : used.stop - row.start]
        band *= row.weights(plan.height)[:, None, None]
        band[: len(unfinished)] += unfinished
        top = used.start
        done = len(band) if row.ramp_out is None else row.ramp_out - top
        unfinished = band[done:].copy()
        yield top, band[:done]
        del band


def _restore_band(window: Float, restore: Callable[[Float], Float], plan: TilePlan, row: Span) -> Float:
    """One row of tiles, blended from left to right: (h, width, C)."""
    band = np.zeros_like(window)
    for column in plan.columns:
        tile = window[:, column.start : min(column.stop, plan.width)]
        height, width = tile.shape[:2]
        if plan.fixed:
            pads = ((0, row.stop - row.start - height), (0, column.stop - column.start - width), (0, 0))
            tile = np.pad(tile, pads, mode="edge")
        used = column.used(plan.width)
        restored = restore(tile)[:height, used.start - column.start : used.stop - column.start]
        band[:, used] += restored * column.weights(plan.width)[None, :, None]
    return band


def _grid(multiple: int) -> int:
    """Where tiles may begin: the network's divisor, taken often enough that two ramps never meet."""
    return _round_up(FEATHER, multiple)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
