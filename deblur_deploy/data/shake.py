"""Camera shake made from sharp photographs: blurred/sharp pairs without a camera rig.

This imitates sets such as GoPro and RealBlur from single photographs: linearise, average the frames that a shaking
camera would have integrated, add sensor noise, and return to sRGB. A frame is the photograph moved by (dx, dy) and
rolled about its centre; frames follow a smooth random path. The path is centred, so the sharp photograph is aligned
with the blurred one. Everything comes from NumPy's seeded PCG64 stream and float64/float32 arithmetic in a fixed order:
one seed, one picture, byte for byte.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.config import ShakeConfig

Image8 = NDArray[np.uint8]
"""(H, W, 3) uint8 sRGB."""


class ShakenPair(NamedTuple):
    """A blurred photograph and the sharp one it was made from, both (H, W, 3) uint8 sRGB and aligned."""

    blurred: Image8
    sharp: Image8


def shake(sharp: Image8, config: ShakeConfig, rng: np.random.Generator) -> ShakenPair:
    """Blur one photograph by a random camera shake.

    Args:
        sharp: (H, W, 3) uint8 sRGB.
        config: How far, how long, how noisy.
        rng: Source of all randomness; the same state gives the same bytes.

    Returns:
        The pair. Pixels that the path brings in from outside repeat the border.
    """
    linear = _brighten_highlights(_SRGB_TO_LINEAR[sharp], config.highlight_gain)
    path = shake_path(config, rng)
    blurred = _average_along(linear, path)
    if rng.random() < config.foreground_probability:
        mask = _foreground_mask(sharp.shape[:2], rng)[..., None]
        moving = _average_along(linear, shake_path(config, rng))
        blurred = blurred + mask * (moving - blurred)
    blurred = _add_sensor_noise(np.clip(blurred, 0.0, 1.0), config, rng)
    return ShakenPair(_linear_to_srgb8(blurred), sharp)


def linear_blur(sharp: Image8, length_px: float, angle_deg: float) -> Image8:
    """Blur by uniform motion along a straight line, in linear light: the kernel that augmentation adds to real pairs.

    Args:
        sharp: (H, W, 3) uint8 sRGB.
        length_px: Length of the line in pixels.
        angle_deg: Direction, from the x axis.
    """
    # Two poses a pixel: bilinear weights of such poses sum to an even line.
    along = np.linspace(-length_px / 2, length_px / 2, 2 * math.ceil(length_px) + 1)
    angle, reach = math.radians(angle_deg), math.ceil(length_px / 2) + 1
    taps = np.arange(-reach, reach + 1)
    across, down = (_hat(along[:, None] * part - taps) for part in (math.cos(angle), math.sin(angle)))
    kernel = (down.T @ across / len(along)).astype(np.float32)  # the same at every pixel: rows, columns
    linear = _SRGB_TO_LINEAR[sharp]
    padded = np.pad(linear, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    total = np.zeros_like(linear)
    height, width = sharp.shape[:2]
    for row, column in np.argwhere(kernel):
        total += kernel[row, column] * padded[row : row + height, column : column + width]
    return _linear_to_srgb8(np.clip(total, 0.0, 1.0))


def shake_path(config: ShakeConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth random path of the camera.

    The velocity turns by a random walk; the path is scaled to a random extent within ``config.length_px``, so its
    extent is known exactly, and centred on its mean.

    Returns:
        (frames, 3) float64: dx and dy in pixels, roll in radians.
    """
    frames = int(rng.integers(config.frames[0], config.frames[1], endpoint=True))
    heading = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.normal(0.0, config.turn_rad, frames))
    speed = 0.25 + rng.random(frames)
    track = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * speed[:, None], axis=0)
    extent = float(np.hypot(*(track.max(axis=0) - track.min(axis=0))))
    track *= rng.uniform(*config.length_px) / max(extent, 1e-9)
    roll = np.cumsum(rng.normal(0.0, 1.0, frames))
    span = float(roll.max() - roll.min())
    roll *= math.radians(rng.uniform(0.0, config.roll_deg)) / max(span, 1e-9)
    path: NDArray[np.float64] = np.column_stack([track, roll])
    path -= path.mean(axis=0)
    return path


