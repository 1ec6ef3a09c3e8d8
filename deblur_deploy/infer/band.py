"""A picture of which only some rows are in memory: written in blocks, cut into tiles, and let go from the top."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


class Band:
    """Rows of a picture; the first block that is put goes from its left to its right side."""

    def __init__(self) -> None:
        self._begin = 0
        self._rows: Float | None = None

    def put(self, top: int, left: int, block: Float) -> None:
        """Write a block (h, w, C) at a place of the picture; what goes beyond the last row or column makes room."""
        if self._rows is None:
            self._rows = np.zeros((0, 0, block.shape[2]), np.float32)
        bottom, right = top - self._begin + len(block), left + block.shape[1]
        height, width, channels = self._rows.shape
        if bottom > height or right > width:
            grown = np.zeros((max(bottom, height), max(right, width), channels), np.float32)
            grown[:height, :width] = self._rows
            self._rows = grown
        self._rows[top - self._begin : bottom, left:right] = block

    def cut(self, rows: slice, columns: slice) -> Float:
        """A part of the picture, (h, w, C), as a view."""
        assert self._rows is not None, "nothing was put"
        assert self._begin <= rows.start <= rows.stop <= self._begin + len(self._rows), "these rows are not here"
        return self._rows[rows.start - self._begin : rows.stop - self._begin, columns]

    def drop(self, before: int) -> None:
        """Let go of the rows above one."""
        if self._rows is not None and before > self._begin:
            self._rows = self._rows[before - self._begin :].copy()
            self._begin = before
