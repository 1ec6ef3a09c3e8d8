"""Pictures whose values are not what networks were trained on: other black and white, linear light, missing pixels.

The network sees values from 0 to 1 on a curve near that of sRGB. What it changes is carried back to the stored values
as a difference, so that what it does not change keeps its exact value at any depth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.curves import HDR_CURVES, LINEAR, is_like_srgb
from deblur_deploy.infer.picture import Layout, Picture, Tones, row_bands
from deblur_deploy.infer.restore import Restorer
from deblur_deploy.infer.scale_plan import ScalePlan
from deblur_deploy.infer.tiles import TilePlan

Float = NDArray[np.float64]

NOT_ON_THE_CURVE = "its values are not on sRGB's curve, and a network of 8-bit frames took them as if they were"

_UNCHANGED = 2.0**-21
"""What blending tiles of equal values may add, in the network's scale."""


def gamma_tones(gamma: float | None, white: float) -> Tones | None:
    """Tones of a picture whose values are linear when raised to ``gamma``; None where that is near sRGB."""
    return None if is_like_srgb(gamma) else Tones(0, white, gamma)


def transfer_tones(transfer: int, white: float) -> Tones | None:
    """Tones by transfer characteristics (ITU-T H.273, table 3)."""
    return Tones(0, white, 1.0) if transfer == LINEAR else None


def transfer_note(transfer: int) -> str | None:
    """The note for a curve that is not converted: HDR curves are perceptual, like that of sRGB."""
    if transfer not in HDR_CURVES:
        return None
    return f"its {HDR_CURVES[transfer]} values were given to the network as if they were sRGB"


def measured_tones(samples: NDArray[Any], missing: tuple[float, float] | None = None) -> Tones:
    """Tones of values without a known black and white: from the lowest to the highest that are there.

    Floating values within 0 and 1 are taken as black and white at 0 and 1.

    Args:
        samples: The colours.
        missing: As in :class:`Tones`.
    """
    low, high = np.inf, -np.inf
    for rows in samples:
        values = rows[_valid(rows, missing)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if samples.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return Tones(low, high, None, missing)


def restore_picture(restorer: Restorer, picture: Picture, held_bytes: int) -> tuple[int, tuple[str, ...]]:
    """Restore a picture in place; what is not colour stays.

    Args:
        restorer: The network.
        picture: The picture.
        held_bytes: As in :meth:`Restorer.restore_in_place`.

    Returns:
        The number of tiles, and notes for the user.
    """
    samples, tones = picture.samples, picture.tones
    notes: tuple[str, ...] = ()
    if tones is not None and restorer.takes_frames and samples.dtype == np.uint8 and tones.high == picture.white:
        tones, notes = None, (NOT_ON_THE_CURVE,)
    if tones is None:
        plain = samples if samples.shape[2] <= 4 and picture.extra is None else samples[:, :, : picture.colors]
        return restorer.restore_in_place(plain, held_bytes), notes
    return restore_toned(restorer, samples[:, :, : picture.colors], tones, held_bytes), notes


def restore_toned(restorer: Restorer, colors: NDArray[Any], tones: Tones, held_bytes: int) -> int:
    """As :func:`restore_picture`, for (H, W, 1 or 3) of any type."""
    height, width = colors.shape[:2]
    if tones.high == tones.low or not np.isfinite([tones.low, tones.high]).all():
        return 1  # one value everywhere, or none at all: there is nothing to sharpen
    plan = restorer.plan(width, height, 4 * colors.shape[2], held_bytes)
    restore, top = restorer.begin_rows(plan, np.dtype(np.float32)), 0
    for band in row_bands(height, width):
        for rows in restore(to_unit(colors[band], tones)):
            _apply_in_place(colors[top : top + len(rows)], rows, tones)
            top += len(rows)
    return plan.tiles


def _apply_in_place(stored: NDArray[Any], restored: NDArray[np.float32], tones: Tones) -> None:
    """As :func:`apply`, some rows at a time, so that what is computed from them stays small."""
    for band in row_bands(*stored.shape[:2]):
        stored[band] = apply(stored[band], restored[band], tones)


class TonedRows:
    """A picture with tones of its own that goes through the network row by row.

    Args:
        tones: Black, white and the curve; without missing pixels.
        layout: How its samples lie.
    """

    def __init__(self, tones: Tones, layout: Layout) -> None:
        self._tones, self._colors = tones, layout.shape[2] - len(layout.extra)
        self.bytes_per_pixel = 4 * (self._colors + layout.shape[2])

    def begin(self, restorer: Restorer, plan: TilePlan | ScalePlan) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
        """As :meth:`Restorer.begin_rows`, for rows as they are stored."""
        restore = restorer.begin_rows(plan, np.dtype(np.float32))
        waiting: list[NDArray[Any]] = []

        def feed(rows: NDArray[Any]) -> list[NDArray[Any]]:
            waiting.append(rows)
            finished = []
            for unit in restore(to_unit(rows[:, :, : self._colors], self._tones)):
                stored = self._take(waiting, len(unit))
                _apply_in_place(stored[:, :, : self._colors], unit, self._tones)
                finished.append(stored)
            return finished

        return feed

    @staticmethod
    def _take(waiting: list[NDArray[Any]], count: int) -> NDArray[Any]:
        """The first rows that wait, as a copy."""
        taken = []
        while count:
            part = waiting[0][:count]
            taken.append(part)
            count -= len(part)
            if len(part) == len(waiting[0]):
                del waiting[0]
            else:
                waiting[0] = waiting[0][len(part) :]
        return np.concatenate(taken)


def to_unit(stored: NDArray[Any], tones: Tones) -> NDArray[np.float32]:
    """What the network sees of (n, W, C): 0 to 1 on sRGB's curve; missing pixels are like their neighbours."""
    return _unit(_filled(stored, tones), tones)


def apply(stored: NDArray[Any], restored: NDArray[np.float32], tones: Tones) -> NDArray[Any]:
    """Stored values with what the network changed.

    Args:
        stored: (n, W, C) as they were.
        restored: What came back for :func:`to_unit` of them.
        tones: Black, white and the curve.

    Returns:
        Values of the type of ``stored``; where they are missing, as they were.
    """
    given = to_unit(stored, tones)
    with np.errstate(invalid="ignore", over="ignore"):
        change = _decoded(restored.astype(np.float64), tones) - _decoded(given.astype(np.float64), tones)
        changed = stored + change * (tones.high - tones.low)
    if stored.dtype.kind in "iu":
        limits = np.iinfo(stored.dtype)
        lowest, highest = (limits.min, limits.max) if stored.dtype.kind == "i" else (0, max(tones.low, tones.high))
        changed = np.rint(np.nan_to_num(changed)).clip(lowest, highest)
    result: NDArray[Any] = changed.astype(stored.dtype)
    left: NDArray[np.bool_] = np.abs(restored - given) < _UNCHANGED
    left |= ~_valid(stored, tones.missing)[:, :, None]
    result[left] = stored[left]
    return result


def _unit(values: Float, tones: Tones) -> NDArray[np.float32]:
    unit = ((values - tones.low) / (tones.high - tones.low)).clip(0, 1)
    if tones.gamma is not None:
        linear = unit**tones.gamma
        unit = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    return unit.astype(np.float32)


def _decoded(unit: Float, tones: Tones) -> Float:
    """From the network's curve to that of the stored values."""
    if tones.gamma is None:
        return unit
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055).clip(0) ** 2.4)
    decoded: Float = linear ** (1 / tones.gamma)
    return decoded


