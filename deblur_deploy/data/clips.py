"""Training clips: consecutive frames of a film with the motion between them, made from photographs or real.

A synthetic film is one continuous camera path over a photograph; each frame's exposure is a stretch of it, and its
sharp frame is the photograph from the middle of that stretch. Objects move on paths of their own. Camera, response and
noise are those of :mod:`deblur_deploy.data.camera`.

Clip ``i`` depends on the seed and ``i`` alone.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from deblur_deploy.config import CameraConfig, ClipConfig, FitConfig
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.data.camera import (
    MovingObject,
    Plane,
    Scene,
    add_noise,
    camera_path,
    develop,
    object_mask,
    smooth_field,
    to_light,
)
from deblur_deploy.data.crops import detail
from deblur_deploy.data.optical_flow import Motion, find_motion, quarter_gray
from deblur_deploy.network.steps import FLOW_STRIDE

Image8 = NDArray[np.uint8]

PLANES = 6
"""Of a frame in a clip: red, green and blue in [0, 1]; flow to the right and down; trust in the flow."""


class ClipFrames(NamedTuple):
    """Some consecutive frames, (H, W, 3) uint8 sRGB each, as they were taken and sharp."""

    blurred: tuple[Image8, ...]
    sharp: tuple[Image8, ...]


def film(photo: Image8, config: CameraConfig, clip: ClipConfig, rng: np.random.Generator) -> ClipFrames:
    """Move a camera over a photograph.

    Args:
        photo: (H, W, 3) uint8 sRGB.
        config: Length of each frame's path, response, objects and noise.
        clip: Number of frames, and how much of the time between two is exposed.
        rng: Source of all randomness.

    Returns:
        The frames. Pixels that a path brings in from outside repeat the border.
    """
    size = photo.shape[:2]
    exponent = 1.0 if rng.random() < config.code_share else float(rng.uniform(*config.response))
    light = to_light(photo, exponent, config.highlight_gain)
    codes: Plane = photo.astype(np.float32) / np.float32(255)
    lengths = rng.uniform(*config.length_px, 1 + int(rng.integers(*config.objects, endpoint=True)))
    poses = math.ceil(max(lengths)) + 1  # between two frames: one for every pixel
    exposed = max(1, round(poses * float(rng.uniform(*clip.exposure))))
    scale = 1 - np.float32(rng.uniform(0.0, config.parallax)) * smooth_field(size, rng)
    paths = [camera_path(clip.frames * length, clip.frames * poses, config, rng) for length in lengths]
    masks = [object_mask(size, rng) for _ in lengths[1:]]
    taken, still = (
        _World(plane, scale, paths, masks, how) for plane, how in ((light, cv2.INTER_LINEAR), (codes, cv2.INTER_CUBIC))
    )
    blurred, sharp = [], []
    for number in range(clip.frames):
        first = number * poses
        average = np.zeros_like(light)
        for pose in range(first, first + exposed):
            cv2.accumulate(taken.frame(pose), average)
        noisy = add_noise(np.clip(average / exposed, 0.0, 1.0), config, rng)
        blurred.append(develop(noisy if exponent == 1.0 else cv2.pow(noisy, 1 / exponent), config, rng))
        sharp.append(np.clip(still.frame(first + exposed // 2) * 255 + 0.5, 0, 255).astype(np.uint8))
    return ClipFrames(tuple(blurred), tuple(sharp))


class _World:
    """A photograph and what moves in front of it, in some light."""

    def __init__(
        self,
        plane: Plane,
        scale: Plane,
        paths: Sequence[NDArray[np.float64]],
        masks: Sequence[Plane],
        interpolation: int,
    ) -> None:
        self._scene = Scene(plane, scale, paths[0])
        self._things = [MovingObject(plane, mask, path) for mask, path in zip(masks, paths[1:], strict=True)]
        self._interpolation = interpolation

    def frame(self, pose: int) -> Plane:
        """What is seen from one pose, (H, W, 3) float32."""
        seen = self._scene.frame(pose, self._interpolation)
        for thing in self._things:
            seen = thing.cover(seen, pose)
        return seen


class Clips(Dataset[tuple[Tensor, Tensor]]):
    """Clips, blurred and sharp; practically endless.

    Each is (frames * PLANES, crop, crop) float32: the planes of the first frame, then those of the next. The motion of
    the blurred clip is found in its blurred frames, as in a film that is restored; that of the sharp one in its sharp
    frames. The first frame's motion is 0 and not trusted.

    Args:
        sizes: Height and width of every photograph or sequence.
        fit: Side and number of the clips, and the seed.
        clip: Length of a clip.
        reach_px: How far motion reaches in from outside of a clip.
        names: What they are called in messages.

    Raises:
        ConfigError: One is smaller than a clip with its margin.
    """

    def __init__(
        self, sizes: Sequence[tuple[int, ...]], fit: FitConfig, clip: ClipConfig, reach_px: float, names: Sequence[str]
    ) -> None:
        self.fit, self.clip = fit, clip
        self.margin = math.ceil(reach_px / FLOW_STRIDE) * FLOW_STRIDE
        self.side = fit.crop + 2 * self.margin
        smallest, index = min((min(size), index) for index, size in enumerate(sizes))
        if smallest < self.side:
            raise ConfigError(
                f"{names[index]} with a side of {smallest} px is too small for clips of {fit.crop} px",
                hint=f"use pictures of at least {self.side} px, smaller crops, shorter paths or fewer frames",
            )

    @abstractmethod
    def shoot(self, rng: np.random.Generator) -> ClipFrames:
        """A clip of ``side`` x ``side`` pixels."""

    def __len__(self) -> int:
        """Number of clips."""
        return self.fit.steps * self.fit.batch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Blurred and sharp clip."""
        rng = np.random.default_rng([self.fit.seed, index])
        shot = self.shoot(rng)
        return self._stacked(shot.blurred), self._stacked(shot.sharp)

    def _stacked(self, frames: Sequence[Image8]) -> Tensor:
        grays = [quarter_gray(frame) for frame in frames]
        motions = [None, *(find_motion(current, before) for before, current in itertools.pairwise(grays))]
        planes = [self._planes(frame, motion) for frame, motion in zip(frames, motions, strict=True)]
        return torch.from_numpy(np.concatenate(planes))

    def _planes(self, frame: Image8, motion: Motion | None) -> NDArray[np.float32]:
        """(PLANES, crop, crop) without the margin; each flow stands for the pixels that it is of."""
        planes = np.zeros((PLANES, self.side, self.side), np.float32)
        planes[:3] = frame.transpose(2, 0, 1) / np.float32(255)
        if motion is not None:
            small = np.concatenate([motion.flow, motion.trust])
            planes[3:] = small.repeat(FLOW_STRIDE, axis=1).repeat(FLOW_STRIDE, axis=2)
        inside = slice(self.margin, self.margin + self.fit.crop)
        return planes[:, inside, inside]


