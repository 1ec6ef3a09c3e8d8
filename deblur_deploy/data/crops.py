"""Training crops: a random piece of a random photograph, blurred and sharp, flipped and varied.

Crop ``i`` depends on the seed and ``i`` alone.
"""

from __future__ import annotations

import math
import os
import signal
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from deblur_deploy.config import NO_AUGMENTATION, AugmentConfig, CameraConfig, FitConfig, ShakeConfig
from deblur_deploy.core.errors import ConfigError, MissingDependencyError
from deblur_deploy.data.shake import ShakenPair, linear_blur, shake

Image8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Share:
    """Which crops of a run one process takes.

    Args:
        start: Steps that are done already.
        rank: Number of the process.
        world: How many processes share each batch evenly.
    """

    start: int = 0
    rank: int = 0
    world: int = 1


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Blurred and sharp crops; practically endless.

    Args:
        sizes: Height and width of every photograph.
        fit: Side and number of the crops, and the seed: crop ``i`` is the same for the same seed, whichever worker
            makes it.
        reach_px: How far the motion of a photograph's own blur reaches in from outside a crop.
        augment: What happens besides flips.
        names: What the photographs are called in messages.

    Raises:
        ConfigError: A photograph is smaller than a crop with its margin.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, ...]],
        fit: FitConfig,
        reach_px: float,
        augment: AugmentConfig,
        names: Sequence[str] | None = None,
    ) -> None:
        self.fit = fit
        self.augment = augment
        reach_px = max(reach_px, augment.linear_px[1] / 2) if augment.linear_share else reach_px
        # One for the interpolation, and one for rounding.
        self.margin = int(reach_px) + 2 if reach_px else 0
        smallest, index = min((min(size), index) for index, size in enumerate(sizes))
        if smallest < fit.crop + 2 * self.margin:
            name = names[index] if names else "a photograph"
            raise ConfigError(
                f"{name} with a side of {smallest} px is too small for crops of {fit.crop} px",
                hint=f"use photographs of at least {fit.crop + 2 * self.margin} px, or smaller crops",
            )

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> tuple[Image8, Image8]:
        """A random piece of a random photograph with its margin as it was taken, and sharp: twice (H, W, 3) uint8."""

    def blur(self, piece: tuple[Image8, Image8], rng: np.random.Generator) -> tuple[Image8, Image8]:
        """What :meth:`draw` gave, blurred and sharp."""
        return piece

    def __len__(self) -> int:
        """Number of crops."""
        return self.fit.steps * self.fit.batch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Blurred and sharp crop, each (3, crop, crop) float32 in [0, 1]."""
        rng = np.random.default_rng([self.fit.seed, index])
        candidates = [self.draw(rng) for _ in range(self.fit.candidates)]
        pair = self.blur(max(candidates, key=lambda piece: detail(piece[1])), rng)
        flips = rng.random(3) < 0.5
        if self.augment.linear_share and rng.random() < self.augment.linear_share:
            pair = linear_blur(pair[1], rng.uniform(*self.augment.linear_px), rng.uniform(0, 360)), pair[1]
        blurred, sharp = (self._cut(image, flips) for image in pair)
        return self._varied(blurred, sharp, rng)

    def _cut(self, image: Image8, flips: NDArray[np.bool_]) -> Tensor:
        """The piece without its margin, mirrored and turned."""
        image = image[self.margin : self.margin + self.fit.crop, self.margin : self.margin + self.fit.crop]
        if flips[0]:
            image = image[:, ::-1]
        if flips[1]:
            image = image[::-1]
        if flips[2]:
            image = image.transpose(1, 0, 2)
        planes = np.array(image.transpose(2, 0, 1), order="C")
        return torch.from_numpy(planes).float().div_(255)

    def _varied(self, blurred: Tensor, sharp: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The same change of brightness and contrast for both, around the mean of the sharp crop."""
        if not (self.augment.brightness or self.augment.contrast):
            return blurred, sharp
        gain = 1 + self.augment.brightness * rng.uniform(-1, 1)
        spread = 1 + self.augment.contrast * rng.uniform(-1, 1)
        mean = float(sharp.mean()) * gain
        blurred, sharp = (((image * gain - mean) * spread + mean).clamp_(0, 1) for image in (blurred, sharp))
        return blurred, sharp


class BlurredCrops(Crops):
    """Crops of sharp photographs that are given a synthetic blur.

    Args:
        photos: (H, W, 3) uint8 sRGB photographs, decoded once and kept.
        fit: Side and number of the crops, and the seed.
        blur: The synthetic blur: camera shake, or blur as cameras make it.
        augment: What happens besides flips.
        names: What the photographs are called in messages.
    """

    def __init__(
        self,
        photos: Sequence[Image8],
        fit: FitConfig,
        blur: ShakeConfig | CameraConfig,
        augment: AugmentConfig = NO_AUGMENTATION,
        names: Sequence[str] | None = None,
    ) -> None:
        # Half the path's extent, and a still camera has the margin of the interpolation.
        reach_px = max(blur.length_px[1] / 2, 0.5)
        super().__init__([photo.shape[:2] for photo in photos], fit, reach_px, augment, names)
        self.photos = photos
        self.expose = blur_function(blur)

    def draw(self, rng: np.random.Generator) -> tuple[Image8, Image8]:
        """A piece with margin, twice; where the photograph is large enough, half of the time at half its size."""
        piece = sharp_piece(self.photos, self.fit.crop + 2 * self.margin, rng)
        return piece, piece

    def blur(self, piece: tuple[Image8, Image8], rng: np.random.Generator) -> tuple[Image8, Image8]:
        """A blurred piece and the piece."""
        return self.expose(piece[1], rng)


