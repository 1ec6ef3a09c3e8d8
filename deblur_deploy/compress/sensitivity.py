"""What the channels of every group are worth, by evaluating the network without some of them, and no fine-tuning.

A scan has two figures for each width. PSNR is what is quoted. What channels are chosen by is the *deviation*: how far
the pictures move from those of the whole network, squared, over that network's own error. It is never below zero, has
no luck in it (a network that lost a channel may come closer to the sharp picture by chance), and those of several
groups add up nearly, as independent errors do.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from deblur_deploy.compress.allocation import Curve, WidthState
from deblur_deploy.compress.groups import ChannelGroup
from deblur_deploy.compress.removal import remove_channels, weakest
from deblur_deploy.config import Budget
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution, from_batch, to_batch
from deblur_deploy.data.pairs import Pair, crop_center
from deblur_deploy.quality.decibels import mean_psnr_db
from deblur_deploy.quality.evaluate import pairs_psnr_db, restored_by
from deblur_deploy.quality.gain import gain_kept, lost_db
from deblur_deploy.quality.metrics import psnr_db
from deblur_deploy.runtime.runner import Batch

SHARES = (0.75, 0.5, 0.25)
"""Shares of a group's channels that are tried; the smallest width always is."""

_ROUNDING = 1 / (12 * 255**2)
"""Mean squared error of rounding to 8 bits: a network that gives the sharp pictures themselves has no less."""

_COSTS: tuple[Budget, Budget] = ("params", "macs")

OnScan = Callable[[int, int, float], None]
"""Called with the number of measurements done, the number of all, and the last loss of quality in dB."""


@dataclass(frozen=True)
class ScanRow:
    """One group at one width, all others whole.

    Args:
        group: Number of the group.
        layers: Names of the layers whose outputs its channels are.
        before: Channels of the whole group.
        kept: Channels that were left.
        share: ``kept / before``.
        psnr_db: Mean PSNR on the evaluation pairs.
        drop_db: How much lower that is than the whole network's.
        deviation: Mean squared difference to the whole network's pictures, over its own mean squared error.
        params: Parameters of the network.
        gmacs: Its multiply-accumulates for one frame of 640x360, in 10**9.
    """

    group: int
    layers: tuple[str, ...]
    before: int
    kept: int
    share: float
    psnr_db: float
    drop_db: float
    deviation: float
    params: int
    gmacs: float


@dataclass(frozen=True)
class ScanReport:
    """What a scan found.

    Args:
        psnr_db: Mean PSNR of the whole network.
        images: How many pictures that is the mean of.
        size: Largest side of each in pixels.
        rows: By group, and from wide to narrow.
        blurred_db: Mean PSNR of the blurred pictures.
    """

    psnr_db: float
    images: int
    size: int
    rows: tuple[ScanRow, ...]
    blurred_db: float

    def gain_kept(self, row: ScanRow) -> float | None:
        """Share of the whole network's gain over the blurred pictures that a row keeps, as :func:`gain_kept` has it."""
        return gain_kept(row.psnr_db, self.psnr_db, self.blurred_db)

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        rows = [{**vars(row), "layers": list(row.layers), "gain_kept": self.gain_kept(row)} for row in self.rows]
        whole = {"psnr_db": self.psnr_db, "psnr_blurred_db": self.blurred_db, "images": self.images, "size": self.size}
        return {**whole, "rows": rows}

    def curves(self) -> dict[int, Curve]:
        """By number of the group, the deviation by width: straight lines between measurements, never falling.

        Groups that cannot get narrower have none.
        """
        groups = itertools.groupby(self.rows, key=lambda row: row.group)
        return {group: _curve(list(rows)) for group, rows in groups}