class FilmedClips(Clips):
    """Clips made from sharp photographs.

    Args:
        photos: (H, W, 3) uint8 sRGB.
        fit: Side and number of the clips, and the seed.
        clip: Length and exposure.
        camera: The blur.
        names: What the photographs are called in messages.
    """

    def __init__(
        self, photos: Sequence[Image8], fit: FitConfig, clip: ClipConfig, camera: CameraConfig, names: Sequence[str]
    ) -> None:
        reach_px = clip.frames * camera.length_px[1] / 2
        super().__init__([photo.shape[:2] for photo in photos], fit, clip, reach_px, names)
        self.photos, self.camera = photos, camera

    def shoot(self, rng: np.random.Generator) -> ClipFrames:
        """A film over a piece of a photograph, which is mirrored and turned by chance."""
        piece = max((self._piece(rng) for _ in range(self.fit.candidates)), key=detail)
        if rng.random() < 0.5:
            piece = piece[:, ::-1]
        if rng.random() < 0.5:
            piece = piece.transpose(1, 0, 2)
        return film(np.ascontiguousarray(piece), self.camera, self.clip, rng)

    def _piece(self, rng: np.random.Generator) -> Image8:
        photo = self.photos[int(rng.integers(len(self.photos)))]
        top, left = (int(rng.integers(size - self.side + 1)) for size in photo.shape[:2])
        return photo[top : top + self.side, left : left + self.side]


class SequenceClips(Clips):
    """Clips of films that were taken blurred and sharp.

    Args:
        sequences: For each film its frames in order, (H, W, 3) uint8 sRGB, all of one size, blurred and sharp.
        fit: Side and number of the clips, and the seed.
        clip: Length.
        names: What the films are called in messages.

    Raises:
        ConfigError: A film is shorter than a clip.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[tuple[Image8, Image8]]],
        fit: FitConfig,
        clip: ClipConfig,
        names: Sequence[str],
    ) -> None:
        super().__init__([sequence[0][1].shape[:2] for sequence in sequences], fit, clip, 0, names)
        for sequence, name in zip(sequences, names, strict=True):
            if len(sequence) < clip.frames:
                raise ConfigError(
                    f"{name} has {len(sequence)} frames, too few for clips of {clip.frames}",
                    hint="leave it out, or set fewer frames under [clip]",
                )
        self.sequences = sequences

    def shoot(self, rng: np.random.Generator) -> ClipFrames:
        """Consecutive frames of a film, cut at one place, by chance backwards, mirrored or turned."""
        sequence = self.sequences[int(rng.integers(len(self.sequences)))]
        start = int(rng.integers(len(sequence) - self.clip.frames + 1))
        top, left = (int(rng.integers(size - self.side + 1)) for size in sequence[0][1].shape[:2])
        frames = [sequence[start + number] for number in range(self.clip.frames)]
        mirrored, turned, backwards = rng.random(3) < 0.5

        def cut(frame: Image8) -> Image8:
            piece = frame[top : top + self.side, left : left + self.side]
            piece = piece[:, ::-1] if mirrored else piece
            return np.ascontiguousarray(piece.transpose(1, 0, 2) if turned else piece)

        frames = frames[::-1] if backwards else frames
        return ClipFrames(tuple(cut(blurred) for blurred, _ in frames), tuple(cut(sharp) for _, sharp in frames))
