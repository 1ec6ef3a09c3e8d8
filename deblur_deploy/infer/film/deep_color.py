"""YUV of more than 8 bits to RGB and back, by ITU-T H.273: libswscale makes white of 10 bits one level too dark."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""Weights of red and blue in luma by libswscale's table of the matrix: H.273, table 4."""

_DEEPEST = 65535


def scales(bits: int, limited: bool) -> tuple[float, float, float, float]:
    """Black, the span of luma, the middle and the span of chroma of codes with so many bits: H.273, section 8.3."""
    unit = 1 << (bits - 8)
    if limited:
        return 16.0 * unit, 219.0 * unit, 128.0 * unit, 224.0 * unit
    return 0.0, float((1 << bits) - 1), 128.0 * unit, float((1 << bits) - 1)


def rgb_from_yuv(planes: list[NDArray[Any]], matrix: int, bits: int, limited: bool) -> NDArray[np.uint16]:
    """Full-size planes of Y, Cb and Cr codes, each (H, W), to (H, W, 3) uint16."""
    red, blue = _WEIGHTS[matrix]
    black, span, middle, chroma_span = scales(bits, limited)
    luma = (planes[0].astype(np.float32) - np.float32(black)) * np.float32(_DEEPEST / span)
    cb, cr = (
        (plane.astype(np.float32) - np.float32(middle)) * np.float32(_DEEPEST / chroma_span) for plane in planes[1:3]
    )
    rgb = np.empty((*luma.shape, 3), np.float32)
    rgb[:, :, 0] = luma + np.float32(2 * (1 - red)) * cr
    rgb[:, :, 2] = luma + np.float32(2 * (1 - blue)) * cb
    rgb[:, :, 1] = (luma - np.float32(red) * rgb[:, :, 0] - np.float32(blue) * rgb[:, :, 2]) / np.float32(
        1 - red - blue
    )
    np.rint(rgb, out=rgb)
    return np.clip(rgb, 0, _DEEPEST, out=rgb).astype(np.uint16)


def yuv_change(
    given: NDArray[Any], restored: NDArray[Any], matrix: int, bits: int, limited: bool
) -> list[NDArray[np.float32]]:
    """The difference of two pictures, (H, W, 3) uint16 each, in codes of Y, Cb and Cr, full size."""
    red, blue = _WEIGHTS[matrix]
    _, span, _, chroma_span = scales(bits, limited)
    change = (restored.astype(np.float32) - given) / np.float32(_DEEPEST)
    luma = change @ np.array([red, 1 - red - blue, blue], np.float32)
    return [
        luma * np.float32(span),
        (change[:, :, 2] - luma) * np.float32(chroma_span / (2 * (1 - blue))),
        (change[:, :, 0] - luma) * np.float32(chroma_span / (2 * (1 - red))),
    ]


def subsampled(plane: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """A full-size plane at the size of a chroma plane: sited with every second sample across, between rows down."""
    across = -(-plane.shape[1] // width) if width else 1
    down = -(-plane.shape[0] // height) if height else 1
    if across == 2:  # weights 1, 2, 1: the filter of MPEG-2's siting
        wide = np.pad(plane, ((0, 0), (1, 1)), mode="edge")
        plane = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:])[:, ::2] / np.float32(4)
    elif across > 1:
        plane = _averaged(plane.T, across).T
    return _averaged(plane, down) if down > 1 else plane


def _averaged(plane: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Means of so many rows; the last row stands in for those that are missing."""
    missing = -plane.shape[0] % count
    full = np.pad(plane, ((0, missing), (0, 0)), mode="edge")
    means: NDArray[np.float32] = full.reshape(-1, count, plane.shape[1]).mean(axis=1)
    return means
