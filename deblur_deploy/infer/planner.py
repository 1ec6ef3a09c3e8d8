"""How a picture is cut for a network: whole, in tiles, or in tiles of every scale, by what is measured of the network.

Measuring takes a while, so it is done once, where a picture first needs it, and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution
from deblur_deploy.infer.receptive_field import measure_bytes_per_pixel, measure_receptive_field
from deblur_deploy.infer.scale_plan import Margins, ScalePlan, ScalePlanner
from deblur_deploy.infer.scale_reach import measure_scale_margins, scale_difference
from deblur_deploy.infer.tile_trial import BOUND, tile_difference
from deblur_deploy.infer.tiles import TileNeeds, TilePlan, fits_whole, largest_margin, plan_tiles, smallest_tile
from deblur_deploy.network.scales import Scales
from deblur_deploy.runtime.abilities import FollowsFilm, RunsScales
from deblur_deploy.runtime.runner import Runner, fixed_size

IN_FLIGHT_SHARE = 4
"""The part of the memory, as a divisor, for pictures that wait to be restored or written."""

_ROUNDING_UP = 1_000_000
"""Amounts of memory are said in whole megabytes."""

_BYTES, _MARGIN, _CAPPED, _DIFFERENCE, _PARTS = "bytes_per_pixel", "margin", "margin_capped", "tile_difference", 1000
"""Names of measurements, and the parts of a level in which the difference is kept."""

_ACROSS, _DOWN = "scale_margin_across", "scale_margin_down"
"""Likewise, of networks whose scales run one by one."""

_TRIAL_SIDE, _MARGIN_WITHOUT_END = 256, 64
"""Tiles that are tried, and their margin where the network has no end to its reach."""

_UNKNOWN_MARGIN = 208
"""Taken for the margin of tiles before it is measured: more than half of what it is measured on."""


class Planner:
    """Cuts pictures for a network.

    Args:
        runner: The network.
        tile: Size of tiles, instead of what the memory allows.
        known: What was measured of the network before. New measurements are added to it.
    """

    def __init__(self, runner: Runner, tile: Resolution | None, known: dict[str, int]) -> None:
        self._runner, self._tile, self.known = runner, tile, known
        self._size = fixed_size(runner.image)
        self._scales: Scales | None = runner.scales if isinstance(runner, RunsScales) else None

    def measure_memory(self) -> None:
        """Measure what the network takes, where plans depend on it."""
        if self._size is None and self._tile is None and _BYTES not in self.known:
            self.known[_BYTES] = measure_bytes_per_pixel(self._runner)

    @property
    def smallest_tile_pixels(self) -> int:
        """Pixels of the smallest tile, as far as the margin is known."""
        if self._scales is not None:
            margins = Margins(*(self.known.get(name, _UNKNOWN_MARGIN) for name in (_ACROSS, _DOWN)))
            smallest = ScalePlanner(self._scales, margins, 0).smallest
            return smallest.width * smallest.height
        return smallest_tile(self.known.get(_MARGIN, _UNKNOWN_MARGIN), self._runner.image.multiple_of) ** 2

    @property
    def seams(self) -> str:
        """Why tiles that pictures went through show, with what to do about it; empty where they do not."""
        if self._size is not None:
            if self.known.get(_MARGIN, 0) <= self._margin_that_fits(self._size):
                return ""
            return "seams may show: the graph's size is less than the network reaches; export it with more --res"
        levels = self.known.get(_DIFFERENCE, 0) / _PARTS
        if levels <= BOUND:
            return ""
        return (
            f"tiles differ from the whole picture by {levels:.1f} of 255 levels on a trial picture, and by more on "
            "some: the network looks at all of it. Leave out --tile, and give the memory of the whole with --max-memory"
        )

    def plan(
        self, width: int, height: int, stored_bytes: int, budget_bytes: int, whole: Callable[[int], int]
    ) -> TilePlan | ScalePlan:
        """The tiles for a picture.

        Args:
            width: Width of the picture in pixels.
            height: Height of the picture.
            stored_bytes: Bytes of a pixel as it is stored, such as 6 for RGB with 16 bits.
            budget_bytes: Memory for the network and for rows that are held.
            whole: Memory of the process with which so many bytes are there for the network.

        Raises:
            ConfigError: The memory does not suffice, or the tiles that were asked for are too small.
        """
        tile = self._size or self._tile
        needs = TileNeeds(0, self._runner.image.multiple_of, self.known.get(_BYTES, 0), stored_bytes)
        if isinstance(self._runner, FollowsFilm):
            self._require_whole(width, height, tile is None and not fits_whole(width, height, needs, budget_bytes))
        if tile is not None:
            return self._plan_with(tile, width, height)
        if fits_whole(width, height, needs, budget_bytes):
            return plan_tiles(width, height, needs, budget_bytes)
        if self._scales is not None:
            planner = self._scale_planner(self._scales, self.known[_BYTES])
        else:
            needs = replace(needs, margin=self._margin(None))
        if self.seams:
            work = width * height * (needs.tile_bytes + needs.band_bytes)
            raise self._needs_whole(f"{width}x{height}", whole(work) + _ROUNDING_UP)
        if self._scales is not None:
            return planner.within(width, height, stored_bytes, budget_bytes)
        return plan_tiles(width, height, needs, budget_bytes)

    def _plan_with(self, tile: Resolution, width: int, height: int) -> TilePlan | ScalePlan:
        """Tiles of a size that is given by the network or by the user."""
        fits = width <= tile.width and height <= tile.height
        if self._scales is not None and not fits:
            return self._scale_planner(self._scales, 0).with_tiles(width, height, [tile] * self._scales.count)
        margin = 0 if fits else self._margin(tile)
        multiple, is_fixed = self._runner.image.multiple_of, self._size is not None
        return TilePlan(width, height, tile.width, tile.height, margin, multiple, is_fixed)

    def _require_whole(self, width: int, height: int, lacks_memory: bool) -> None:
        """Refuse frames that would go in tiles, of which none could keep the frame before."""
        given = Resolution(width, height)
        if self._size not in (None, given):
            why, hint = f"the graph takes frames of {self._size} alone", f"export it with --res {given}"
        elif self._tile is not None or lacks_memory:
            why, hint = "the frame before is kept for whole frames alone", "give more with --max-memory, without --tile"
        else:
            return
        raise ConfigError(f"frames of {given} would go through in tiles, and {why}", hint=hint)

    def _needs_whole(self, size: str, whole_bytes: int) -> ConfigError:
        """The error for a picture that does not fit as a whole, of a network that tiles do not serve."""
        levels = self.known[_DIFFERENCE] / _PARTS
        return ConfigError(
            f"the network looks at the whole picture, and {size} takes {whole_bytes / 1e6:.0f} MB as a whole; "
            f"in tiles it comes out different by {levels:.1f} of 255 levels and more",
            hint=f"give more than {whole_bytes / 1e6:.0f}MB with --max-memory, or accept the difference with "
            "--tile 512x512",
        )

    def _scale_planner(self, scales: Scales, bytes_per_pixel: int) -> ScalePlanner:
        """Plans with tiles of every scale, which are tried once."""
        assert isinstance(self._runner, RunsScales)
        if not {_ACROSS, _DOWN} <= self.known.keys():
            self.known |= zip((_ACROSS, _DOWN), measure_scale_margins(self._runner, scales), strict=True)
        margins = Margins(self.known[_ACROSS], self.known[_DOWN])
        planner = ScalePlanner(scales, margins, bytes_per_pixel)
        if _DIFFERENCE not in self.known:
            levels = scale_difference(self._runner, scales, planner)
            if levels > BOUND:  # what carries less far than was looked for adds up
                margins = Margins(2 * margins.across, 2 * margins.down)
                self.known |= zip((_ACROSS, _DOWN), margins, strict=True)
                planner = ScalePlanner(scales, margins, bytes_per_pixel)
                levels = scale_difference(self._runner, scales, planner)
            self.known[_DIFFERENCE] = round(levels * _PARTS)
        return planner

    def _margin(self, tile: Resolution | None) -> int:
        """Pixels to throw away along a cut edge; for networks of any size, tiles are tried with it once."""
        if _MARGIN not in self.known:
            reach = measure_receptive_field(self._runner)
            self.known |= {_MARGIN: reach.margin, _CAPPED: int(reach.is_capped)}
        margin = self.known[_MARGIN]
        if self._size is not None:
            return min(margin, self._margin_that_fits(self._size))
        is_capped = bool(self.known.get(_CAPPED, 0))
        if is_capped:  # no margin is enough, so the difference is measured with one that leaves room
            margin = min(margin, _MARGIN_WITHOUT_END if tile is None else self._margin_that_fits(tile))
        if _DIFFERENCE not in self.known:
            side = _TRIAL_SIDE if tile is None else min(tile.width, tile.height, _TRIAL_SIDE)
            levels = tile_difference(self._runner, margin, side)
            if levels > BOUND and not is_capped and tile is None:
                margin = self.known[_MARGIN] = 2 * margin  # what carries less far than was looked for adds up
                levels = tile_difference(self._runner, margin, side)
            self.known[_DIFFERENCE] = round(levels * _PARTS)
        return margin

    def _margin_that_fits(self, size: Resolution) -> int:
        return largest_margin(min(size.width, size.height), self._runner.image.multiple_of)
