"""Whether tiles of a network give what the whole picture gives, tried before a picture depends on it.

A network may depend on where it is in the picture (one that splits it in halves, or is given coordinates) or on all of
it (one that normalises by the picture's statistics). A measured reach does not show the first, and is no reach of the
second. So one cheap picture goes through whole and in tiles whose borders are not in its middle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.infer.reach import draw_probe
from deblur_deploy.infer.tiles import TilePlan, TileRows, smallest_tile
from deblur_deploy.runtime.runner import Runner

Float = NDArray[np.float32]

BOUND = 0.5
"""How many levels of 255 tiles may differ from the whole: what rounding to 8 bits hides."""

_WIDER, _TALLER = 0.7, 0.4
"""What the picture's sides are longer than the tile's, by the tile's, where its margins leave so much."""

_ROOM = 128
"""Pixels by which tiles are larger than the margin needs: each row of the smallest ones adds a few pixels alone."""


def tile_difference(runner: Runner, margin: int, side: int) -> float:
    """The largest difference between a drawn picture in tiles and as a whole, in levels of 255.

    Args:
        runner: A network that takes any size.
        margin: Pixels along a cut edge that are thrown away.
        side: Of the tiles, at least; they are as large as the margin needs.
    """
    multiple = runner.image.multiple_of
    smallest = smallest_tile(margin, multiple)
    side = max(side, smallest + _ROOM)
    room = side - smallest  # with no more, two tiles lie along each side of the picture
    picture = draw_probe(side + min(int(_TALLER * side), room - room // 4), side + min(int(_WIDER * side), room))
    height, width, _ = picture.shape
    whole = _run(runner, picture)
    rows = TileRows(TilePlan(width, height, side, side, margin, multiple), lambda tile: _run(runner, tile))
    tiled = np.concatenate([restored for restored, _ in rows.feed(picture)])
    return float(np.abs(np.clip(tiled, 0, 1) - np.clip(whole, 0, 1)).max() * 255)


def _run(runner: Runner, picture: NDArray[np.float32]) -> Float:
    batch = np.ascontiguousarray(picture.transpose(2, 0, 1)[None])
    restored: Float = runner.infer(batch)[0].transpose(1, 2, 0)
    return restored