class PairedCrops(Crops):
    """Crops of pairs that were taken blurred and sharp.

    Args:
        pairs: Blurred and sharp photographs, (H, W, 3) uint8 sRGB each, the two of a pair of one size.
        fit: Side and number of the crops, and the seed.
        augment: What happens besides flips.
        names: What the photographs are called in messages.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Image8, Image8]],
        fit: FitConfig,
        augment: AugmentConfig = NO_AUGMENTATION,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__([sharp.shape[:2] for _, sharp in pairs], fit, 0.0, augment, names)
        self.pairs = pairs

    def draw(self, rng: np.random.Generator) -> tuple[Image8, Image8]:
        """The same piece of both photographs."""
        blurred, sharp = self.pairs[int(rng.integers(len(self.pairs)))]
        side = self.fit.crop + 2 * self.margin
        top, left = (int(rng.integers(size - side + 1)) for size in sharp.shape[:2])
        here = np.s_[top : top + side, left : left + side]
        return blurred[here], sharp[here]


def sharp_piece(photos: Sequence[Image8], side: int, rng: np.random.Generator) -> Image8:
    """A square of a random photograph; where that is large enough, half of the time at half its size.

    Args:
        photos: (H, W, 3) uint8, no side shorter than ``side``.
        side: Side of the square in pixels.
        rng: Decides which.
    """
    photo = photos[int(rng.integers(len(photos)))]
    factor = 2 if min(photo.shape[:2]) >= 2 * side and rng.random() < 0.5 else 1
    top, left = (int(rng.integers(size - side * factor + 1)) for size in photo.shape[:2])
    piece = photo[top : top + side * factor, left : left + side * factor]
    return piece if factor == 1 else np.asarray(Image.fromarray(piece).reduce(factor))


def crop_batches(
    photos: Sequence[Image8], fit: FitConfig, blur: ShakeConfig | CameraConfig, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of blurred crops: ``fit.steps`` times (blurred, sharp), each (batch, 3, crop, crop).

    Args:
        photos: (H, W, 3) uint8 photographs.
        fit: Steps, batch, crop and seed.
        blur: The synthetic blur.
        workers: Processes that make crops while training runs; 0 makes them in this process.
    """
    return batches_of(BlurredCrops(photos, fit, blur), workers, Share())


class Fitted(Protocol):
    """Examples that know the schedule that they are made for."""

    fit: FitConfig


def batches_of(crops: Fitted, workers: int, share: Share) -> DataLoader[tuple[Tensor, Tensor]]:
    """The batches that one process takes, in order.

    Args:
        crops: All crops or clips of the run, a dataset.
        workers: Processes that make crops while training runs; 0 makes them in this process.
        share: Where the run goes on, and which part of each batch this process takes.
    """
    return DataLoader(
        cast(Dataset[Any], crops),
        batch_size=crops.fit.batch // share.world,
        sampler=_SharedOrder(crops.fit, share),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_parent,
        pin_memory=torch.cuda.is_available(),  # so that copies to the GPU run beside its work
    )


def blur_function(config: ShakeConfig | CameraConfig) -> Callable[[Image8, np.random.Generator], ShakenPair]:
    """What blurs a photograph, by the kind of settings.

    Raises:
        MissingDependencyError: The settings are a camera's, and OpenCV is not installed.
    """
    if isinstance(config, ShakeConfig):
        return lambda sharp, rng: shake(sharp, config, rng)
    try:
        from deblur_deploy.data.camera import expose
    except ImportError as err:
        raise MissingDependencyError(
            "blur as cameras make it needs OpenCV, which is not installed",
            hint="pip install opencv-python-headless, or give [shake] instead of [camera]",
        ) from err
    return lambda sharp, rng: expose(sharp, config, rng)


def detail(image: Image8) -> float:
    """Mean difference between neighbouring pixels of the green plane, in codes of 0 to 255.

    Args:
        image: (H, W, 3) uint8.
    """
    green = image[..., 1].astype(np.int16)
    return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean()) / 2


def steps_of(epochs: int, photos: int, batch: int) -> int:
    """Optimiser steps in so many passes over a set; the last batch of a pass counts in full."""
    return epochs * math.ceil(photos / batch)


def _leave_signals_to_the_parent(worker: int) -> None:
    """Keep working until the training ends: a terminal sends Ctrl-C to all its processes, an init system SIGTERM.

    A worker that these kill would make the training fail before it has saved its state.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


class _SharedOrder(Sampler[int]):
    """Numbers of the crops of one process: from every batch of the run, its consecutive part."""

    def __init__(self, fit: FitConfig, share: Share) -> None:
        self.fit = fit
        self.share = share

    def __len__(self) -> int:
        return (self.fit.steps - self.share.start) * (self.fit.batch // self.share.world)

    def __iter__(self) -> Iterator[int]:
        part = self.fit.batch // self.share.world
        for step in range(self.share.start, self.fit.steps):
            first = step * self.fit.batch + self.share.rank * part
            yield from range(first, first + part)
