"""Picture quality: PSNR, and SSIM in the two conventions that papers use without saying which."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.errors import VerificationError

Image8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]
"""(H, W), true where pixels count."""

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
    ssim = _ssim_map(image, reference, axes=(0, 1))
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
    return _mean(_ssim_map(image, reference, axes=(0, 1, 2)), mask)


def _mean(values: NDArray[np.float64], mask: Mask | None) -> float:
    return float(np.mean(values if mask is None else values[mask]))


def _ssim_map(image: Image8, reference: Image8, axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Equation 13 of Wang et al. with Gaussian moments along ``axes``, borders repeated."""
    x, y = image.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _blur(x, axes), _blur(y, axes)
    var_x = _blur(x * x, axes) - mean_x**2
    var_y = _blur(y * y, axes) - mean_y**2
    covariance = _blur(x * y, axes) - mean_x * mean_y
    c1, c2 = (_K1 * _PEAK) ** 2, (_K2 * _PEAK) ** 2
    ssim: NDArray[np.float64] = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return ssim


def _blur(image: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    reach = _WINDOW // 2
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _SIGMA) ** 2)
    weights /= weights.sum()
    for axis in axes:
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(image.ndim)]
        padded = np.pad(image, pad, mode="edge")
        size = image.shape[axis]
        image = sum(weight * padded.take(range(tap, tap + size), axis=axis) for tap, weight in enumerate(weights))
    return image


def _check_same_shape(image: Image8, reference: Image8) -> None:
    if image.shape != reference.shape:
        raise VerificationError(
            f"images of {image.shape} and {reference.shape} cannot be compared", hint="give images of one size"
        )
