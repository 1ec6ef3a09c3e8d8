"""A large picture through a scale-recurrent network, one scale at a time, each in tiles of its own.

Cut into tiles and run as a whole, such a network sees four times as far as one of its scales does: what is 300 pixels
away on the coarsest scale is 1,200 pixels away in the picture, and tiles would have to overlap by that much. Here every
scale is cut by itself, and a tile overlaps its neighbours by what one scale sees. The scales follow each other down the
picture: as soon as a row of tiles of the coarse scale is done, the finer scale works on what lies below it::

    rows of the picture ──┬──────────────── wait ─────────────┬─ tiles of the finest scale ── restored rows
                          └ half size ─ wait ─┬─ tiles ─ estimate, state
                              └ quarter size ─┴─ tiles ─ estimate, state

So no scale is in memory as a whole, and the picture is read once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.infer.band import Band
from deblur_deploy.infer.receptive_field import as_batch
from deblur_deploy.infer.scale_plan import ScalePlan
from deblur_deploy.infer.tiles import Place, TilePlan, TileRows
from deblur_deploy.runtime.abilities import RunsScales
from deblur_deploy.runtime.runner import Batch

Float = NDArray[np.float32]


class ScaledRows:
    """A picture that is given from top to bottom, as :class:`TileRows` takes it.

    Args:
        plan: The tiles of every scale.
        runner: The network.
        as_batch: Makes (1, 3, h, w) float32 in [0, 1] of (h, w, C) as it is given.
        as_result: Makes (h, w, colours) float32 of such a batch and what the network made of it.
    """

    def __init__(
        self,
        plan: ScalePlan,
        runner: RunsScales,
        as_batch: Callable[[NDArray[Any]], Batch],
        as_result: Callable[[Batch, Batch], Float],
    ) -> None:
        assert runner.scales is not None, "the network has no scales that can be run by themselves"
        self._plan, self._as_batch, self._as_result = plan, as_batch, as_result
        self._runner, stride = runner, runner.scales.state_stride
        coarser: _Scale | None = None
        for tiles in reversed(plan.scales[1:]):
            coarser = _Scale(tiles, _EstimateAndState(runner, stride), coarser)
        self._finest = _Scale(plan.scales[0], self._restore, coarser, lambda rows: _as_rows(as_batch(rows)))
        self._seen = self._done = 0

    def feed(self, rows: NDArray[Any]) -> Iterator[tuple[Float, NDArray[Any]]]:
        """As :meth:`TileRows.feed`."""
        plan, finest = self._plan, self._plan.scales[0]
        self._seen += len(rows)
        below = finest.height - plan.height if self._seen == plan.height else 0
        right = finest.width - plan.width
        padded = np.pad(rows, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else rows
        for blended, given in self._finest.feed(padded):
            count = min(len(blended), plan.height - self._done)
            self._done += count
            if count:
                yield blended[:count, : plan.width], given[:count, : plan.width]

    def _restore(self, tile: NDArray[Any], place: Place, coarser: tuple[Batch, Batch] | None) -> Float:
        """A tile of the finest scale, whose state nothing follows."""
        batch = self._as_batch(tile)
        return self._as_result(batch, self._runner.infer_scale(batch, coarser)[0])


class _EstimateAndState:
    """The tiles of a coarser scale: their estimates are blended, and their states are put together.

    Args:
        runner: The network.
        stride: Pixels of the scale along one side of a value of its state.
    """

    def __init__(self, runner: RunsScales, stride: int) -> None:
        self._runner, self.stride = runner, stride
        self.states = Band()

    def __call__(self, tile: Float, place: Place, coarser: tuple[Batch, Batch] | None) -> Float:
        estimate, state = self._runner.infer_scale(as_batch(tile), coarser)
        self._keep(_as_rows(state), place)
        return _as_rows(estimate)

    def _keep(self, state: Float, place: Place) -> None:
        """Of two tiles that overlap, the state is that of the right or lower one from where its ramp begins."""
        top, left = ((span.ramp_in or 0) // self.stride for span in place)
        from_row, from_column = (span.start // self.stride for span in place)
        self.states.put(top, left, state[top - from_row :, left - from_column :])


class _Scale:
    """One scale of a picture that is given from top to bottom.

    Args:
        plan: Its tiles.
        restore: The network on one tile: (h, w, C) of what is given, its place, and estimate and state of the coarser
            scale for it.
        coarser: The coarser scale, or None.
        as_image: Makes (n, w, 3) float32 in [0, 1] of what is given.
    """

    def __init__(
        self,
        plan: TilePlan,
        restore: Callable[[NDArray[Any], Place, tuple[Batch, Batch] | None], Float],
        coarser: _Scale | None,
        as_image: Callable[[NDArray[Any]], Float] = lambda rows: rows,
    ) -> None:
        self._plan, self._restore, self._coarser, self._as_image = plan, restore, coarser, as_image
        self._tiles = TileRows(plan, self._restore_tile)
        self._waiting: deque[NDArray[Any]] = deque()
        self._odd: Float | None = None  # a row whose pair has not come yet
        self._fed = self._done = 0
        self.estimates = Band()

    def feed(self, rows: NDArray[Any]) -> Iterator[tuple[Float, NDArray[Any]]]:
        """As :meth:`TileRows.feed`."""
        if self._coarser is None:
            yield from self._tiles.feed(rows)
            return
        self._waiting.append(rows.copy())  # the caller may use its array again
        self._coarser.work_on(self._halved(rows))
        while self._waiting and (ready := 2 * self._coarser.finished - self._fed) > 0:
            part = self._waiting.popleft()
            if len(part) > ready:
                self._waiting.appendleft(part[ready:])
            self._fed += len(part[:ready])
            for finished in self._tiles.feed(part[:ready]):
                self._coarser.let_go(self._tiles.needed_from // 2)
                yield finished

    def work_on(self, rows: Float) -> None:
        """Take the next rows, and keep what comes of them for the finer scale."""
        for estimate, _ in self.feed(rows):
            self.estimates.put(self._done, 0, estimate)
            self._done += len(estimate)

    @property
    def finished(self) -> int:
        """How many rows are done, their state included."""
        stride = self._state.stride
        return self._done if self._done == self._plan.height else self._done // stride * stride

    def cut(self, place: Place) -> tuple[Batch, Batch]:
        """Estimate and state for a tile of the finer scale."""
        row, column = (slice(span.start // 2, span.stop // 2) for span in place)
        stride = self._state.stride
        row_of_state, column_of_state = (slice(part.start // stride, part.stop // stride) for part in (row, column))
        estimate, state = self.estimates.cut(row, column), self._state.states.cut(row_of_state, column_of_state)
        return as_batch(estimate), as_batch(state)

    def let_go(self, before: int) -> None:
        """Forget rows that no tile of the finer scale needs any more."""
        self.estimates.drop(before)
        self._state.states.drop(before // self._state.stride)

    @property
    def _state(self) -> _EstimateAndState:
        assert isinstance(self._restore, _EstimateAndState), "nothing follows the finest scale"
        return self._restore

    def _restore_tile(self, tile: NDArray[Any], place: Place) -> Float:
        return self._restore(tile, place, None if self._coarser is None else self._coarser.cut(place))

    def _halved(self, rows: NDArray[Any]) -> Float:
        """Means of blocks of 2x2, of the rows that there are pairs of."""
        image = self._as_image(rows)
        if self._odd is not None:
            image = np.concatenate([self._odd, image])
        whole = len(image) // 2 * 2
        self._odd = image[whole:].copy()
        return halved(image[:whole])


def halved(image: Float) -> Float:
    """Means of blocks of 2x2: (2h, 2w, C) to (h, w, C), as the network halves pictures."""
    means: Float = (image[::2, ::2] + image[::2, 1::2] + image[1::2, ::2] + image[1::2, 1::2]) / np.float32(4)
    return means


def _as_rows(batch: Batch) -> Float:
    """(1, C, H, W) to (H, W, C)."""
    rows: Float = batch[0].transpose(1, 2, 0)
    return rows
