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
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import ConfigError

Float = NDArray[np.float32]

FEATHER = 16
"""Length of the ramp between two tiles in pixels."""

TILE_BYTES_PER_PIXEL = 24
"""What a tile takes per pixel beside the network: three float32 of input, and three of weighted result."""

_BLENDED_BYTES_PER_PIXEL, _STORED_COPIES = 12, 4
"""What a row of tiles takes per pixel of the picture: three float32 of blended result, and copies of what is stored.

Those are what was read, and three parts of the result on their way: being made, waiting, being written.
"""

FRUGAL_SHARES, FRUGAL_WORK = (8, 4, 2), 1.1
"""Parts of a budget, as divisors, that are tried before the whole, and the work that a smaller one may cost.

Beyond some size larger tiles save next to nothing, and memory that saves nothing is not taken.
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


class Place(NamedTuple):
    """Where a tile lies.

    Args:
        row: From top to bottom.
        column: From left to right.
    """

    row: Span
    column: Span


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
        margin_down: The margin along edges above and below, where it is another than at the sides.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    margin: int
    multiple: int
    fixed: bool = False
    margin_down: int | None = None

    @property
    def columns(self) -> list[Span]:
        """The tiles' places from left to right."""
        return self._spans(self.width, self.tile_width, self.margin)

    @property
    def rows(self) -> list[Span]:
        """The tiles' places from top to bottom."""
        down = self.margin if self.margin_down is None else self.margin_down
        return self._spans(self.height, self.tile_height, down)

    @property
    def tiles(self) -> int:
        """How many tiles there are."""
        return len(self.columns) * len(self.rows)

    @property
    def pixels(self) -> int:
        """Pixels that the network works through."""
        down = self.margin if self.margin_down is None else self.margin_down
        return self._covered(self.width, self.tile_width, self.margin) * self._covered(
            self.height, self.tile_height, down
        )

    def _starts(self, length: int, tile: int, margin: int) -> tuple[range, int]:
        """Where all tiles but the last begin, and the last."""
        grid = _grid(self.multiple)
        step = (tile - 2 * margin - FEATHER) // grid * grid
        last = max(0, _round_up(length - tile, grid))  # the last tile moves back to end with the picture
        if last and step <= 0:
            raise ConfigError(
                f"tiles of {tile} pixels leave nothing between two margins of {margin}",
                hint=f"give tiles of at least {smallest_tile(margin, self.multiple)} pixels",
            )
        return range(0, last, step) if last else range(0), last

    def _covered(self, length: int, tile: int, margin: int) -> int:
        """Lengths of all tiles together; all but the last lie within the picture."""
        starts, last = self._starts(length, tile, margin)
        return len(starts) * tile + (tile if self.fixed else min(tile, length - last))

    def _spans(self, length: int, tile: int, margin: int) -> list[Span]:
        before, last = self._starts(length, tile, margin)
        starts = [*before, last]
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
        stored_bytes: Bytes of a pixel of the picture as it is stored, such as 3 for RGB with 8 bits.
        beside_bytes: What else is held per pixel of the picture in one row of tiles.
    """

    margin: int
    multiple: int
    bytes_per_pixel: int
    stored_bytes: int = 3
    beside_bytes: int = 0

    @property
    def tile_bytes(self) -> int:
        """Memory per pixel of a tile."""
        return self.bytes_per_pixel + TILE_BYTES_PER_PIXEL

    @property
    def band_bytes(self) -> int:
        """Memory per pixel of the picture in one row of tiles."""
        return _BLENDED_BYTES_PER_PIXEL + _STORED_COPIES * self.stored_bytes + self.beside_bytes


def fits_whole(width: int, height: int, needs: TileNeeds, budget_bytes: int) -> bool:
    """Whether a picture can go through the network as one tile. The margin does not count."""
    return width * height * (needs.tile_bytes + needs.band_bytes) <= budget_bytes


def plan_tiles(width: int, height: int, needs: TileNeeds, budget_bytes: int) -> TilePlan:
    """The grid within a memory budget that makes the network work through the fewest pixels.

    Of two grids whose work differs by less than a tenth it is the one that takes less memory.

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
    if fits_whole(width, height, needs, budget_bytes):
        return TilePlan(width, height, width, height, needs.margin, needs.multiple)
    best = _fewest_pixels(width, height, needs, budget_bytes)
    if best is None:
        smallest = smallest_tile(needs.margin, needs.multiple)
        tile = min(smallest, width) * min(smallest, height) * needs.tile_bytes
        raise too_little_memory(width, height, tile + min(smallest, height) * width * needs.band_bytes, budget_bytes)
    for share in FRUGAL_SHARES:
        frugal = _fewest_pixels(width, height, needs, budget_bytes // share)
        if frugal is not None and frugal.pixels <= FRUGAL_WORK * best.pixels:
            return frugal
    return best


def too_little_memory(width: int, height: int, least_bytes: int, budget_bytes: int) -> ConfigError:
    """The error where not even the smallest tiles of a picture fit."""
    left = max(0, budget_bytes)
    return ConfigError(
        f"{width}x{height} does not fit into the memory: the smallest tiles take {least_bytes / 1e6:.0f} MB, and "
        f"{left / 1e6:.0f} MB are left",
        # A quarter of what is added goes to pictures that wait.
        hint=f"give {-(-(least_bytes - left) * 4 // 3_000_000)} MB more with --max-memory",
    )


def _fewest_pixels(width: int, height: int, needs: TileNeeds, budget_bytes: int) -> TilePlan | None:
    """The grid within a budget that makes the network work through the fewest pixels, or None where none fits."""
    smallest = smallest_tile(needs.margin, needs.multiple)
    best: TilePlan | None = None
    for tile_height in range(smallest, height + smallest, _grid(needs.multiple)):
        tall = min(tile_height, height)
        left = budget_bytes - tall * width * needs.band_bytes
        tile_width = min(width, left // (tall * needs.tile_bytes) // needs.multiple * needs.multiple)
        if tile_width < min(smallest, width):
            break
        plan = TilePlan(width, height, tile_width, tall, needs.margin, needs.multiple)
        if best is None or plan.pixels < best.pixels:
            best = plan
    return best


class TileRows:
    """A picture that is given from top to bottom, through a network one row of tiles after the other.

    Only the rows that a row of tiles covers are held.

    Args:
        plan: The grid.
        restore: The network on one tile: (h, w, C) of what is given, and its place, to (h, w, colours) float32.
    """

    def __init__(self, plan: TilePlan, restore: Callable[[NDArray[Any], Place], Float]) -> None:
        self._plan, self._restore = plan, restore
        self._spans = plan.rows
        self._window: NDArray[Any] | None = None
        self._begin, self._seen = 0, 0  # rows [begin, seen) of the picture are in the window
        self._unfinished: Float | None = None  # sums that the next row of tiles will add to

    @property
    def needed_from(self) -> int:
        """The first row of the picture that the tiles to come begin with."""
        return self._begin if self._spans else self._plan.height

    def feed(self, rows: NDArray[Any]) -> Iterator[tuple[Float, NDArray[Any]]]:
        """Give the next rows of the picture.

        Args:
            rows: (n, width, C).

        Yields:
            Restored rows, (m, width, colours) float32, and the same rows as they were given, (m, width, C); each row of
            the picture once, in order. The latter hold until the next are asked for.
        """
        if self._window is None:
            tallest = max(min(span.stop, self._plan.height) - span.start for span in self._spans)
            self._window = np.empty((tallest, *rows.shape[1:]), rows.dtype)
        while len(rows):
            span = self._spans[0]
            bottom = min(span.stop, self._plan.height)
            taken = rows[: bottom - self._seen]
            self._window[self._seen - self._begin :][: len(taken)] = taken
            self._seen += len(taken)
            rows = rows[len(taken) :]
            if self._seen == bottom:
                yield self._finish(span, self._window[: bottom - self._begin])
                self._advance(self._window)

    def _advance(self, window: NDArray[Any]) -> None:
        """Keep of the window what the next row of tiles begins with."""
        del self._spans[0]
        if self._spans:
            kept = window[self._spans[0].start - self._begin : self._seen - self._begin]
            window[: len(kept)] = kept.copy()
            self._begin = self._spans[0].start

    def _finish(self, row: Span, window: NDArray[Any]) -> tuple[Float, NDArray[Any]]:
        height = self._plan.height
        used = row.used(height)
        band = self._blend(row, window)[used.start - row.start : used.stop - row.start]
        band *= row.weights(height)[:, None, None]
        if self._unfinished is not None:
            band[: len(self._unfinished)] += self._unfinished
        done = len(band) if row.ramp_out is None else row.ramp_out - used.start
        self._unfinished = band[done:].copy()
        return band[:done], window[used.start - row.start :][:done]

    def _blend(self, row: Span, window: NDArray[Any]) -> Float:
        """One row of tiles, blended from left to right: (h, width, colours)."""
        plan = self._plan
        band: Float | None = None
        for column in plan.columns:
            tile = window[:, column.start : min(column.stop, plan.width)]
            height, width = tile.shape[:2]
            if plan.fixed:
                pads = ((0, row.stop - row.start - height), (0, column.stop - column.start - width), (0, 0))
                tile = np.pad(tile, pads, mode="edge")
            used = column.used(plan.width)
            restored = self._restore(tile, Place(row, column))
            restored = restored[:height, used.start - column.start : used.stop - column.start]
            if band is None:
                band = np.zeros((height, plan.width, restored.shape[2]), np.float32)
            band[:, used] += restored * column.weights(plan.width)[None, :, None]
            del restored  # before the next tile is made
        assert band is not None  # a plan has a tile
        return band


def _grid(multiple: int) -> int:
    """Where tiles may begin: the network's divisor, taken often enough that two ramps never meet."""
    return _round_up(FEATHER, multiple)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
