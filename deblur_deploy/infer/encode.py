"""Writing photographs: with everything that was beside the pixels, and whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.files import whole_file
from deblur_deploy.infer.bad_files import BAD_FILE_ERRORS
from deblur_deploy.infer.picture import Metadata, Picture, row_bands
from deblur_deploy.infer.png_writer import PngWriter
from deblur_deploy.infer.tiff import TiffWriter

ROW_WRITERS: dict[str, type[PngWriter] | type[TiffWriter]] = {"PNG": PngWriter, "TIFF": TiffWriter}
"""What writes pictures from top to bottom, by format."""

_ALPHA = {"PNG", "TIFF", "WEBP", "AVIF"}
_NO_EXIF = {"BMP"}
_ORIENTATION = 274


@dataclass(frozen=True)
class EncodeConfig:
    """How results are written.

    Args:
        format: Pillow's name of a format for all pictures, or None for that of each input.
        quality: Quality of JPEG, WebP and AVIF, 1 to 100.
    """

    format: str | None = None
    quality: int = 95

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality}", hint="give 1 to 100, such as 95")


def write_picture(path: Path, picture: Picture, config: EncodeConfig = EncodeConfig()) -> None:
    """Encode a photograph; the file appears whole or not at all.

    Args:
        path: The file; its folder is made.
        picture: What to write. 16 bits are rounded to 8 where the format holds no more.
        config: Format and quality.

    Raises:
        ArtifactError: The format cannot hold the picture's transparency, or the file cannot be written.
    """
    kind = config.format or picture.format
    samples = picture.samples
    if samples.shape[2] in (2, 4) and kind not in _ALPHA:
        raise ArtifactError(f"{path}: {kind} cannot hold transparency", hint="choose --format png, tiff, webp or avif")
    with whole_file(path) as partial, encoding(path, kind, samples.shape):
        _encode(partial, picture, kind, config.quality)


@contextmanager
def encoding(path: Path, kind: str, shape: tuple[int, ...]) -> Iterator[None]:
    """What libraries raise while they write a picture comes out as our own error, but for the disk's.

    Args:
        path: The file.
        kind: Pillow's name of its format.
        shape: Height and width of the picture, and more.

    Raises:
        ArtifactError: The picture, or what is to be said about it, does not go into such a file.
    """
    try:
        yield
    except OSError:
        raise  # the disk, not the picture
    except BAD_FILE_ERRORS as err:
        raise ArtifactError(
            f"{path.name} cannot be written as {kind} of {shape[1]}x{shape[0]}: {err}",
            hint="choose another --format, such as png, or take damaged EXIF data out of the input",
        ) from err


def _encode(path: Path, picture: Picture, kind: str, quality: int) -> None:
    samples = picture.samples
    if kind == "TIFF" or (kind == "PNG" and samples.dtype == np.uint16):
        with path.open("wb") as file, ROW_WRITERS[kind](file, samples.shape, samples.dtype, picture.metadata) as writer:
            writer.write(samples)
    else:
        if samples.dtype == np.uint16:
            samples = _eight_bits(samples)
        _save(path, _as_image(samples), picture.metadata, EncodeConfig(kind, quality))


def _eight_bits(samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """16 bits rounded to 8, a few rows at a time so that no copy of the whole is made in between."""
    rounded = np.empty(samples.shape, np.uint8)
    for rows in row_bands(samples.shape[0], samples.shape[1]):
        rounded[rows] = np.rint(samples[rows] / np.float32(257))
    return rounded


def _as_image(samples: NDArray[Any]) -> Image.Image:
    return Image.fromarray(samples[:, :, 0] if samples.shape[2] == 1 else samples)


def _save(path: Path, image: Image.Image, metadata: Metadata, config: EncodeConfig) -> None:
    options: dict[str, Any] = {"exif": metadata.exif, "icc_profile": metadata.icc_profile, "dpi": metadata.dpi}
    if config.format in ("JPEG", "WEBP", "AVIF"):
        options |= {"quality": config.quality, "xmp": metadata.xmp}
    if config.format in ("JPEG", "AVIF"):
        options["subsampling"] = "4:4:4"  # halving the colours would blur what was just sharpened
    if config.format in _NO_EXIF:
        exif = Image.Exif()
        exif.load(metadata.exif or b"")
        image.getexif()[_ORIENTATION] = exif.get(_ORIENTATION, 1)
        image = ImageOps.exif_transpose(image)
    image.save(path, config.format, **{name: value for name, value in options.items() if value is not None})
