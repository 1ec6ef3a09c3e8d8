"""Blurred footage without sharp partners, and crops of it beside crops of sharp photographs of something else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deblur_deploy.config import NO_AUGMENTATION, AugmentConfig, FitConfig
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.film_suffixes import is_film_name
from deblur_deploy.core.formats import is_picture
from deblur_deploy.data.cache import open_photos
from deblur_deploy.data.crops import Crops, sharp_piece
from deblur_deploy.data.film_frames import film_frames
from deblur_deploy.data.layouts import find_pairs

Image8 = NDArray[np.uint8]


def footage_files(place: Path) -> list[Path]:
    """The pictures and films of a folder and below it, or the one film or picture that is named.

    Raises:
        ArtifactError: There are none.
        ConfigError: The folder holds pairs, whose sharp pictures would be taken for blurred ones.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise ArtifactError(f"{place} is neither a folder nor a film", hint="check the path")
    if find_pairs(place, "calibration"):
        raise ConfigError(
            f"{place} holds blurred and sharp pairs", hint="train on them with --data, or name its blurred folder alone"
        )
    files = [
        path
        for path in sorted(place.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(place).parts)
        and (is_picture(path) or is_film_name(path))
    ]
    if not files:
        raise ArtifactError(f"{place} holds no pictures and no films", hint="put blurred pictures or films into it")
    return files


def open_footage(files: Sequence[Path], most: int, cache: Path | None = None) -> tuple[list[Image8], list[str]]:
    """Blurred pictures as (H, W, 3) uint8 sRGB, and what each is called in messages.

    Args:
        files: Pictures and films.
        most: How many frames of each film are kept at most.
        cache: Folder for decoded pictures; frames of films are kept in memory.

    Raises:
        ArtifactError: A file cannot be read.
        MissingDependencyError: There are films, and PyAV is not installed.
    """
    images: list[Image8] = []
    names: list[str] = []
    for path in files:
        frames = open_photos([path], cache) if is_picture(path) else film_frames(path, most)
        images += frames
        names += [str(path)] * len(frames)
    return images, names


def check_apart(blurred: Path, sharp: Path) -> None:
    """Refuse blurred and sharp pictures that are the same ones.

    Raises:
        ConfigError: The two are one folder, or one lies in the other.
    """
    first, second = blurred.resolve(), sharp.resolve()
    if first == second:
        raise ConfigError(
            f"{blurred} is given as the blurred and as the sharp pictures", hint="give two folders, one of each"
        )
    if first in second.parents or second in first.parents:
        raise ConfigError(
            f"{blurred} and {sharp} lie one inside the other", hint="give two folders beside each other, one of each"
        )


class UnpairedCrops(Crops):
    """A crop of blurred footage, and a crop of a sharp photograph that has nothing to do with it.

    Args:
        footage: (H, W, 3) uint8 sRGB, blurred.
        photos: Likewise, sharp.
        fit: Side and number of the crops, and the seed.
        augment: What happens besides flips, to each of the two by itself.
        names: What footage and photographs are called in messages, in this order.
    """

    def __init__(
        self,
        footage: Sequence[Image8],
        photos: Sequence[Image8],
        fit: FitConfig,
        augment: AugmentConfig = NO_AUGMENTATION,
        names: Sequence[str] | None = None,
    ) -> None:
        sizes = [image.shape[:2] for images in (footage, photos) for image in images]
        super().__init__(sizes, fit, 0.0, augment, names)
        self.footage = footage
        self.photos = photos

    def draw(self, rng: np.random.Generator) -> tuple[Image8, Image8]:
        """A piece of the footage at its own size, and one of a photograph."""
        image = self.footage[int(rng.integers(len(self.footage)))]
        side = self.fit.crop
        top, left = (int(rng.integers(size - side + 1)) for size in image.shape[:2])
        return image[top : top + side, left : left + side], sharp_piece(self.photos, side, rng)

    def _varied(self, blurred: Tensor, sharp: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        first, second = (super(UnpairedCrops, self)._varied(image, image, rng)[0] for image in (blurred, sharp))
        return first, second
