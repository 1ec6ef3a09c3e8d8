"""The registration in RealBlur's protocol, which comes before a restored picture is compared with the sharp one.

RealBlur's two cameras see a scene at slightly different positions and exposures. Its evaluation code (Rim et al., ECCV
2020) scales the restored picture's intensity, finds the homography of the largest enhanced correlation coefficient
(Evangelidis and Psarakis, PAMI 2008, the forward additive scheme, as OpenCV's ``findTransformECC`` has it), warps the
restored picture by cubic interpolation, and counts only pixels that it covers. This is done in NumPy, so that no figure
depends on an optional library; unlike OpenCV, it does not round positions to 1/32 pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import VerificationError

Image8 = NDArray[np.uint8]
Plane = NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114])
_SMOOTHING = np.array([0.07076639, 0.24446, 0.36954722, 0.24446, 0.07076639])
"""Gaussian of 5 taps and sigma 1.1, which OpenCV takes for ``gaussFiltSize=5``."""
_ITERATIONS, _SMALLEST_GAIN = 100, 1e-7
_CUBIC = -0.75
"""The parameter of the cubic kernel (Keys, 1981) in OpenCV."""


def align(image: Image8, sharp: Image8, name: str) -> tuple[Image8, NDArray[np.bool_]]:
    """Match a picture's intensity and geometry to the sharp one.

    Args:
        image: (H, W, 3) uint8, restored or blurred.
        sharp: Same shape.
        name: What the photograph is called in the message.

    Returns:
        The registered picture, (H, W, 3) uint8, and which of its pixels are covered, (H, W).

    Raises:
        VerificationError: The two have too little in common to be registered.
    """
    if min(sharp.shape[:2]) < 2:
        raise VerificationError(f"{name} is too small to be registered", hint="leave --align out for such pictures")
    moving, fixed = image.astype(np.float64), sharp.astype(np.float64)
    moving *= (fixed * moving).sum() / max((moving * moving).sum(), 1e-12)
    homography = _find_homography(_smooth(moving @ _LUMA), _smooth(fixed @ _LUMA), name)
    x, y = _positions(homography, image.shape)
    height, width = image.shape[:2]
    covered = (np.rint(x) >= 0) & (np.rint(x) <= width - 1) & (np.rint(y) >= 0) & (np.rint(y) <= height - 1)
    warped = np.rint(np.clip(_sample_cubic(moving, x, y), 0, 255)).astype(np.uint8)
    return warped, covered


def _find_homography(moving: Plane, fixed: Plane, name: str) -> Plane:
    """The 3x3 homography from pixels of ``fixed`` to those of ``moving`` with the largest correlation."""
    homography = np.eye(3)
    gradients = [np.asarray(np.gradient(moving, axis=axis), np.float64) for axis in (1, 0)]
    grid_y, grid_x = np.mgrid[: fixed.shape[0], : fixed.shape[1]].astype(np.float64)
    best, kept = -1.0, homography
    for _ in range(_ITERATIONS):
        x, y = _positions(homography, fixed.shape)
        inside = (x >= 0) & (x <= fixed.shape[1] - 1) & (y >= 0) & (y <= fixed.shape[0] - 1)
        if not inside.any():
            raise _no_match(name)
        x, y = x[inside], y[inside]
        scale = 1 / (homography[2, 0] * grid_x[inside] + homography[2, 1] * grid_y[inside] + 1)
        along_x, along_y = (_sample_linear(g, x, y) * scale for g in gradients)
        steep = -(x * along_x + y * along_y)
        jacobian = np.stack(
            [factor * part for factor in (grid_x[inside], grid_y[inside]) for part in (along_x, along_y, steep)]
            + [along_x, along_y]
        )
        step, correlation = _ecc_step(jacobian, _sample_linear(moving, x, y), fixed[inside], name)
        gain = correlation - best
        if gain > 0:
            best, kept = correlation, homography.copy()
        if gain < _SMALLEST_GAIN:
            break
        homography.T.flat[:8] += step
    return kept


def _ecc_step(jacobian: Plane, image: Plane, template: Plane, name: str) -> tuple[Plane, float]:
    """Equations 18 and 19 of Evangelidis and Psarakis: the step of 8 parameters, and the correlation before it.

    Args:
        jacobian: (8, N) derivatives of the warped image by h00, h10, h20, h01, h11, h21, h02, h12.
        image: (N,) the warped image.
        template: (N,) what it should look like.
        name: What the photograph is called in the message.
    """
    image = image - float(image.mean())
    template = template - float(template.mean())
    hessian = jacobian @ jacobian.T
    norms = float(np.linalg.norm(image) * np.linalg.norm(template))
    if norms == 0 or np.linalg.cond(hessian) > 1e16:
        raise VerificationError(f"{name} is too flat to be registered", hint="leave --align out for such pictures")
    image_part, template_part = jacobian @ image, jacobian @ template
    solved = np.linalg.solve(hessian, image_part)
    correlation = float(template @ image)
    below = correlation - template_part @ solved
    if below <= 0:
        raise _no_match(name)
    gain = (image @ image - image_part @ solved) / below
    step = np.linalg.solve(hessian, jacobian @ (gain * template - image))
    return np.asarray(step, np.float64), correlation / norms


def _no_match(name: str) -> VerificationError:
    return VerificationError(f"{name} does not match its sharp partner", hint="check that the two belong together")


def _positions(homography: Plane, shape: tuple[int, ...]) -> tuple[Plane, Plane]:
    """Where each pixel of the fixed picture lies in the moving one: x and y, (H, W) each."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    h = homography
    below = h[2, 0] * x + h[2, 1] * y + h[2, 2]
    return (h[0, 0] * x + h[0, 1] * y + h[0, 2]) / below, (h[1, 0] * x + h[1, 1] * y + h[1, 2]) / below


