"""Whether tiles of a network give what the whole picture gives, tried before a picture depends on it.

A network may depend on where it is in the picture (one that splits it in halves, or is given coordinates) or on all of
it (one that normalises by the picture's statistics). A measured reach does not show the first, and is no reach of the
second. So two cheap pictures go through whole and in tiles whose borders are not in their middle.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.infer.receptive_field import PROBE_WIDTH, TOLERANCE, as_batch, block_means, draw_probe, noisy
from deblur_deploy.infer.tiles import TilePlan, TileRows, smallest_tile
from deblur_deploy.runtime.runner import Runner

Float = NDArray[np.float32]

BOUND = 0.5
"""How many levels of 255 tiles may differ from the whole: what rounding to 8 bits hides."""

_LONGER, _ROOM = 3, 256
"""Length of a strip over that of the tiles, and pixels by which tiles are longer than the margins need."""

_DARK = 0.4
"""Brightness of one half of a strip over that of the other: in a tile, the picture's statistics are others."""


def tile_difference(runner: Runner, margin: int, side: int) -> float:
    """The largest difference between a drawn picture in tiles and as a whole, in levels of 255.

    Two strips are cut, one along each axis. A network that rounds its activations differs from itself by its own noise,
    so what counts is how far the mean of a block lies above that (see ``receptive_field.py``).

    Args:
        runner: A network that takes any size.
        margin: Pixels along a cut edge that are thrown away.
        side: Of the tiles along the strip, at least; they are as long as the margin needs.
    """
    smallest = smallest_tile(margin, runner.image.multiple_of)
    side = max(side, smallest + _ROOM)
    long, short = _LONGER * side, PROBE_WIDTH

    def in_tiles(picture: Float) -> Float:
        height, width, _ = picture.shape
        plan = TilePlan(width, height, min(side, width), min(side, height), margin, runner.image.multiple_of)
        rows = TileRows(plan, lambda tile, place: _run(runner, tile))
        return np.concatenate([restored for restored, _ in rows.feed(picture)])

    return max(difference_on(runner, in_tiles, shape) for shape in ((long, short), (short, long)))


def difference_on(runner: Runner, in_tiles: Callable[[Float], Float], shape: tuple[int, int]) -> float:
    """The difference on one strip, in levels of 255.

    Args:
        runner: The network.
        in_tiles: The network on (H, W, 3) in tiles.
        shape: Height and width of the strip.
    """
    picture = draw_probe(*shape)
    height, width, _ = picture.shape
    picture[height // 2 if height > width else 0 :, width // 2 if width > height else 0 :] *= _DARK
    whole, tiled = _run(runner, picture), in_tiles(picture).clip(0, 1)
    apart = np.abs(tiled - whole)
    levels = float(apart.max() * 255)
    if levels > BOUND:
        noise = np.abs(_run(runner, noisy(picture)) - whole)
        if noise.max() > TOLERANCE:
            beyond = block_means(apart.transpose(2, 0, 1)).max() - block_means(noise.transpose(2, 0, 1)).max()
            levels = max(0.0, float(beyond) * 255)
    return levels


def _run(runner: Runner, picture: NDArray[np.float32]) -> Float:
    restored: Float = runner.infer(as_batch(picture))[0].transpose(1, 2, 0)
    return np.clip(restored, 0, 1)
