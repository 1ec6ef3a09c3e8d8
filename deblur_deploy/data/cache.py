"""Photographs that are decoded once: kept in memory, or on disk where they are too many."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.data.layouts import PairFiles
from deblur_deploy.errors import ArtifactError
from deblur_deploy.images import load_rgb

Image8 = NDArray[np.uint8]


def open_photos(paths: Sequence[Path], cache: Path | None = None) -> list[Image8]:
    """Photographs as (H, W, 3) uint8 sRGB, each decoded once.

    Args:
        paths: Image files.
        cache: Folder for decoded photographs, which are then mapped, not read, and shared by all processes; None keeps
            them in memory. A file that changes is decoded again.

    Raises:
        ArtifactError: A file cannot be read, or the cache cannot be written.
    """
    if cache is None:
        return [load_rgb(path) for path in paths]
    return [_mapped(path, cache) for path in paths]


def open_pairs(files: Sequence[PairFiles], cache: Path | None = None) -> list[tuple[Image8, Image8]]:
    """Blurred and sharp photographs, as :func:`open_photos` opens them.

    Raises:
        ArtifactError: As there, or the two of a pair differ in size.
    """
    blurred = open_photos([pair.blurred for pair in files], cache)
    sharp = open_photos([pair.sharp for pair in files], cache)
    for pair, *images in zip(files, blurred, sharp, strict=True):
        check_sizes(pair, *images)
    return list(zip(blurred, sharp, strict=True))


def check_sizes(files: PairFiles, blurred: Image8, sharp: Image8) -> None:
    """Refuse a pair whose pictures differ in size.

    Raises:
        ArtifactError: They do; the file is named.
    """
    if blurred.shape != sharp.shape:
        sizes = " and ".join(f"{image.shape[1]}x{image.shape[0]}" for image in (blurred, sharp))
        raise ArtifactError(
            f"{files.blurred} and its sharp partner differ in size: {sizes}",
            hint="both images of a pair must show the same pixels",
        )


def _mapped(path: Path, cache: Path) -> Image8:
    try:
        status = path.stat()
        identity = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
        decoded = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npy"
        if not decoded.is_file():
            _decode(path, decoded)
        mapped: Image8 = np.load(decoded, mmap_mode="r")
    except FileNotFoundError as err:
        raise ArtifactError(f"there is no file {path}", hint="check the path") from err
    except (OSError, ValueError) as err:
        raise ArtifactError(
            f"the cache of {path} in {cache} cannot be used: {err}", hint="free some space, or remove the cache"
        ) from err
    return mapped


def _decode(path: Path, decoded: Path) -> None:
    """Write a decoded photograph under another name first, so that a cut off file is never taken for a whole one."""
    photo = load_rgb(path)
    decoded.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".decoding-", dir=decoded.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, photo)
        Path(name).chmod(0o644)  # temporary files are private, the cache may be shared
        Path(name).replace(decoded)
    finally:
        Path(name).unlink(missing_ok=True)
