"""Picture quality: PSNR, and SSIM in the two conventions that papers use without saying which."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import VerificationError

Image8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]
"""(H, W), true where pixels count."""

EQUAL_DB = 100.0
"""What a picture that is equal to the sharp one, whose PSNR is infinite, counts as wherever PSNRs are added, subtracted
or averaged: more than any picture of up to 51,000 pixels has that differs from the sharp one at all."""

_WINDOW, _SIGMA = 11, 1.5
_K1, _K2, _PEAK = 0.01, 0.03, 255.0


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


def bounded_db(value: float | None) -> float:
    """A PSNR to calculate with, in dB: at most ``EQUAL_DB``, which stands for equal pictures.

    Args:
        value: A PSNR in dB, infinite for equal pictures; None is how JSON, which has no infinity, says that.
    """
    return EQUAL_DB if value is None else min(value, EQUAL_DB)


def mean_psnr_db(values: Iterable[float]) -> float:
    """Mean of the PSNRs of several pictures in dB, in which a picture equal to the sharp one counts as ``EQUAL_DB``.

    Args:
        values: At least one PSNR.

    Returns:
        The mean; infinity where every picture was equal.
    """
    found = list(values)
    return math.inf if all(map(math.isinf, found)) else statistics.fmean(map(bounded_db, found))


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
    _check_same_shape(image, reference)
    margin = _WINDOW // 2
    if min(image.shape[:2]) < _WINDOW:
        raise VerificationError(f"{image.shape[1]}x{image.shape[0]} is too small for SSIM", hint="give 11x11 or more")
    ssim = _ssim_map(image, reference, across_channels=False)
    inner = np.s_[margin:-margin, margin:-margin]
    return _mean(ssim[inner], None if mask is None else mask[inner])


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
    return _mean(_ssim_map(image, reference, across_channels=True), mask)


def _mean(values: NDArray[np.float64], mask: Mask | None) -> float:
    return float(np.mean(values if mask is None else values[mask]))


def _ssim_map(image: Image8, reference: Image8, across_channels: bool) -> NDArray[np.float64]:
    """Equation 13 of Wang et al. with Gaussian moments, borders repeated; (H, W, 3).

    Args:
        image: (H, W, 3) uint8.
        reference: Same shape.
        across_channels: Whether the window reaches over neighbouring channels too.
    """
    x, y = (np.ascontiguousarray(each.transpose(2, 0, 1), np.float64) for each in (image, reference))
    mean_x, mean_y, square_x, square_y, product = (
        _blur(planes, across_channels) for planes in (x, y, x * x, y * y, x * y)
    )
    var_x, var_y, covariance = square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y
    c1, c2 = (_K1 * _PEAK) ** 2, (_K2 * _PEAK) ** 2
    ssim: NDArray[np.float64] = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return ssim.transpose(1, 2, 0)


def _gaussian() -> NDArray[np.float64]:
    reach = _WINDOW // 2
    weights: NDArray[np.float64] = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _SIGMA) ** 2)
    weights /= weights.sum()
    return weights


def _blur(planes: NDArray[np.float64], across_channels: bool) -> NDArray[np.float64]:
    """Gaussian means of (C, H, W), plane by plane: one plane fits into a processor's cache, three do not."""
    if across_channels:
        planes = np.tensordot(_across(len(planes)), planes, axes=1)
    return np.stack([_blur_rows(_blur_rows(plane).T).T for plane in planes])


def _across(size: int) -> NDArray[np.float64]:
    """The window over an axis of few values as a matrix, (size, size): it is wider than the axis."""
    reach = _WINDOW // 2
    matrix = np.zeros((size, size))
    for row in range(size):
        for tap, weight in enumerate(_gaussian()):
            matrix[row, np.clip(row + tap - reach, 0, size - 1)] += weight
    return matrix


def _blur_rows(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian means of (H, W) along the first axis."""
    reach, size, weights = _WINDOW // 2, len(plane), _gaussian()
    padded = np.pad(plane, ((reach, reach), (0, 0)), mode="edge")
    total: NDArray[np.float64] = weights[reach] * padded[reach : reach + size]
    pair = np.empty_like(total)
    for before in range(reach):  # taps at equal distance have equal weights
        after = 2 * reach - before
        np.add(padded[before : before + size], padded[after : after + size], out=pair)
        pair *= weights[before]
        total += pair
    return total


def _check_same_shape(image: Image8, reference: Image8) -> None:
    if image.shape != reference.shape:
        raise VerificationError(
            f"images of {image.shape} and {reference.shape} cannot be compared", hint="give images of one size"
        )
