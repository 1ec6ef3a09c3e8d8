"""Labels of channels: which entries of which tensors are kept or removed together.

Every axis of every parameter gets labels, one an entry. A tensor that a pass computes has *factors*: arrays of labels
that broadcast to its shape. An ordinary feature map (N, C, H, W) has one, of shape (1, C, 1, 1); attention weights have
one for their rows and one for their columns. An entry goes as soon as its label in any factor goes. Labels that meet in
an addition, a product or a contraction are tied and go together; some are fixed and stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Factor = NDArray[np.int64]
"""Labels of the entries of a tensor; broadcasts to its shape, with size 1 along axes that they do not depend on."""

Factors = tuple[Factor, ...]

PICTURE = "the picture itself"
"""Why channels of the input and of the output stay."""

POSITIONS = "positions, which are not features"
"""Why the offsets of a deformable convolution stay."""

CONSTANT = "a number of channels that stands in the code"
"""Why channels stay that meet something whose size neither a parameter nor another value of the pass gives."""


class Ledger:
    """Records which labels are tied, and which are fixed and why."""

    def __init__(self) -> None:
        self._parent = np.arange(0, dtype=np.int64)
        self._reasons: dict[int, str] = {}
        self.constant = self.fixed(1, CONSTANT)[0]

    def fresh(self, count: int) -> Factor:
        """So many new labels: (count,)."""
        start = len(self._parent)
        new = np.arange(start, start + count, dtype=np.int64)
        self._parent = np.concatenate([self._parent, new])
        return new

    def fixed(self, count: int, reason: str) -> Factor:
        """So many new labels of entries that cannot go."""
        new = self.fresh(count)
        self._reasons.update(dict.fromkeys(new.tolist(), reason))
        return new

    def roots(self, labels: Factor) -> Factor:
        """For every label, the one that stands for all that are tied to it."""
        found = self._parent[labels]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                break
            found = above
        self._parent[labels] = found
        return found

    def tie(self, one: Factor, other: Factor) -> Factor:
        """Tie labels that stand at the same place once both are broadcast.

        Fixed labels are not tied, or everything that they meet would become one: each label that meets one is fixed.

        Returns:
            Labels for the place: of each pair the older one.
        """
        one, other = np.broadcast_arrays(one, other)
        a, b = self.roots(one).ravel(), self.roots(other).ravel()
        apart = a != b
        pairs = np.unique(a[apart] * len(self._parent) + b[apart])
        for pair in pairs.tolist():
            self._tie(*divmod(pair, len(self._parent)))
        return np.minimum(one, other)

    def _tie(self, one: int, other: int) -> None:
        one, other = (int(self.roots(np.array([label]))[0]) for label in (one, other))
        if one == other:
            return
        reason = self._reasons.get(one) or self._reasons.get(other)
        if reason is not None:
            self._reasons.setdefault(one, reason)
            self._reasons.setdefault(other, reason)
        else:
            self._parent[max(one, other)] = min(one, other)

    def fix(self, labels: Factor, reason: str) -> None:
        """Let the entries of these labels stay, whatever else they meet."""
        for root in np.unique(self.roots(labels)).tolist():
            self._reasons.setdefault(root, reason)

    def reason(self, label: int) -> str | None:
        """Why entries of a label stay, or None where they may go."""
        return self._reasons.get(int(self.roots(np.array([label]))[0]))

    def tie_along(self, factor: Factor, axes: Iterable[int]) -> Factor:
        """Tie all labels along some axes, which the result no longer depends on."""
        for axis in axes:
            first = factor.take([0], axis)
            if factor.shape[axis] > 1:
                first = self.tie(first, factor).take([0], axis)
            factor = first
        return factor

    def compressed(self, labels: Factor) -> Factor:
        """A factor of the same meaning that depends on as few axes as it can.

        Where it depends on several and labels repeat along one of them, as the four of a pixel shuffle do along rows
        and columns, those along that axis are tied: they are values of one channel.
        """
        roots = self.roots(labels)
        for axis in range(labels.ndim):
            if labels.shape[axis] > 1 and bool((roots == roots.take([0], axis)).all()):
                labels, roots = labels.take([0], axis), roots.take([0], axis)
        for axis in axes_of(labels) if len(axes_of(labels)) > 1 else ():
            line = np.moveaxis(self.roots(labels), axis, -1).reshape(-1, labels.shape[axis])[0]
            if len(np.unique(line)) < len(line):
                labels = self.tie_along(labels, [axis])
        return labels


def axes_of(factor: Factor) -> tuple[int, ...]:
    """Axes that a factor depends on."""
    return tuple(axis for axis, size in enumerate(factor.shape) if size > 1)


def along(labels: Factor, axis: int, dimensions: int) -> Factor:
    """Labels (n,) as a factor of a tensor of so many axes that depends on one of them."""
    shape = [1] * dimensions
    shape[axis] = len(labels)
    return labels.reshape(shape)


def aligned(factor: Factor, dimensions: int) -> Factor:
    """A factor with further axes in front, as broadcasting adds them."""
    return factor.reshape((1,) * (dimensions - factor.ndim) + factor.shape)


def expanded(factor: Factor, shape: Sequence[int]) -> Factor:
    """A factor at its tensor's full shape."""
    return np.broadcast_to(factor, tuple(shape))