def _smooth(plane: Plane) -> Plane:
    """5x5 Gaussian smoothing, borders reflected."""
    for axis in (0, 1):
        pad = [(2, 2) if a == axis else (0, 0) for a in (0, 1)]
        padded, size = np.pad(plane, pad, mode="symmetric"), plane.shape[axis]
        total = np.zeros_like(plane)
        for tap, weight in enumerate(_SMOOTHING):
            total += weight * padded.take(range(tap, tap + size), axis=axis)
        plane = total
    return plane


def _sample_linear(plane: Plane, x: Plane, y: Plane) -> Plane:
    """Bilinear samples at positions inside the plane."""
    left = np.minimum(x.astype(np.int64), plane.shape[1] - 2)
    top = np.minimum(y.astype(np.int64), plane.shape[0] - 2)
    across, down = x - left, y - top
    upper = plane[top, left] * (1 - across) + plane[top, left + 1] * across
    lower = plane[top + 1, left] * (1 - across) + plane[top + 1, left + 1] * across
    mixed: Plane = upper * (1 - down) + lower * down
    return mixed


def _sample_cubic(image: Plane, x: Plane, y: Plane) -> Plane:
    """Cubic samples of (H, W, 3) at any positions, borders reflected: (H, W, 3)."""
    height, width = image.shape[:2]
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    total = np.zeros(image.shape)
    for row in range(-1, 3):
        for column in range(-1, 3):
            weight = _cubic_weight(y - (top + row)) * _cubic_weight(x - (left + column))
            total += weight[..., None] * image[_reflected(top + row, height), _reflected(left + column, width)]
    return total


def _cubic_weight(distance: Plane) -> Plane:
    """Equation 5 of Keys (1981)."""
    d = np.abs(distance)
    near = ((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1
    far = _CUBIC * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _reflected(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Indices outside, reflected about the border: ``cba|abc|cba``."""
    index = np.mod(index, 2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)
