"""Blurred/sharp pairs for evaluation, and sharp photographs for calibration.

Three kinds of folder are recognised by what is in them:

- ``set.toml``: a photo set like those that are shipped, each file with its sha256 and its split; where it names a
  ``sharp_set``, its photographs are blurred, and the sharp ones are those of that set beside it;
- GoPro, REDS, RealBlur, HIDE and plain pairs of folders (see ``layouts.py``);
- anything else: the user's own sharp photographs.

Sharp photographs become pairs by synthetic camera shake. The shake is seeded by a constant and the file's name, so a
photograph gives the same pair in every run, whatever else lies beside it.
"""

from __future__ import annotations

import hashlib
import tomllib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.config import ShakeConfig
from deblur_deploy.core.artifact import hash_file
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import Resolution, list_images, load_rgb
from deblur_deploy.core.sources import shipped
from deblur_deploy.data.cache import check_sizes
from deblur_deploy.data.layouts import PairFiles, Split, find_pairs
from deblur_deploy.data.shake import shake

Image8 = NDArray[np.uint8]

SHIPPED_SEED = 2018
SHIPPED_SET = "photos"
WIDE_SET = "wide"
SET_FILE = "set.toml"

_KEPT_PAIRS, _KEPT_VALUES = 32, 3 * 2**20
"""How many pairs are kept, of photographs of at most a megapixel: 200 MB in the worst case."""

_kept_pairs: dict[tuple[str, str], Pair] = {}


@dataclass(frozen=True)
class Pair:
    """A photograph with and without blur.

    Args:
        name: File name of the photograph.
        blurred: (H, W, 3) uint8 sRGB.
        sharp: Same shape, aligned with ``blurred``.
    """

    name: str
    blurred: Image8
    sharp: Image8


class PairsOnDisk:
    """Blurred/sharp pairs in the order of their file names, each read or made when its turn comes.

    Args:
        folder: One of the three kinds of folder above, or the name of a shipped set, such as ``wide``; None is the
            shipped photographs.
        split: Which part of a set: ``test/`` or ``train/`` where it has those; a user's own folder has no parts and is
            taken whole.

    Raises:
        ArtifactError: The folder has no images, or a file has no partner or is not the one that its set describes;
            while they are read: a file is damaged, or the two of a pair differ in size.
    """

    def __init__(self, folder: Path | None, split: Split = "evaluation") -> None:
        self._files: Sequence[PairFiles | Path] = pair_files(folder, split) or sharp_files(folder, split)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._files)

    def __iter__(self) -> Iterator[Pair]:
        """One pair after the other; none is kept."""
        for file in self._files:
            yield load_pair(file) if isinstance(file, PairFiles) else _shaken(file)


def load_pairs(folder: Path | None, split: Split = "evaluation") -> list[Pair]:
    """All pairs of a folder at once, for callers that need them more than once.

    Args:
        folder: As for :class:`PairsOnDisk`.
        split: Likewise.

    Raises:
        ArtifactError: As for :class:`PairsOnDisk`.
    """
    return list(PairsOnDisk(folder, split))


def load_photos(folder: Path | None, split: Split = "calibration") -> list[Image8]:
    """Read sharp photographs, as (H, W, 3) uint8: those from which :func:`load_pairs` makes its pairs.

    Raises:
        ArtifactError: As for :func:`load_pairs`.
    """
    return [load_rgb(path) for path in sharp_files(folder, split)]


def crop_pair(pair: Pair, resolution: Resolution) -> Pair:
    """Cut one pair to a size, from the centre.

    Raises:
        ArtifactError: The photograph is smaller than that.
    """
    return Pair(pair.name, *(crop_center(image, resolution, pair.name) for image in (pair.blurred, pair.sharp)))


def crop_center(image: Image8, resolution: Resolution, name: str) -> Image8:
    """The middle of one photograph.

    Args:
        image: (H, W, 3) uint8.
        resolution: Size of the crop.
        name: What the photograph is called in the message.

    Raises:
        ArtifactError: The photograph is smaller than the crop.
    """
    height, width = image.shape[:2]
    if height < resolution.height or width < resolution.width:
        raise ArtifactError(
            f"{name} has {width}x{height} pixels, too few for a crop of {resolution}",
            hint="give larger photographs, or a network for any size (a checkpoint) or a smaller one (--res)",
        )
    top, left = (height - resolution.height) // 2, (width - resolution.width) // 2
    return image[top : top + resolution.height, left : left + resolution.width]


def sharp_files(folder: Path | None, split: Split) -> list[Path]:
    """The files that :func:`load_photos` reads.

    Raises:
        ArtifactError: As for :func:`load_pairs`.
    """
    if pairs := pair_files(folder, split):
        return [pair.sharp for pair in pairs]
    folder = _folder_of(folder)
    if (folder / SET_FILE).is_file():
        return _set_files(folder, split)
    return list_images(folder)