def _valid(values: NDArray[Any], missing: tuple[float, float] | None) -> NDArray[np.bool_]:
    """Which pixels of (..., C) are picture: (...)."""
    valid: NDArray[np.bool_] = (
        np.isfinite(values).all(axis=-1) if values.dtype.kind == "f" else np.ones(values.shape[:-1], bool)
    )
    if missing is not None:
        valid &= ~((values >= missing[0]) & (values <= missing[1])).all(axis=-1)
    return valid


def _filled(stored: NDArray[Any], tones: Tones) -> Float:
    """The values with missing pixels replaced by the nearest of their row, else of the nearest row, else black."""
    values, valid = stored.astype(np.float64), _valid(stored, tones.missing)
    if valid.all():
        return values
    values[np.logical_not(valid)] = tones.low
    filled: Float = np.take_along_axis(values, _nearest(valid)[:, :, None], axis=1)
    has_picture: NDArray[np.bool_] = np.asarray(valid.any(axis=1))
    return np.asarray(filled[_nearest(has_picture.reshape(1, -1))[0]])


def _nearest(valid: NDArray[np.bool_]) -> NDArray[np.intp]:
    """For every place along the last axis that of the nearest valid one; its own where there is none."""
    length = valid.shape[-1]
    places = np.arange(length)
    before = np.maximum.accumulate(np.where(valid, places, -1), axis=-1)
    after = np.minimum.accumulate(np.where(valid, places, 2 * length)[..., ::-1], axis=-1)[..., ::-1]
    to_before, to_after = np.where(before < 0, 4 * length, places - before), after - places
    nearest = np.where(to_before <= to_after, before, after)
    return np.where((before < 0) & (after >= length), places, nearest)
