"""Films to evaluate on: consecutive blurred and sharp frames, taken or made from photographs."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np

from deblur_deploy.config import CameraConfig, ClipConfig
from deblur_deploy.core.images import load_rgb
from deblur_deploy.data.clips import film
from deblur_deploy.data.layouts import films_of
from deblur_deploy.data.pairs import SHIPPED_SEED, Pair, load_pair, pair_files, sharp_files

_CLIP = ClipConfig(frames=8, exposure=(0.6, 0.6))
_CAMERA = CameraConfig(length_px=(8.0, 16.0), objects=(0, 1), jpeg_share=0.0)
"""How sharp photographs become films."""

_LEAST_SIDE = 128
"""Pixels that a film keeps when what the camera brings in from outside the photograph is cut off."""


def load_films(folder: Path | None) -> list[list[Pair]]:
    """The films of a folder.

    Args:
        folder: Pairs in one of the layouts of :mod:`~deblur_deploy.data.layouts`, each sequence being a film; else
            sharp photographs, of which each becomes a film of 8 frames that depends on its name alone. None is the
            shipped photographs.

    Raises:
        ArtifactError: As for :func:`~deblur_deploy.data.pairs.load_pairs`.
    """
    pairs = pair_files(folder, "evaluation")
    if pairs:
        return [[load_pair(files) for files in frames] for frames in films_of(pairs).values()]
    return [_made_from(path) for path in sharp_files(folder, "evaluation")]


def _made_from(path: Path) -> list[Pair]:
    photo = load_rgb(path)
    rng = np.random.default_rng([SHIPPED_SEED, zlib.crc32(path.name.encode())])
    made = film(photo, _CAMERA, _CLIP, rng)
    margin = math.ceil(_CLIP.frames * _CAMERA.length_px[1] / 2)
    top, left = (min(margin, max(0, (side - _LEAST_SIDE) // 2)) for side in photo.shape[:2])
    inside = np.s_[top : photo.shape[0] - top, left : photo.shape[1] - left]
    frames = enumerate(zip(made.blurred, made.sharp, strict=True))
    return [Pair(f"{path.name}#{index}", blurred[inside], sharp[inside]) for index, (blurred, sharp) in frames]
