"""Blur as cameras make it, from sharp photographs: what :mod:`deblur_deploy.data.shake` leaves out.

An exposure is the average of frames. Each frame is the photograph moved along the camera's path, further where the
scene is near and less where it is far, and rolled; objects in front move on separate paths, with soft edges, and
cover what is behind them. Frames are averaged in linear light behind a random camera response, or in code values, as
the ``blur`` folders of GoPro (Nah et al., CVPR 2017) and REDS (Nah et al., CVPR workshops 2019) are. Noise comes
before the response; sharpening and JPEG come after it. Every path is centred on its mean, so the sharp photograph is
aligned with the blurred one.

OpenCV moves the frames. One seed gives one picture with one version of OpenCV; between versions, and between kinds of
processor, single codes may differ.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from deblur_deploy.config import CameraConfig
from deblur_deploy.data.shake import ShakenPair

Image8 = NDArray[np.uint8]
Plane = NDArray[np.float32]

_FEWEST_FRAMES = 3
"""Of a smooth path, which has one for every pixel of its length."""


class Scene:
    """The background: it moves with the camera, less where it is far away.

    Args:
        light: (H, W, 3) float32.
        scale: (H, W) float32, by how much the path's translation is multiplied at each pixel.
        path: (frames, 3) float64: dx and dy in pixels, roll in radians.
    """

    def __init__(self, light: Plane, scale: Plane, path: NDArray[np.float64]) -> None:
        height, width = light.shape[:2]
        self.light, self.scale, self.path = light, scale, path
        self.x, self.y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        self.right_of_center, self.below_center = self.x - (width - 1) / 2, self.y - (height - 1) / 2

    def frame(self, number: int, interpolation: int = cv2.INTER_LINEAR) -> Plane:
        """One frame, (H, W, 3) float32."""
        dx, dy, roll = self.path[number]
        # scaleAdd is a * factor + b, in one pass.
        map_x = cv2.scaleAdd(self.below_center, -roll, cv2.scaleAdd(self.scale, dx, self.x))
        map_y = cv2.scaleAdd(self.right_of_center, roll, cv2.scaleAdd(self.scale, dy, self.y))
        moved: Plane = cv2.remap(self.light, map_x, map_y, interpolation, borderMode=cv2.BORDER_REPLICATE)
        return moved


class MovingObject:
    """What moves in front, on a separate path.

    Args:
        light: (H, W, 3) float32.
        mask: (H, W) float32 in [0, 1], where it is.
        path: (frames, 3) float64: dx and dy in pixels, roll in radians.
    """

    def __init__(self, light: Plane, mask: Plane, path: NDArray[np.float64]) -> None:
        self.light, self.mask, self.path = light, mask, path

    def cover(self, frame: Plane, number: int) -> Plane:
        """A frame with the object in front of it, (H, W, 3) float32."""
        dx, dy, roll = self.path[number]
        height, width = self.mask.shape
        center_x, center_y = (width - 1) / 2, (height - 1) / 2
        pose = np.array([[1, -roll, dx + roll * center_y], [roll, 1, dy - roll * center_x]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        light, mask = (
            cv2.warpAffine(plane, pose, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            for plane in (self.light, self.mask)
        )
        covered: Plane = cv2.blendLinear(light, frame, mask, 1 - mask)
        return covered


def expose(sharp: Image8, config: CameraConfig, rng: np.random.Generator) -> ShakenPair:
    """Blur one photograph as a moving camera would.

    Args:
        sharp: (H, W, 3) uint8 sRGB.
        config: How far, in which domain, how noisy.
        rng: Source of all randomness.

    Returns:
        The pair. Pixels that a path brings in from outside repeat the border.
    """
    exponent = 1.0 if rng.random() < config.code_share else float(rng.uniform(*config.response))
    light = to_light(sharp, exponent, config.highlight_gain)
    average = _average(light, config, rng)
    noisy = add_noise(np.clip(average, 0.0, 1.0), config, rng)
    codes: Plane = noisy if exponent == 1.0 else cv2.pow(noisy, 1 / exponent)
    return ShakenPair(develop(codes, config, rng), sharp)


def camera_path(length_px: float, frames: int, config: CameraConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """The path of one exposure: a bend of random strength, uneven speed.

    Args:
        length_px: Diagonal of the path's bounding box.
        frames: How many poses.
        config: Bend and roll.
        rng: Source of all randomness.

    Returns:
        (frames, 3) float64: dx and dy in pixels, roll in radians; each column has the mean 0.
    """
    time = np.linspace(-0.5, 0.5, frames)
    bend, wobble = rng.normal(0.0, config.bend_rad, 2)
    heading = rng.uniform(0, 2 * math.pi) + bend * time + wobble * np.sin(2 * math.pi * (time + rng.random()))
    speed = 1 + rng.uniform(0, 0.7) * np.sin(2 * math.pi * (time * rng.uniform(0.3, 1.0) + rng.random()))
    track = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * speed[:, None], axis=0)
    extent = float(np.hypot(*(track.max(axis=0) - track.min(axis=0))))
    track *= length_px / max(extent, 1e-9)
    roll = time * math.radians(rng.uniform(-config.roll_deg, config.roll_deg))
    path: NDArray[np.float64] = np.column_stack([track, roll])
    path -= path.mean(axis=0)
    return path


def _average(light: Plane, config: CameraConfig, rng: np.random.Generator) -> Plane:
    """Mean of all frames of an exposure, (H, W, 3) float32."""
    size = light.shape[:2]
    lengths = rng.uniform(*config.length_px, 1 + int(rng.integers(*config.objects, endpoint=True)))
    if rng.random() < config.discrete_share:
        # Each frame has an exposure, so it is never far from the next.
        frames = max(int(rng.integers(*config.discrete_frames, endpoint=True)), math.ceil(max(lengths) / 3))
    else:
        frames = max(_FEWEST_FRAMES, math.ceil(max(lengths)) + 1)
    # The nearest point moves as far as the path is long, so no motion is longer than the path.
    scale = 1 - np.float32(rng.uniform(0.0, config.parallax)) * smooth_field(size, rng)
    scene = Scene(light, scale, camera_path(lengths[0], frames, config, rng))
    objects = [MovingObject(light, object_mask(size, rng), camera_path(x, frames, config, rng)) for x in lengths[1:]]
    total = np.zeros_like(light)
    for number in range(frames):
        frame = scene.frame(number)
        for thing in objects:
            frame = thing.cover(frame, number)
        cv2.accumulate(frame, total)
    total /= frames
    return total


def to_light(sharp: Image8, exponent: float, highlight_gain: float) -> Plane:
    """What the sensor saw: codes to the power of the response; clipped pixels are brighter than they look."""
    table = (np.arange(256, dtype=np.float64) / 255) ** exponent
    if exponent != 1.0:
        table[255] = 1 + highlight_gain
    light: Plane = table.astype(np.float32)[sharp]
    return light


def add_noise(light: Plane, config: CameraConfig, rng: np.random.Generator) -> Plane:
    """Photon noise (the Gaussian limit of Poisson, variance signal/photons) plus read noise."""
    photons = float(rng.uniform(*config.photons))
    sigma: Plane = cv2.sqrt(light / np.float32(photons) + np.float32(config.read_noise**2))
    noisy: Plane = light + sigma * rng.standard_normal(light.shape, dtype=np.float32)
    return noisy.clip(0.0, 1.0)


def develop(codes: Plane, config: CameraConfig, rng: np.random.Generator) -> Image8:
    """Sharpening, rounding and JPEG: the last steps of a camera's processor."""
    if rng.random() < config.sharpen_share:
        amount = np.float32(rng.uniform(0.1, 0.5))
        codes = codes + amount * (codes - cv2.GaussianBlur(codes, (0, 0), 1.0))
    rounded: Image8 = np.clip(codes * 255 + np.float32(0.5), 0, 255).astype(np.uint8)
    if rng.random() < config.jpeg_share:
        quality = int(rng.integers(*config.jpeg_quality, endpoint=True))
        # OpenCV's files have the order blue, green, red.
        _, file = cv2.imencode(".jpg", rounded[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        rounded = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    return rounded


def smooth_field(size: tuple[int, ...], rng: np.random.Generator) -> Plane:
    """A smooth random field in [0, 1], (H, W) float32."""
    cells = rng.random((int(rng.integers(2, 5)), int(rng.integers(2, 5))), dtype=np.float32)
    field: Plane = cv2.resize(cells, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return field.clip(0.0, 1.0)


def object_mask(size: tuple[int, ...], rng: np.random.Generator) -> Plane:
    """A random blob with edges a few pixels soft, (H, W) float32 in [0, 1]."""
    field = smooth_field(size, rng)
    softness = rng.uniform(0.02, 0.15)
    mask: Plane = np.clip((field - np.float32(rng.uniform(0.5, 0.8))) / np.float32(softness), 0.0, 1.0)
    return mask
