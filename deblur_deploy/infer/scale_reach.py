"""How far a single scale of a scale-recurrent network looks, and whether tiles of every scale give the whole picture.

Between two scales nothing is cut, so what counts is how far one scale feels a change of anything that it is given: of
its picture, and of the coarser scale's estimate and state.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.images import Resolution
from deblur_deploy.infer.receptive_field import PROBE_WIDTH, PROBES, Index, as_batch, reach_of, rounded_margin
from deblur_deploy.infer.scale_plan import Margins, ScalePlanner
from deblur_deploy.infer.scale_rows import ScaledRows, halved
from deblur_deploy.infer.tile_trial import difference_on
from deblur_deploy.network.scales import Scales
from deblur_deploy.runtime.abilities import RunsScales
from deblur_deploy.runtime.runner import Batch, Runner

Float = NDArray[np.float32]

_ROOM = 64
"""Pixels by which tiles are longer in a trial than their margins need."""


def measure_scale_margins(runner: RunsScales, scales: Scales) -> Margins:
    """How far a scale looks, in its own pixels; all of them have the same layers.

    What layers see on paper is the least: of a photograph's smooth parts more comes from far away than of what is drawn
    here. What offsets add to it is measured.
    """
    look = _FinestScale(runner, scales)
    on_paper = rounded_margin(scales.reach)
    across, down = (max(on_paper, reach_of(look, PROBES[1:], [axis]).margin) for axis in (1, 0))
    return Margins(across, down)


class _FinestScale:
    """The finest scale, with a part of all that it is given taken from another picture (see ``Look``).

    Args:
        runner: The network.
        scales: How its scales fit together.
    """

    def __init__(self, runner: RunsScales, scales: Scales) -> None:
        self._runner, self._strides, self._count = runner, (2, 2 * scales.state_stride), scales.count

    def __call__(self, picture: Float, other: Float, part: Index) -> Float:
        mixed = picture.copy()
        mixed[part] = other[part]
        ours, given = self._coarser(picture, self._count), self._coarser(mixed, self._count)
        if ours is not None and given is not None:
            for values, changed, stride in zip(ours, given, self._strides, strict=True):
                rows, columns = (_strided(side, stride) for side in part)
                values[:, :, rows, columns] = changed[:, :, rows, columns]
        estimate: Float = self._runner.infer_scale(as_batch(mixed), ours)[0][0]
        return estimate

    def _coarser(self, picture: Float, count: int) -> tuple[Batch, Batch] | None:
        """Estimate and state that the coarser scales give, or None where there are none."""
        if count == 1:
            return None
        smaller = halved(picture)
        return self._runner.infer_scale(as_batch(smaller), self._coarser(smaller, count - 1))


def _strided(part: slice, stride: int) -> slice:
    start, stop = (None if side is None else side // stride for side in (part.start, part.stop))
    return slice(start, stop)


def scale_difference(runner: RunsScales, scales: Scales, planner: ScalePlanner) -> float:
    """As :func:`tile_difference`, with tiles of every scale, of which each has two or three.

    Args:
        runner: The network.
        scales: How its scales fit together.
        planner: Plans with the margin that is tried.
    """
    assert isinstance(runner, Runner)

    def in_tiles(picture: Float) -> Float:
        height, width, _ = picture.shape
        plan = planner.with_tiles(width, height, _trial_tiles(planner, scales.count, width, height))
        rows = ScaledRows(plan, runner, as_batch, lambda given, restored: restored[0].transpose(1, 2, 0))
        return np.concatenate([restored for restored, _ in rows.feed(picture)])

    longest = 2 ** (scales.count - 1)
    wide, tall = (longest * (side + 2 * _ROOM) for side in (planner.smallest.width, planner.smallest.height))
    return max(difference_on(runner, in_tiles, shape) for shape in ((tall, PROBE_WIDTH), (PROBE_WIDTH, wide)))


def _trial_tiles(planner: ScalePlanner, count: int, width: int, height: int) -> list[Resolution]:
    """Tiles of which every scale of a strip has two or three."""
    return [
        Resolution(
            max(planner.smallest.width + _ROOM, 5 * (width // 2**index) // 8),
            max(planner.smallest.height + _ROOM, 5 * (height // 2**index) // 8),
        )
        for index in range(count)
    ]