def _average_along(image: NDArray[np.float32], path: NDArray[np.float64]) -> NDArray[np.float32]:
    """Mean of the image over all poses of the path, as one blur kernel that varies over the picture.

    A pose moves row y by ``dx - roll*y`` and column x by ``dy + roll*x`` (first order in the roll; 0.01 px at 640 px
    and 0.3 degrees). Bilinear weights are then a product of a row term and a column term, so the weight of one kernel
    tap, summed over the poses, is a matrix product, and the blur a sum of shifted images.
    """
    height, width = image.shape[:2]
    dx, dy, roll = path.T[:, :, None]  # each (frames, 1)
    shift_x = dx - roll * (np.arange(height) - (height - 1) / 2)  # (frames, H)
    shift_y = dy + roll * (np.arange(width) - (width - 1) / 2)  # (frames, W)
    reach = math.ceil(max(float(np.abs(shift_x).max()), float(np.abs(shift_y).max()))) + 1
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    total = np.zeros_like(image)
    for tap_x in range(-reach, reach + 1):
        row_weights = _hat(shift_x - tap_x) / len(path)
        for tap_y in range(-reach, reach + 1):
            if not (poses := _poses_near(row_weights, column_weights := _hat(shift_y - tap_y))).any():
                continue
            weights = (row_weights[poses].T @ column_weights[poses]).astype(np.float32)
            moved = padded[reach + tap_y : reach + tap_y + height, reach + tap_x : reach + tap_x + width]
            total += weights[..., None] * moved
    return total


def _hat(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation's weight of a sample at this distance in pixels."""
    return np.maximum(0.0, 1.0 - np.abs(distance))


def _poses_near(row_weights: NDArray[np.float64], column_weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Poses that touch this tap somewhere: (frames,) bool."""
    touching: NDArray[np.bool_] = np.logical_and(row_weights.any(axis=1), column_weights.any(axis=1))
    return touching


def _brighten_highlights(linear: NDArray[np.float32], gain: float) -> NDArray[np.float32]:
    """Undo the clipping of blown-out pixels before averaging, so that lamps smear into bright streaks.

    Only pixels at full scale were clipped. Others keep their value, so that without motion nothing changes.
    """
    return np.where(linear >= 1, np.float32(1 + gain), linear)


def _foreground_mask(size: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """A soft-edged random ellipse, (H, W) in [0, 1]: something that moves on its own."""
    height, width = size
    center_y, center_x = rng.uniform(0.2, 0.8, 2) * (height, width)
    radius_y, radius_x = rng.uniform(0.15, 0.4, 2) * (height, width)
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    distance = np.hypot((y - center_y) / radius_y, (x - center_x) / radius_x)
    mask: NDArray[np.float32] = np.clip((1.15 - distance) / 0.3, 0.0, 1.0).astype(np.float32)
    return mask


def _add_sensor_noise(
    linear: NDArray[np.float32], config: ShakeConfig, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Photon noise (the Gaussian limit of Poisson, variance signal/photons) plus read noise, in linear light."""
    if not config.noise:
        return linear
    photons = rng.uniform(*config.photons)
    variance = linear / np.float32(photons) + np.float32(config.read_noise**2)
    noisy: NDArray[np.float32] = linear + np.sqrt(variance) * rng.standard_normal(linear.shape, dtype=np.float32)
    return noisy.clip(0.0, 1.0)


def _srgb_to_linear_table() -> NDArray[np.float32]:
    """Linear light of the 256 sRGB codes (IEC 61966-2-1)."""
    code = np.arange(256) / 255
    linear = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


_SRGB_TO_LINEAR = _srgb_to_linear_table()
_CODE_EDGES = (_SRGB_TO_LINEAR[1:].astype(np.float64) + _SRGB_TO_LINEAR[:-1]) / 2
_LINEAR_STEPS = 1 << 16
_LINEAR_TO_SRGB = np.searchsorted(_CODE_EDGES, np.arange(_LINEAR_STEPS) / (_LINEAR_STEPS - 1)).astype(np.uint8)


def _linear_to_srgb8(linear: NDArray[np.float32]) -> Image8:
    """Codes of linear light in [0, 1], from a table of 65,536 steps: no power function, so platforms do not differ."""
    steps = (linear * np.float32(_LINEAR_STEPS - 1) + np.float32(0.5)).astype(np.int32)
    return _LINEAR_TO_SRGB[steps]
