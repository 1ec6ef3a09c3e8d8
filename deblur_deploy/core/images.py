"""Photographs on disk and in memory: reading, writing, and what a network expects of them."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from deblur_deploy.core import formats
from deblur_deploy.core.curves import curve_unlike_srgb
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.image_spec import ImageSpec as ImageSpec
from deblur_deploy.core.image_spec import Resolution as Resolution
from deblur_deploy.core.image_spec import parse_resolution as parse_resolution
from deblur_deploy.core.tiff_repair import SIGNATURES, read_pages, repair

_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339
_UNSIGNED, _UNKNOWN_FORMAT = 1, 4
"""Values of TIFF's SampleFormat for unsigned integers and for samples of unknown kind."""

_SAVE_UNSIGNED = "save it with 8 or 16 bits; infer restores it as it is"

MAX_PIXELS = 178_956_970
"""Larger pictures are taken for decompression bombs; it is the bound at which Pillow itself gives up."""


def load_rgb(path: Path) -> NDArray[np.uint8]:
    """Read a photograph upright as 8-bit RGB.

    Args:
        path: A file of one of the ``FORMATS``; gray is repeated to RGB, transparency dropped, 16-bit gray rounded to 8
            bits (of 16-bit colour Pillow keeps the upper byte), EXIF orientation applied.

    Returns:
        (H, W, 3) uint8 sRGB.

    Raises:
        ArtifactError: The file is missing, not an image, cut off, of absurd dimensions, CMYK, of floats or 32 bits, or
            not on a curve near that of sRGB: linear, PQ or HLG.
        MissingDependencyError: Its format needs a plugin that is not installed.
    """
    if path.exists() and not path.is_file():
        raise ArtifactError(f"{path} cannot be read: it is not a regular file", hint="give image files")
    formats.prepare(path)
    try:
        # What Pillow warns about ends in an error, or is metadata that is not used here.
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file:
            return _load_rgb(path, file)
    except Image.DecompressionBombError as err:
        raise ArtifactError(
            f"{path} has absurd dimensions: {err}",
            hint=f"pictures may have up to {MAX_PIXELS / 1e6:.0f} megapixels; cut this one into parts",
        ) from err
    except FileNotFoundError as err:
        raise ArtifactError(f"there is no file {path}", hint="check the path") from err
    except UnidentifiedImageError as err:
        raise ArtifactError(
            f"{path} is not an image", hint=f"give {formats.names()} files, or remove this one"
        ) from err
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, TypeError) as err:
        raise ArtifactError(
            f"{path} cannot be read: {err}", hint="the file is cut off or damaged; copy it again"
        ) from err


def _load_rgb(path: Path, file: BinaryIO) -> NDArray[np.uint8]:
    is_tiff = file.read(4) in SIGNATURES
    content = _sound_tiff(path, file) if is_tiff else file
    content.seek(0)
    try:
        opened = Image.open(content)
    except UnidentifiedImageError as err:
        if not is_tiff:
            raise
        raise ArtifactError(f"{path} has samples of a kind that is not read here", hint=_SAVE_UNSIGNED) from err
    with opened as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
        if curve := curve_unlike_srgb(image, file):
            raise ArtifactError(
                f"{path} has {curve} values, and pictures to measure, train or calibrate on have to be sRGB",
                hint="convert it to sRGB; infer restores it as it is",
            )
        return np.array(_eight_bit(_upright(image), path, _white(image)).convert("RGB"))


def _sound_tiff(path: Path, file: BinaryIO) -> BinaryIO:
    """A TIFF without damaged tags that its pixels do not need; refused if its samples have no known white."""
    repaired = repair(file)
    repaired.pages[0].check()
    formats_of_samples = read_pages(repaired.file)[0].get(_SAMPLE_FORMAT, (_UNSIGNED,))
    if set(formats_of_samples) - {_UNSIGNED, _UNKNOWN_FORMAT}:
        raise ArtifactError(f"{path} has signed or floating-point samples, of unknown range", hint=_SAVE_UNSIGNED)
    return repaired.file


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data say; where those are damaged, as it is."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except (ValueError, SyntaxError, KeyError, TypeError, OSError):
        return image


def _white(image: Image.Image) -> int:
    """The largest code of deep gray: in TIFF of the bits that the file has."""
    tags = getattr(image, "tag_v2", {})
    return int(2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0])) - 1


def _eight_bit(image: Image.Image, path: Path, white: int) -> Image.Image:
    """The image with at most 8 bits per sample: Pillow itself would clip deeper grays to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(image) * (255 / white)).clip(0, 255).astype(np.uint8))
    if image.mode == "CMYK":
        raise ArtifactError(f"{path} is CMYK, whose colours depend on a printer's profile", hint="save it as sRGB")
    if image.mode in {"I", "F"}:
        raise ArtifactError(f"{path} has 32 bits per pixel, of unknown range", hint=_SAVE_UNSIGNED)
    return image


def save_rgb(path: Path, image: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 as the format that the suffix names.

    Raises:
        ArtifactError: The folder cannot be written, or the suffix names no format.
    """
    try:
        Image.fromarray(image).save(path)
    except ValueError as err:
        raise ArtifactError(f"{path} names no image format", hint="end the name in .png or .jpg") from err
    except OSError as err:
        raise ArtifactError(f"{path} cannot be written: {err}", hint="check permissions and free space") from err


def list_images(folder: Path, *, below: bool = False) -> list[Path]:
    """All image files of a folder that are not hidden, sorted by name.

    Args:
        folder: The folder.
        below: Whether those in the folders below it count, too.

    Raises:
        ArtifactError: No such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder", hint="give a folder with images")
    found = folder.rglob("*") if below else folder.iterdir()
    others: Counter[str] = Counter()
    files = []
    for path in sorted(found):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or path.is_dir():
            continue
        if formats.is_picture(path):
            files.append(path)
        else:
            others[path.suffix.lower()] += 1
    if not files:
        kinds = ", ".join(sorted(suffix[1:] for suffix in formats.suffixes()))
        holds = f": only {formats.describe_suffixes(others)}" if others else ""
        raise ArtifactError(f"{folder} holds no images{holds}", hint=f"put {kinds} files into it")
    return files


def to_frames(batch: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(N, 3, H, W) float in [0, 1] to (N, H, W, 3) uint8, clipped and rounded, halves to even."""
    codes: NDArray[np.uint8] = np.rint(np.clip(batch.astype(np.float32), 0.0, 1.0) * 255).astype(np.uint8)
    return np.ascontiguousarray(codes.transpose(0, 2, 3, 1))


def from_frames(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [0, 1]."""
    scaled: NDArray[np.float32] = frames.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(scaled)


NOISE = 1e-6
"""Noise as float32's own rounding makes it, as a share of white."""


def with_noise(samples: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float32]:
    """Pictures with noise that shows whether a network amplifies the rounding of float32.

    Args:
        samples: Any shape, in [0, 1].
        rng: Draws the noise, evenly within :data:`NOISE` of 0; the result may leave [0, 1] by as much.
    """
    noisy: NDArray[np.float32] = samples + NOISE * rng.uniform(-1, 1, samples.shape).astype(np.float32)
    return noisy


def to_batch(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) uint8 to (1, 3, H, W) float32 in [0, 1]."""
    return from_frames(image[None])


def from_batch(batch: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(1, 3, H, W) float in [0, 1] to (H, W, 3) uint8, clipped and rounded."""
    image: NDArray[np.uint8] = to_frames(batch[:1])[0]
    return image
