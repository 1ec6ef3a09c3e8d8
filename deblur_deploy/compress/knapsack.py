"""The widths and blocks with the least loss that fit into a frame time: a mixed-integer program, solved by HiGHS.

The knapsack of HALP (Shen et al., *Structural Pruning via Latency-Saliency Knapsack*, NeurIPS 2022), with the times of
pairs of groups in it instead of those of single layers: whether one width and another are kept together is a variable
between 0 and 1 that follows from the two (the usual linearisation of a product of binaries), so the program stays
linear and its bound is a bound.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from deblur_deploy.compress.frame_times import FrameTimes, Shape
from deblur_deploy.compress.sensitivity import predicted_drop_db
from deblur_deploy.core.errors import ConfigError

_SECONDS = 60.0

_NOTHING = 1e-6
"""Deviations below this, some 1e-5 dB, count as none: the solver's numbers would span too many orders of magnitude."""


@dataclass(frozen=True)
class Worth:
    """What channels and blocks are worth.

    Args:
        widths: For every group, the widths that may be kept, the widest first.
        lost: For every group, the deviation at each of these widths (see ``sensitivity.py``).
        chains: Rows of blocks of which the last can go.
        blocks: The deviation without a block, above that without those behind it in its row.
    """

    widths: tuple[tuple[int, ...], ...]
    lost: tuple[tuple[float, ...], ...]
    chains: tuple[tuple[str, ...], ...] = ()
    blocks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ShapeChoice:
    """The choice.

    Args:
        shape: Widths and blocks.
        lost_db: The loss that it is predicted to have before fine-tuning, from the deviations of groups and blocks.
        bound_db: No choice within the budget loses less than this, by the same prediction.
        gap: How far the deviations of the two may be apart, as a share; 0 where the choice is proven to be the best.
    """

    shape: Shape
    lost_db: float
    bound_db: float
    gap: float


def choose_shape(times: FrameTimes, worth: Worth, budget_ms: float) -> ShapeChoice:
    """The shape with the least loss whose predicted time is within a budget.

    Args:
        times: Times by shape.
        worth: Losses by width and block.
        budget_ms: Milliseconds for a frame.

    Raises:
        ConfigError: Nothing is within the budget, or the solver found nothing in a minute.
    """
    program = _Program(times, worth)
    with _silent_stdout():
        found = milp(
            program.loss,
            integrality=program.integrality,
            bounds=Bounds(0, 1),
            constraints=program.constraints(budget_ms),
            options={"time_limit": _SECONDS, "mip_rel_gap": 1e-6},
        )
    if found.x is None:
        raise ConfigError(
            f"no network is found that takes at most {budget_ms:.3g} ms: {found.message}",
            hint="give more milliseconds, or a smaller --round-to",
        )
    lost, bound = (
        predicted_drop_db(max(float(value) + program.lost_without_blocks, 0.0))
        for value in (found.fun, found.mip_dual_bound)
    )
    return ShapeChoice(program.shape(found.x), lost, bound, float(found.mip_gap or 0.0))


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """Throw away what compiled code prints: HiGHS tells stdout, whatever its options are, that it mends a solution."""
    print(end="", flush=True)  # what Python holds back belongs to the real one, if there is one
    try:
        kept = os.dup(1)
    except OSError:  # there is no stdout
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


_Row = tuple[dict[int, float], float, float]
"""A constraint: factors by variable, the least sum and the largest."""


