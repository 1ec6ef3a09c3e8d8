"""Training crops: a random piece of a random photograph, shaken and flipped.

Crop ``i`` depends on the seed and ``i`` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from deblur_deploy.config import FitConfig, ShakeConfig
from deblur_deploy.data.shake import shake
from deblur_deploy.errors import ConfigError


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


class ShakenCrops(Dataset[tuple[Tensor, Tensor]]):
    """Blurred and sharp crops from sharp photographs, without end in practice.

    Args:
        photos: (H, W, 3) uint8 sRGB photographs, decoded once and kept.
        crop: Side of the crops in pixels.
        length: How many crops there are.
        shake_config: The shake.
        seed: Crop ``i`` is the same for the same seed, whichever worker makes it.

    Raises:
        ConfigError: A photograph is smaller than a crop with its margin.
    """

    def __init__(
        self, photos: Sequence[NDArray[np.uint8]], crop: int, length: int, shake_config: ShakeConfig, seed: int
    ) -> None:
        self.photos = photos
        self.crop = crop
        self.length = length
        self.shake_config = shake_config
        self.seed = seed
        # The path may bring in pixels from outside: half its extent, and one for the interpolation.
        self.margin = int(shake_config.length_px[1] / 2) + 2
        smallest = min(min(photo.shape[:2]) for photo in photos)
        if smallest < crop + 2 * self.margin:
            raise ConfigError(
                f"a photograph with a side of {smallest} px is too small for crops of {crop} px",
                hint=f"use photographs of at least {crop + 2 * self.margin} px, or smaller crops",
            )

    def __len__(self) -> int:
        """Number of crops."""
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Blurred and sharp crop, each (3, crop, crop) float32 in [0, 1]."""
        rng = np.random.default_rng([self.seed, index])
        photo = self.photos[int(rng.integers(len(self.photos)))]
        piece = self._random_piece(photo, rng)
        pair = shake(piece, self.shake_config, rng)
        flips = rng.random(3) < 0.5
        blurred, sharp = (self._augment(image, flips) for image in pair)
        return blurred, sharp

    def _random_piece(self, photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """A crop with margin; where the photograph is large enough, half of the time at half its size."""
        side = self.crop + 2 * self.margin
        factor = 2 if min(photo.shape[:2]) >= 2 * side and rng.random() < 0.5 else 1
        top, left = (int(rng.integers(size - side * factor + 1)) for size in photo.shape[:2])
        piece = photo[top : top + side * factor, left : left + side * factor]
        if factor > 1:
            piece = np.asarray(Image.fromarray(piece).reduce(factor))
        return piece

    def _augment(self, image: NDArray[np.uint8], flips: NDArray[np.bool_]) -> Tensor:
        image = image[self.margin : -self.margin, self.margin : -self.margin]
        if flips[0]:
            image = image[:, ::-1]
        if flips[1]:
            image = image[::-1]
        if flips[2]:
            image = image.transpose(1, 0, 2)
        planes = np.ascontiguousarray(image.transpose(2, 0, 1))
        return torch.from_numpy(planes).float().div_(255)


def crop_batches(
    photos: Sequence[NDArray[np.uint8]],
    fit: FitConfig,
    shake_config: ShakeConfig,
    workers: int,
    share: Share | None = None,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches for one training run: ``fit.steps`` times (blurred, sharp), each (batch, 3, crop, crop).

    Args:
        photos: (H, W, 3) uint8 photographs.
        fit: Steps, batch, crop and seed.
        shake_config: The shake.
        workers: Processes that make crops beside the training; 0 makes them in this one.
        share: Where the run goes on, and which part of each batch this process takes; None takes everything.
    """
    dataset = ShakenCrops(photos, fit.crop, fit.steps * fit.batch, shake_config, fit.seed)
    return batches_of(dataset, fit, workers, share or Share())


def batches_of(
    dataset: Dataset[tuple[Tensor, Tensor]], fit: FitConfig, workers: int, share: Share
) -> DataLoader[tuple[Tensor, Tensor]]:
    """The batches of a data set of ``fit.steps * fit.batch`` crops that one process takes, in order."""
    return DataLoader(
        dataset,
        batch_size=fit.batch // share.world,
        sampler=_SharedOrder(fit, share),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )


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