def pair_files(folder: Path | None, split: Split) -> list[PairFiles]:
    """The blurred files of a folder and their sharp partners; none where its photographs are sharp.

    Raises:
        ArtifactError: As for :class:`PairsOnDisk`.
    """
    folder = _folder_of(folder)
    if not (folder / SET_FILE).is_file():
        return find_pairs(folder, split)
    if (sharp_set := _read_set(folder / SET_FILE).get("sharp_set")) is None:
        return []
    sharp = {path.name: path for path in _set_files(folder.parent / str(sharp_set), split)}
    blurred = _set_files(folder, split)
    if missing := [path.name for path in blurred if path.name not in sharp]:
        raise ArtifactError(f"{folder.parent / str(sharp_set)} has no {missing[0]}", hint="restore that set")
    return [PairFiles(path.name, path, sharp[path.name]) for path in blurred]


def _folder_of(folder: Path | None) -> Path:
    """Where photographs lie: a folder, or else the shipped set of that name."""
    name = SHIPPED_SET if folder is None else str(folder)
    inside = shipped("calibration") / name
    return inside if folder is None or (not folder.exists() and (inside / SET_FILE).is_file()) else folder


def hash_photos(folder: Path | None, split: Split) -> str:
    """sha256 over the names and the contents of all files that :func:`load_pairs` reads of a folder.

    Raises:
        ArtifactError: As for :func:`load_pairs`.
    """
    pairs = pair_files(folder, split)
    named = [(pair.name, file) for pair in pairs for file in (pair.blurred, pair.sharp)]
    named = named or [(file.name, file) for file in sharp_files(folder, split)]
    lines = "".join(f"{hash_file(file)} {name}\n" for name, file in named)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def blurred_files(folder: Path) -> list[Path]:
    """Blurred photographs that have no sharp partners: those of a folder and below it, or of its ``set.toml``.

    Raises:
        ArtifactError: The folder has no images, or one is not the file that its set describes.
    """
    return _set_files(folder, "evaluation") if (folder / SET_FILE).is_file() else list_images(folder, below=True)


def _set_files(folder: Path, split: Split) -> list[Path]:
    """Files of one split of a photo set, each checked against its sha256."""
    entries = [entry for entry in _read_set(folder / SET_FILE)["image"] if entry["split"] == split]
    if not entries:
        raise ArtifactError(f"{folder / SET_FILE} lists no {split} photographs", hint=f'give some split = "{split}"')
    files = []
    for entry in sorted(entries, key=lambda entry: Path(entry["file"]).name):
        path = folder / entry["file"]
        if Path(entry["file"]).is_absolute() or ".." in Path(entry["file"]).parts:
            raise ArtifactError(f"{SET_FILE} names {entry['file']!r}", hint=f"photographs of a set lie below {folder}")
        if not path.is_file():
            raise ArtifactError(f"{path} is missing", hint=f"{SET_FILE} lists it; restore the folder")
        if hash_file(path) != entry["sha256"]:
            raise ArtifactError(
                f"{path} is not the photograph that {SET_FILE} describes: its sha256 differs",
                hint="restore the file, or correct its sha256",
            )
        files.append(path)
    return files


def _read_set(path: Path) -> dict[str, Any]:
    try:
        described = tomllib.loads(path.read_text(encoding="utf-8"))
        entries = described["image"]
        complete = all(isinstance(entry[key], str) for entry in entries for key in ("file", "sha256", "split"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as err:
        raise ArtifactError(
            f"{path} cannot be read: {err}", hint="it needs [[image]] tables with file, sha256 and split"
        ) from err
    if not complete:
        raise ArtifactError(f"{path} is malformed", hint="file, sha256 and split of every [[image]] are text")
    return described


def _shaken(path: Path) -> Pair:
    """A sharp photograph and its blur; the shake depends on the file's name alone.

    A run evaluates about ten times on the same photographs, and shaking a small one takes longer than restoring it: its
    pair is kept for the next time.
    """
    photo = load_rgb(path)
    if photo.size > _KEPT_VALUES:
        return _shake(path.name, photo)
    digest = hashlib.sha256(photo.tobytes()).hexdigest()
    kept = _kept_pairs.pop((path.name, digest), None) or _shake(path.name, photo)
    _kept_pairs[path.name, digest] = kept  # the last one used is the last to go
    if len(_kept_pairs) > _KEPT_PAIRS:
        del _kept_pairs[next(iter(_kept_pairs))]
    return Pair(kept.name, kept.blurred.copy(), kept.sharp.copy())


def _shake(name: str, photo: Image8) -> Pair:
    rng = np.random.default_rng([SHIPPED_SEED, zlib.crc32(name.encode())])
    return Pair(name, *shake(photo, ShakeConfig(), rng))


def load_pair(files: PairFiles) -> Pair:
    """Read a pair.

    Raises:
        ArtifactError: A file is damaged, or the two differ in size.
    """
    pair = Pair(files.name, load_rgb(files.blurred), load_rgb(files.sharp))
    check_sizes(files, pair.blurred, pair.sharp)
    return pair