class _Program:
    """Variables, in order: a binary for each group and width, one for each block, and pairs of widths of two groups."""

    def __init__(self, times: FrameTimes, worth: Worth) -> None:
        self._times, self._worth = times, worth
        anatomy = times.anatomy
        self._first = np.cumsum([0, *map(len, worth.widths)]).tolist()
        self._blocks = {block: self._first[-1] + index for index, block in enumerate(anatomy.blocks)}
        binaries = self._first[-1] + len(self._blocks)
        self._pairs: list[tuple[int, int, int]] = []  # one group, the other, first variable
        count = binaries
        for product in anatomy.products:
            if len(set(product.groups)) == 2:
                one, other = product.groups
                self._pairs.append((one, other, count))
                count += len(worth.widths[one]) * len(worth.widths[other])
        self.loss = np.zeros(count)
        self.integrality = np.concatenate([np.ones(binaries), np.zeros(count - binaries)])
        self.lost_without_blocks = sum(worth.blocks[block] for block in self._blocks)
        for group, lost in enumerate(worth.lost):
            self.loss[self._variables(group)] = lost
        for block, variable in self._blocks.items():
            self.loss[variable] = -worth.blocks[block]
        self.loss[np.abs(self.loss) < _NOTHING] = 0.0

    def _variables(self, group: int) -> NDArray[np.int64]:
        return np.arange(self._first[group], self._first[group + 1])

    def constraints(self, budget_ms: float) -> list[LinearConstraint]:
        """One width for every group that is there, rows of blocks without gaps, consistent pairs, and the budget."""
        rows: list[_Row] = [(self._time(), -np.inf, budget_ms - self._times.fixed_ms)]
        anatomy = self._times.anatomy
        for group in range(len(self._worth.widths)):
            chosen = dict.fromkeys(self._variables(group).tolist(), 1.0)
            block = anatomy.owner((group,))
            if block is None:
                rows.append((chosen, 1.0, 1.0))
            else:
                rows.append((chosen | {self._blocks[block]: -1.0}, 0.0, 0.0))
        for chain in self._worth.chains:
            for before, behind in itertools.pairwise(chain):
                rows.append(({self._blocks[before]: 1.0, self._blocks[behind]: -1.0}, 0.0, np.inf))
        for one, other, first in self._pairs:
            rows += self._following(one, other, first)
        return [_matrix(rows, len(self.loss))]

    def _following(self, one: int, other: int, first: int) -> list[_Row]:
        """A pair of widths is there where both are: its rows and columns sum to the variables of the two groups."""
        shape = len(self._worth.widths[one]), len(self._worth.widths[other])
        pair = first + np.arange(shape[0] * shape[1]).reshape(shape)
        own, partner = (self._times.anatomy.owner((group,)) for group in (one, other))
        rows: list[_Row] = []
        for group, lines, of_other in ((one, pair, partner), (other, pair.T, own)):
            of_group = own if group == one else partner
            least = 0.0 if of_other in (None, of_group) else -np.inf  # the other may have gone with its block
            for variable, line in zip(self._variables(group).tolist(), lines.tolist(), strict=True):
                rows.append(({**dict.fromkeys(line, 1.0), variable: -1.0}, least, 0.0))
        return rows

    def _time(self) -> dict[int, float]:
        """Milliseconds of every variable."""
        anatomy, ms = self._times.anatomy, dict.fromkeys(range(len(self.loss)), 0.0)
        share = [
            np.array(widths) / channels for widths, channels in zip(self._worth.widths, anatomy.channels, strict=True)
        ]
        pairs = iter(self._pairs)
        for product, time in zip(anatomy.products, self._times.product_ms(), strict=True):
            if len(set(product.groups)) == 1:
                group, power = product.groups[0], len(product.groups)
                for variable, part in zip(self._variables(group), share[group], strict=True):
                    ms[int(variable)] += time * part**power
            elif product.groups:
                one, other, first = next(pairs)
                for offset, part in enumerate(np.outer(share[one], share[other]).ravel()):
                    ms[first + offset] += time * float(part)
        for group, time in enumerate(self._times.group_ms()):
            for variable, part in zip(self._variables(group), share[group], strict=True):
                ms[int(variable)] += time * float(part)
        for block, time in self._times.block_ms().items():
            ms[self._blocks[block]] += time
        return ms

    def shape(self, values: NDArray[np.float64]) -> Shape:
        """What the variables mean; a group that has gone with its block has its widest width."""
        widths = []
        for group, of_group in enumerate(self._worth.widths):
            chosen = values[self._variables(group)]
            widths.append(of_group[int(chosen.argmax())] if chosen.max() > 0.5 else of_group[0])
        return Shape(tuple(widths), frozenset(block for block, at in self._blocks.items() if values[at] < 0.5))


def _matrix(rows: Sequence[_Row], columns: int) -> LinearConstraint:
    data = [(number, column, value) for number, (row, *_) in enumerate(rows) for column, value in row.items()]
    at, column, value = zip(*data, strict=True)
    matrix = csr_array((value, (at, column)), shape=(len(rows), columns))
    return LinearConstraint(matrix, [low for _, low, _ in rows], [high for *_, high in rows])
