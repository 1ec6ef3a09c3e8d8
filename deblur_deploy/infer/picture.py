"""Photographs as files hold them: samples at their own depth, alpha, and what the file says about the picture.

Pixels stay as they are stored and an EXIF orientation stays with them, so that nothing is turned twice. Only TIFF files
are turned upright, by Pillow while it reads them, and then they have no orientation any more.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import MAX_PIXELS
from deblur_deploy.infer.bad_files import BAD_FILE_ERRORS

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".bmp": "BMP",
}
"""Formats by suffix."""

_BYTES_PER_PIXEL = 10
"""Peak of decoding or encoding 8-bit colour: four bytes in Pillow, up to four in the array, and a reserve.

16 bits take twice as much.
"""

_CODEC_BYTES_PER_PIXEL = {"BMP": 4, "WEBP": 30, "AVIF": 40}
"""What formats take on top, measured: encoders that hold the whole picture once more; BMP is turned upright first."""

_PROGRESSIVE_BYTES_PER_PIXEL = 6
"""Two bytes for each coefficient of a progressive JPEG, all of which are held until the last scan (ITU-T T.81, G.1)."""

_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_BAND_PIXELS = 1 << 18

DESCRIPTIVE_TAGS = (270, 271, 272, 274, 305, 306, 315, 316, 33432, 34665, 34853)
"""What a TIFF says about the picture (TIFF 6.0, Exif 2.32): description, camera, orientation, software, date, artist,
computer, copyright, and the Exif and GPS directories. The other tags say how the file is built."""


@dataclass(frozen=True)
class Metadata:
    """What a file says about its picture.

    Args:
        exif: EXIF block, with the orientation.
        icc_profile: Colour profile.
        dpi: Resolution in pixels per inch, horizontal and vertical.
        xmp: XMP packet.
        compressed: Whether a TIFF was compressed.
    """

    exif: bytes | None = None
    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    compressed: bool = True


@dataclass(frozen=True)
class Picture:
    """A decoded photograph.

    Args:
        samples: (H, W, C) uint8 or uint16; C is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA). Writable.
        format: Pillow's name of the file format.
        metadata: What the file says about it.
    """

    samples: NDArray[Any]
    format: str
    metadata: Metadata = Metadata()


def decoding_bytes(path: Path, target_format: str | None = None) -> int:
    """Peak memory of decoding a picture, and of encoding it again, from its header alone.

    Args:
        path: The picture.
        target_format: Pillow's name of the format that it will be written in, or None for its own.

    Raises:
        ArtifactError: As :func:`read_picture`.
    """
    with open_picture(path) as image:
        deep = _is_deep_color(image) or image.mode.startswith("I;16")
        formats = (str(image.format), target_format or "")
        per_pixel = _BYTES_PER_PIXEL * (2 if deep else 1)
        per_pixel += max(_CODEC_BYTES_PER_PIXEL.get(name, 0) for name in formats)
        if image.info.get("progressive"):
            per_pixel += _PROGRESSIVE_BYTES_PER_PIXEL
        return image.width * image.height * per_pixel


def read_picture(path: Path, content: BinaryIO | None = None) -> Picture:
    """Decode a photograph at its own depth.

    Args:
        path: PNG, JPEG, TIFF, WebP, AVIF or BMP with 8 or 16 bits per sample.
        content: What is read in the place of the file, which is only named in errors: a part of it that stands alone.

    Raises:
        ArtifactError: The file is missing, no image, damaged, larger than :data:`MAX_PIXELS`, animated or of several
            pages, or of a kind whose colours or range are unknown (CMYK, Lab, 32 bits).
        MissingDependencyError: 16-bit colour, and the extra ``deep`` is not installed.
    """
    with open_picture(path, content) as image:
        kind = "JPEG" if image.format == "MPO" else str(image.format)  # cameras append previews to a JPEG
        deep = _is_deep_color(image)
        if not deep:
            samples = _samples(image, path)
        metadata = read_metadata(image)
    if deep:
        from deblur_deploy.infer.deep import read_deep

        samples = read_deep(path, kind, content)
    return Picture(samples, kind, metadata)


@contextmanager
def open_picture(path: Path, content: BinaryIO | None = None) -> Iterator[Image.Image]:
    """The file with its header read and checked; Pillow's errors come out as ours.

    Args:
        path: The file.
        content: As in :func:`read_picture`.

    Raises:
        ArtifactError: As in :func:`read_picture`.
    """
    # Pillow warns of sizes within MAX_PIXELS and of damaged metadata; damaged pixels end in an error.
    with decoding(path), warnings.catch_warnings(action="ignore"), Image.open(content or path) as image:
        _check_header(image, path)
        yield image


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """What libraries raise while they read a picture comes out as our own errors.

    Raises:
        ArtifactError: As in :func:`read_picture`.
    """
    try:
        yield
    except FileNotFoundError as err:
        raise ArtifactError(f"there is no file {path}", hint="check the path") from err
    except UnidentifiedImageError as err:
        raise ArtifactError(f"{path} is not an image", hint="give PNG, JPEG, TIFF, WebP, AVIF or BMP files") from err
    except Image.DecompressionBombError as err:
        raise ArtifactError(f"{path} has absurd dimensions: {err}", hint=_TOO_LARGE) from err
    except PermissionError as err:
        raise ArtifactError(f"{path} cannot be read: {err.strerror}", hint="check its permissions") from err
    except BAD_FILE_ERRORS as err:
        raise ArtifactError(
            f"{path} cannot be read: {err}", hint="the file is cut off or damaged; copy it again"
        ) from err


_TOO_LARGE = f"pictures may have up to {MAX_PIXELS / 1e6:.0f} megapixels; cut this one into parts"


def _check_header(image: Image.Image, path: Path) -> None:
    if image.format not in {*FORMATS.values(), "MPO"}:
        raise ArtifactError(f"{path} is {image.format}, which is not supported", hint="convert it to PNG or TIFF")
    if image.width * image.height > MAX_PIXELS:
        raise ArtifactError(f"{path} has absurd dimensions: {image.width}x{image.height}", hint=_TOO_LARGE)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ArtifactError(f"{path} holds {frames} pictures", hint="give each one a file of its own")


def _is_deep_color(image: Image.Image) -> bool:
    """Whether there are 16 bits and more than one channel, which Pillow would cut down to 8."""
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))  # type: ignore[attr-defined]
        return len(bits) > 1 and max(bits) > 8
    layouts = [str(tile.args) for tile in getattr(image, "tile", [])]
    return image.format == "PNG" and image.mode != "I;16" and any(layout.endswith(";16B") for layout in layouts)


def _samples(image: Image.Image, path: Path) -> NDArray[Any]:
    """(H, W, C) uint8, or uint16 for 16-bit gray."""
    if image.mode.startswith("I;16"):
        samples = np.array(image, dtype=np.uint16)[:, :, None]
        return _black_at_zero(samples, image) if image.format == "TIFF" else samples
    transparent = image.mode in {"LA", "PA", "La", "RGBA", "RGBa"} or "transparency" in image.info
    if image.mode in {"1", "L", "LA", "La"}:
        mode = "LA" if transparent else "L"
    elif image.mode in {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"}:
        mode = "RGBA" if transparent else "RGB"
    else:
        raise ArtifactError(
            f"{path} is of kind {image.mode}, whose colours or range are not known",
            hint="save it as sRGB or gray with 8 or 16 bits",
        )
    if "transparency" in image.info and image.mode in {"1", "L"}:
        image = image.convert("RGBA")  # Pillow has no direct way from a transparent gray level to an alpha channel
    image.load()
    decoded = np.empty((image.height, image.width, len(mode)), np.uint8)
    for rows in row_bands(image.height, image.width):
        band = image.crop((0, rows.start, image.width, rows.stop))
        decoded[rows] = np.asarray(band if band.mode == mode else band.convert(mode)).reshape(decoded[rows].shape)
    return decoded


def band_rows(width: int) -> int:
    """Rows of about a quarter of a megapixel."""
    return max(1, _BAND_PIXELS // width)


def row_bands(height: int, width: int) -> Iterator[slice]:
    """The rows of a picture in parts of a quarter of a megapixel, so that what is computed from them stays small."""
    rows = band_rows(width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _black_at_zero(samples: NDArray[np.uint16], image: Image.Image) -> NDArray[np.uint16]:
    """Gray of 9 to 16 bits as Pillow reads it, inverted where the TIFF counts from white (TIFF 6.0, WhiteIsZero)."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        np.subtract(2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1, samples, out=samples)
    return samples


def read_metadata(image: Image.Image) -> Metadata:
    """What an open file says about its picture."""
    exif = image.info.get("exif")
    if image.format == "TIFF":
        exif = _descriptive_exif(image)
    elif exif is None and image.format == "PNG":
        exif = image.getexif().tobytes() if image.getexif() else None  # the chunk may follow the pixels
    xmp, dpi = image.info.get("xmp"), image.info.get("dpi")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return Metadata(
        exif=exif or None,
        icc_profile=image.info.get("icc_profile") or None,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi else None,
        xmp=xmp or None,
        compressed=image.info.get("compression") != "raw",
    )


def _descriptive_exif(image: Image.Image) -> bytes | None:
    """The tags of a TIFF that describe the picture, as an EXIF block."""
    source, kept = image.getexif(), Image.Exif()
    for tag in DESCRIPTIVE_TAGS:
        if tag in (34665, 34853):
            if directory := source.get_ifd(tag):
                kept.get_ifd(tag).update(directory)
                kept[tag] = kept.get_ifd(tag)
        elif tag in source:
            kept[tag] = source[tag]
    return kept.tobytes() if len(kept) else None
