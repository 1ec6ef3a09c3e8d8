"""Tiles cover a picture, blend without a seam, and stay within memory."""

from __future__ import annotations

import numpy as np
import pytest

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.infer.tiles import (
    TileNeeds,
    TilePlan,
    TileRows,
    plan_tiles,
    smallest_tile,
)


def collect(picture, plan, restore=lambda tile: tile, band=13):
    """What comes out of a plan when the picture goes in some rows at a time."""
    tiles, strips, given, top = TileRows(plan, lambda tile, place: restore(tile)), [], 0, 0
    for start in range(0, len(picture), band):
        given += len(picture[start : start + band])
        for blended, rows in tiles.feed(picture[start : start + band]):
            assert np.array_equal(rows, picture[top : top + len(rows)])
            top += len(rows)
            assert len(blended) == len(rows)
            assert top <= given
            strips.append(blended)
    return np.concatenate(strips)


@pytest.mark.parametrize("multiple", [1, 12, 16])
@pytest.mark.parametrize("margin", [0, 5, 16])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (70, 31), (64, 64), (200, 157), (97, 240)])
def test_weights_of_neighbours_add_up_to_one_everywhere(size, fixed, margin, multiple):
    picture = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    side = smallest_tile(margin, multiple)
    plan = TilePlan(size[1], size[0], side + 7, side, margin, multiple, fixed)

    assert np.abs(collect(picture, plan) - picture).max() < 1e-6


def test_tiles_of_a_fixed_network_have_its_size_and_begin_on_its_grid():
    picture = np.random.default_rng(0).random((130, 150, 3), dtype=np.float32)
    shapes = set()
    collect(picture, TilePlan(150, 130, 80, 64, 8, 16, fixed=True), lambda tile: shapes.add(tile.shape) or tile)

    assert shapes == {(64, 80, 3)}
    assert all(span.start % 16 == 0 for span in TilePlan(150, 130, 80, 64, 8, 16, fixed=True).rows)


def test_nothing_of_a_margin_is_used():
    """A network that spoils everything within its margin of a cut edge leaves no trace in the picture."""
    plan = TilePlan(300, 260, 96, 112, 24, 16)
    picture = np.zeros((260, 300, 1), np.float32)
    starts = [(row, column) for row in plan.rows for column in plan.columns]

    def spoil(tile):
        row, column = starts.pop(0)
        spoiled = tile.copy()
        if row.start:
            spoiled[:24] = 9
        if row.stop < 260:
            spoiled[-24:] = 9
        if column.start:
            spoiled[:, :24] = 9
        if column.stop < 300:
            spoiled[:, -24:] = 9
        return spoiled

    assert collect(picture, plan, spoil).max() == 0
    assert starts == []


def test_tiles_without_room_between_their_margins_are_refused():
    with pytest.raises(ConfigError, match="leave nothing between two margins of 40"):
        _ = TilePlan(300, 300, 96, 96, 40, 16).rows


def test_a_plan_keeps_to_its_budget_and_wastes_little():
    needs = TileNeeds(margin=96, multiple=16, bytes_per_pixel=900)
    for width, height in ((1920, 1080), (12240, 8160), (200, 90_000)):
        plan = plan_tiles(width, height, needs, 1_000_000_000)
        assert plan.tile_width * plan.tile_height * 924 + plan.tile_height * width * 24 <= 1_000_000_000
        assert plan.pixels < 1.8 * width * height


def test_a_picture_that_fits_is_one_tile():
    assert plan_tiles(1280, 720, TileNeeds(96, 16, 900), 1_000_000_000).tiles == 1


def test_too_little_memory_is_refused_with_what_it_takes():
    with pytest.raises(
        ConfigError, match="4000x3000 does not fit into the memory: the smallest tiles take 68 MB, and 20 MB are left"
    ):
        plan_tiles(4000, 3000, TileNeeds(96, 16, 900), 20_000_000)
