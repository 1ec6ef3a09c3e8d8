"""Picture quality: PSNR, and SSIM in the two conventions that papers use without saying which."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import VerificationError

Image8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]
"""(H, W), true where pixels count."""

_WINDOW, _SIGMA = 11, 1.5
_K1, _K2, _PEAK = 0.01, 0.03, 255.0
_BLOCK = 16
"""Rows that are blurred at a time, so that they stay in the processor's cache from the first tap to the last."""

_Planes = NDArray[np.float64]
"""(C, H, W)."""


def psnr_db(image: Image8, reference: Image8, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio over all pixels and channels, ``10 log10(255^2 / MSE)``.

    Args:
        image: (H, W, 3) uint8.
        reference: Same shape.
        mask: Which pixels count; None counts all.

    Returns:
        Decibels; infinity for equal images.

    Raises:
        VerificationError: Shapes differ.
    """
    _check_same_shape(image, reference)
    mse = _mean((image.astype(np.float64) - reference.astype(np.float64)) ** 2, mask)
    return 10 * math.log10(_PEAK**2 / mse) if mse else math.inf


def ssim_skimage(image: Image8, reference: Image8, mask: Mask | None = None) -> float:
    """SSIM as scikit-image computes it with the settings of Wang et al. (*Image Quality Assessment*, TIP 2004).

    Gaussian window of 11x11 and sigma 1.5 over each channel, pixels without a full window left out, mean over channels:
    ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1)``.

    Args:
        image: (H, W, 3) uint8, both sides at least 11.
        reference: Same shape.
        mask: Which pixels count; None counts all.

    Raises:
        VerificationError: Shapes differ or are smaller than the window.
    """
    return both_ssims(image, reference, mask)[1]


def ssim_matlab(image: Image8, reference: Image8, mask: Mask | None = None) -> float:
    """SSIM as MATLAB's ``ssim(A, ref)`` gives it for an RGB array, which is how GoPro results are published.

    MATLAB takes the three channels as a volume: the Gaussian window runs over 11x11x11 with repeated borders, and no
    border is left out. Some 0.03 above :func:`ssim_skimage` on photographs.

    Args:
        image: (H, W, 3) uint8.
        reference: Same shape.
        mask: Which pixels count; None counts all.

    Raises:
        VerificationError: Shapes differ.
    """
    _check_same_shape(image, reference)
    return _mean(_ssim_map(_across_channels(_moments(image, reference))), mask)


def both_ssims(image: Image8, reference: Image8, mask: Mask | None = None) -> tuple[float, float]:
    """:func:`ssim_matlab` and :func:`ssim_skimage`, which share most of their work.

    Args:
        image: (H, W, 3) uint8, both sides at least 11.
        reference: Same shape.
        mask: Which pixels count; None counts all.

    Raises:
        VerificationError: Shapes differ or are smaller than the window.
    """
    _check_same_shape(image, reference)
    margin = _WINDOW // 2
    if min(image.shape[:2]) < _WINDOW:
        raise VerificationError(f"{image.shape[1]}x{image.shape[0]} is too small for SSIM", hint="give 11x11 or more")
    moments, inner = _moments(image, reference), np.s_[margin:-margin, margin:-margin]
    skimage = _mean(_ssim_map(moments)[inner], None if mask is None else mask[inner])
    return _mean(_ssim_map(_across_channels(moments)), mask), skimage


def _mean(values: NDArray[np.float64], mask: Mask | None) -> float:
    return float(np.mean(values if mask is None else values[mask]))


def _ssim_map(moments: list[_Planes]) -> _Planes:
    """Equation 13 of Wang et al., (H, W, 3).

    Args:
        moments: As :func:`_moments` gives them.
    """
    mean_x, mean_y, square_x, square_y, product = moments
    var_x, var_y, covariance = square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y
    c1, c2 = (_K1 * _PEAK) ** 2, (_K2 * _PEAK) ** 2
    ssim: _Planes = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return ssim.transpose(1, 2, 0)


def _moments(image: Image8, reference: Image8) -> list[_Planes]:
    """Gaussian means of two pictures, of their squares and of their product, each (3, H, W), borders repeated.

    Args:
        image: (H, W, 3) uint8.
        reference: Same shape.
    """
    x, y = (np.ascontiguousarray(each.transpose(2, 0, 1), np.float64) for each in (image, reference))
    return [np.stack([_blur(plane) for plane in planes]) for planes in (x, y, x * x, y * y, x * y)]


def _across_channels(moments: list[_Planes]) -> list[_Planes]:
    """The moments for a window that reaches over neighbouring channels too."""
    matrix = _across(len(moments[0]))
    return [np.tensordot(matrix, planes, axes=1) for planes in moments]


def _gaussian() -> NDArray[np.float64]:
    reach = _WINDOW // 2
    weights: NDArray[np.float64] = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _SIGMA) ** 2)
    weights /= weights.sum()
    return weights


def _across(size: int) -> NDArray[np.float64]:
    """The window over an axis of few values as a matrix, (size, size): it is wider than the axis."""
    reach = _WINDOW // 2
    matrix = np.zeros((size, size))
    for row in range(size):
        for tap, weight in enumerate(_gaussian()):
            matrix[row, np.clip(row + tap - reach, 0, size - 1)] += weight
    return matrix


def _blur(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian means of (H, W)."""
    reach, (height, width) = _WINDOW // 2, plane.shape
    rows = np.pad(plane, ((reach, reach), (0, 0)), mode="edge")
    down = _weighted([rows[tap : tap + height] for tap in range(_WINDOW)])
    columns = np.pad(down, ((0, 0), (reach, reach)), mode="edge")
    return _weighted([columns[:, tap : tap + width] for tap in range(_WINDOW)])


def _weighted(taps: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The sum of eleven shifted planes, (H, W), by the Gaussian window's weights."""
    reach, weights = _WINDOW // 2, _gaussian()
    total = np.empty(taps[0].shape)
    for first in range(0, len(total), _BLOCK):
        rows = np.s_[first : first + _BLOCK]
        np.multiply(taps[reach][rows], weights[reach], out=total[rows])
        pair = np.empty_like(total[rows])
        for before in range(reach):  # taps at equal distance have equal weights
            np.add(taps[before][rows], taps[2 * reach - before][rows], out=pair)
            pair *= weights[before]
            total[rows] += pair
    return total


def _check_same_shape(image: Image8, reference: Image8) -> None:
    if image.shape != reference.shape:
        raise VerificationError(
            f"images of {image.shape} and {reference.shape} cannot be compared", hint="give images of one size"
        )
