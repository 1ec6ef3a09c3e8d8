"""The time of a frame at other widths and depths: a model fitted to whole networks that were timed, and its error.

A layer's time depends on the widths of two groups, so times of single layers, or of single groups, do not add up. The
multiply-accumulates of every pair of groups are known (see ``width_cost.py``); what is measured is how long they take
in place: the time of a frame is a constant, a rate for each pair's multiply-accumulates, a rate for each group's
channels and a time for each block, none below zero, fitted by least squares to whole networks that were timed.
Networks held out of the fit give its error.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.compress.width_cost import Product

_LEAST_WEIGHT = 0.03
"""Weight of the guess in the fit where measurements are certain: it decides only where they do not."""

_GUESS_SIGMA = 0.25
"""Standard deviation of the parts from the guess, as a share of it.

The noise of the measurements over this is the weight of the guess. With less, parts are fitted to noise, and a choice
by predicted time finds those that came out too small: with 49 groups and 12 % of spread it took half as long again as
predicted.
"""

_NORMAL_95 = 1.96
"""Half of the 95 % interval of a normal distribution, in standard deviations."""

_PRIOR_MACS, _PRIOR_CHANNELS, _PRIOR_CONSTANT = 0.8, 0.1, 0.1
"""The guess: shares of the frame's time that go with multiply-accumulates, with channels, and with nothing."""


@dataclass(frozen=True)
class Shape:
    """Widths and depth of a network to time.

    Args:
        widths: Channels of every group.
        dropped: Names of the blocks that are gone.
    """

    widths: tuple[int, ...]
    dropped: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Timed:
    """A whole network that was timed.

    Args:
        shape: Its widths and depth.
        ms: Median time of a frame.
        spread: Half of the 95 % interval of that median, as a share of it.
    """

    shape: Shape
    ms: float
    spread: float

    def as_json(self) -> dict[str, Any]:
        """Plain data, as tables on disk have it."""
        dropped = sorted(self.shape.dropped)
        return {"widths": list(self.shape.widths), "dropped": dropped, "ms": self.ms, "spread": self.spread}


@dataclass(frozen=True)
class Anatomy:
    """What a network's time can depend on.

    Args:
        channels: Channels of every group when nothing is gone.
        products: Its multiply-accumulates by groups.
        blocks: By name of a block that can go, the groups that live inside it.
    """

    channels: tuple[int, ...]
    products: tuple[Product, ...]
    blocks: dict[str, frozenset[int]]

    def owner(self, groups: Collection[int]) -> str | None:
        """The block that some of these groups live in, or None."""
        return next((block for block, inside in self.blocks.items() if inside & set(groups)), None)

    def is_there(self, groups: Collection[int], shape: Shape) -> bool:
        """Whether none of these groups has gone with its block."""
        return self.owner(groups) not in shape.dropped

    def features(self, shape: Shape) -> NDArray[np.float64]:
        """A shape's share of everything that takes time, 1 each where nothing is gone."""
        share = [width / channels for width, channels in zip(shape.widths, self.channels, strict=True)]
        products = [
            math.prod(share[group] for group in product.groups) * self.is_there(product.groups, shape)
            for product in self.products
        ]
        groups = [part * self.is_there((group,), shape) for group, part in enumerate(share)]
        return np.array([1.0, *products, *groups, *(float(block not in shape.dropped) for block in self.blocks)])

    def guess(self) -> NDArray[np.float64]:
        """Shares of the time that these take, before anything was measured."""
        macs = sum(product.macs for product in self.products)
        products = [_PRIOR_MACS * product.macs / macs for product in self.products]
        groups = [_PRIOR_CHANNELS / len(self.channels)] * len(self.channels)
        return np.array([_PRIOR_CONSTANT, *products, *groups, *([0.0] * len(self.blocks))])


@dataclass(frozen=True)
class FrameTimes:
    """Times of a frame by shape.

    Args:
        anatomy: What time can depend on.
        parts_ms: What each takes where nothing is gone: the constant, products, groups, blocks.
        factor: By what all predictions are corrected, after a network that was made by them had been timed.
    """

    anatomy: Anatomy
    parts_ms: tuple[float, ...]
    factor: float = 1.0

    @classmethod
    def fit(cls, anatomy: Anatomy, timed: Sequence[Timed]) -> FrameTimes:
        """Times that agree with whole networks as well as they can.

        Args:
            anatomy: What time can depend on.
            timed: Networks that were timed; the unpruned one must be among them. The guess weighs the more, the wider
                their spread is.
        """
        from scipy.optimize import lsq_linear

        noise = statistics.median(one.spread for one in timed) / _NORMAL_95
        weight = max(_LEAST_WEIGHT, noise / _GUESS_SIGMA)

        whole = next(one.ms for one in timed if one.shape == Shape(anatomy.channels))
        matrix = np.stack([anatomy.features(one.shape) for one in timed])
        values = np.array([one.ms / whole for one in timed])
        guess = anatomy.guess()
        scale = weight / np.maximum(guess, 0.01)
        rows = np.vstack([matrix / values[:, None], np.diag(scale)])
        wanted = np.concatenate([np.ones(len(values)), scale * guess])
        parts = lsq_linear(rows, wanted, bounds=(0, np.inf)).x * whole
        return cls(anatomy, tuple(map(float, parts)))

    def predict(self, shape: Shape) -> float:
        """Milliseconds that a frame takes."""
        return self.factor * float(self.anatomy.features(shape) @ np.array(self.parts_ms))

    def error(self, timed: Sequence[Timed]) -> float:
        """Median of the relative errors on networks that were timed."""
        return statistics.median(abs(self.predict(one.shape) / one.ms - 1) for one in timed)

    def product_ms(self) -> list[float]:
        """What every product takes where nothing is gone, with the correction."""
        return [self.factor * ms for ms in self.parts_ms[1 : 1 + len(self.anatomy.products)]]

    def group_ms(self) -> list[float]:
        """What the channels of every group take where nothing is gone, with the correction."""
        start = 1 + len(self.anatomy.products)
        return [self.factor * ms for ms in self.parts_ms[start : start + len(self.anatomy.channels)]]

    def block_ms(self) -> dict[str, float]:
        """What every block takes besides its groups, with the correction."""
        start = 1 + len(self.anatomy.products) + len(self.anatomy.channels)
        return {name: self.factor * ms for name, ms in zip(self.anatomy.blocks, self.parts_ms[start:], strict=True)}

    @property
    def fixed_ms(self) -> float:
        """What a frame takes at any width."""
        without = [
            ms for product, ms in zip(self.anatomy.products, self.product_ms(), strict=True) if not product.groups
        ]
        return self.factor * self.parts_ms[0] + sum(without)