def scan_network(
    net: nn.Module,
    groups: Sequence[ChannelGroup],
    state: WidthState,
    pairs: Sequence[Pair],
    on_scan: OnScan | None = None,
) -> ScanReport:
    """Evaluate a network without some channels of one group at a time.

    Args:
        net: The network; it is left as it is.
        groups: Its groups.
        state: Strengths and costs of these.
        pairs: What to evaluate on (see :func:`scan_pairs`).
        on_scan: Called after each evaluation.
    """
    whole = WholeNetwork(net, pairs)
    widths = [(index, width) for index, group in enumerate(groups) for width in _widths(state, index, group.channels)]
    rows = []
    for number, (index, width) in enumerate(widths, start=1):
        group = groups[index]
        narrow = remove_channels(net, [group], [weakest(state.strengths[index], width)])
        psnr_db, deviation = whole.compare(narrow)
        everywhere = [*state.present[:index], width, *state.present[index + 1 :]]
        params, macs = (state.cost.measure(kind, everywhere) for kind in _COSTS)
        rows.append(
            ScanRow(
                index,
                group.layers,
                group.channels,
                width,
                round(width / group.channels, 4),
                psnr_db,
                lost_db(whole.psnr_db, psnr_db),
                deviation,
                params,
                macs / 1e9,
            )
        )
        if on_scan:
            on_scan(number, len(widths), rows[-1].drop_db)
    size = max(max(pair.sharp.shape[:2]) for pair in pairs)
    return ScanReport(whole.psnr_db, len(pairs), size, tuple(rows), pairs_psnr_db(pairs))


class WholeNetwork:
    """What a network restores of some pairs, for holding smaller ones against it.

    Args:
        net: The network; it is left as it is.
        pairs: What to evaluate on.

    Raises:
        VerificationError: It gives NaN or infinite values.
    """

    def __init__(self, net: nn.Module, pairs: Sequence[Pair]) -> None:
        self._pairs, self._restored = pairs, restored_by(net, pairs)
        self.psnr_db = _psnr_db(self._restored, pairs)
        errors = [_mse(one, to_batch(pair.sharp)) for one, pair in zip(self._restored, pairs, strict=True)]
        self._error = max(statistics.fmean(errors), _ROUNDING)

    def compare(self, smaller: nn.Module) -> tuple[float, float]:
        """Mean PSNR of a smaller network in dB, and its deviation from this one.

        Raises:
            VerificationError: It gives NaN or infinite values.
        """
        restored = restored_by(smaller, self._pairs)
        moved = statistics.fmean(_mse(*both) for both in zip(restored, self._restored, strict=True))
        return _psnr_db(restored, self._pairs), moved / self._error


def predicted_drop_db(deviation: float) -> float:
    """The loss of PSNR that a deviation stands for, were it independent of the network's own error."""
    return 10 * math.log10(1 + deviation)


def _psnr_db(restored: Sequence[Batch], pairs: Sequence[Pair]) -> float:
    return mean_psnr_db(psnr_db(from_batch(one), pair.sharp) for one, pair in zip(restored, pairs, strict=True))


def _mse(one: Batch, other: Batch) -> float:
    """Mean squared difference of two pictures as they are shown, in [0, 1]."""
    return float(np.square(np.clip(one, 0, 1) - np.clip(other, 0, 1), dtype=np.float64).mean())


def scan_pairs(pairs: Sequence[Pair], images: int, size: int) -> list[Pair]:
    """The middle of the first few pairs.

    Args:
        pairs: All evaluation pairs.
        images: How many to take.
        size: Longest side of what is taken of each, in pixels; smaller pictures stay whole.

    Raises:
        ConfigError: There are no pairs.
    """
    if not pairs:
        raise ConfigError("there are no pairs to scan on", hint="give a folder with images")
    cropped = []
    for pair in pairs[:images]:
        height, width = pair.sharp.shape[:2]
        part = Resolution(min(width, size), min(height, size))
        cropped.append(Pair(pair.name, *(crop_center(image, part, pair.name) for image in (pair.blurred, pair.sharp))))
    return cropped


def _widths(state: WidthState, index: int, channels: int) -> list[int]:
    """Widths of one group that are tried, from wide to narrow."""
    tried = {state.smallest[index]}
    for share in SHARES:
        tried.add(state.rounded([share * original for original in state.original])[index])
    return sorted(tried - {channels}, reverse=True)


def _curve(rows: Sequence[ScanRow]) -> Curve:
    kept = [rows[0].before, *(row.kept for row in rows)]
    lost = np.maximum.accumulate([0.0, *(row.deviation for row in rows)])
    return lambda width: float(np.interp(width, kept[::-1], lost[::-1]))
