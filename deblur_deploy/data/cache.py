"""Photographs that are decoded once: kept in memory, or on disk where there are too many."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import load_rgb
from deblur_deploy.data.layouts import PairFiles

Image8 = NDArray[np.uint8]
T = TypeVar("T")


class _WhenNeeded(Sequence[T]):
    """Items that are opened on demand, and released with their last user.

    A mapped file holds a descriptor, of which a process may have about a thousand.
    """

    def __init__(self, length: int, opened: Callable[[int], T]) -> None:
        self._range = range(length)
        self._opened = opened

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """The item, opened; of a slice, all of them."""
        found = self._range[index]
        return self._opened(found) if isinstance(found, int) else [self._opened(number) for number in found]


def open_photos(paths: Sequence[Path], cache: Path | None = None) -> Sequence[Image8]:
    """Photographs as (H, W, 3) uint8 sRGB, each decoded once.

    Args:
        paths: Image files.
        cache: Folder for decoded photographs, which are then mapped while they are used, not read, and shared by all
            processes; None keeps them in memory. A file that changes is decoded again by the next run.

    Raises:
        ArtifactError: A file cannot be read, or the cache cannot be written.
    """
    if cache is None:
        return [load_rgb(path) for path in paths]
    decoded = [_decoded(path, cache) for path in paths]
    return _WhenNeeded(len(paths), functools.partial(_map, paths, decoded))


def open_pairs(files: Sequence[PairFiles], cache: Path | None = None) -> Sequence[tuple[Image8, Image8]]:
    """Blurred and sharp photographs, as :func:`open_photos` opens them.

    Raises:
        ArtifactError: As there, or the two of a pair differ in size.
    """
    blurred = open_photos([pair.blurred for pair in files], cache)
    sharp = open_photos([pair.sharp for pair in files], cache)
    for pair, *images in zip(files, blurred, sharp, strict=True):
        check_sizes(pair, *images)
    return _WhenNeeded(len(files), functools.partial(_couple, blurred, sharp))


def _couple(blurred: Sequence[Image8], sharp: Sequence[Image8], index: int) -> tuple[Image8, Image8]:
    return blurred[index], sharp[index]


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


def _decoded(path: Path, cache: Path) -> Path:
    """The decoded photograph in the cache, made where it is not there yet."""
    try:
        status = path.stat()
        # The last is the system's own, so that a file whose time was set back is noticed too.
        identity = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        decoded = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npy"
        if not decoded.is_file():
            _decode(path, decoded)
    except FileNotFoundError as err:
        raise ArtifactError(f"there is no file {path}", hint="check the path") from err
    except OSError as err:
        raise _unusable(path, cache, err) from err
    return decoded


def _map(paths: Sequence[Path], decoded: Sequence[Path], index: int) -> Image8:
    try:
        mapped: Image8 = np.load(decoded[index], mmap_mode="r")
    except (OSError, ValueError) as err:
        raise _unusable(paths[index], decoded[index].parent, err) from err
    return mapped


def _unusable(path: Path, cache: Path, err: Exception) -> ArtifactError:
    return ArtifactError(
        f"the cache of {path} in {cache} cannot be used: {err}", hint="free some space, or remove the cache"
    )


def _decode(path: Path, decoded: Path) -> None:
    """Write a decoded photograph under another name first, so that a truncated file is never taken for a whole one."""
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
