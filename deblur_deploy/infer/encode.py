"""Writing photographs with their metadata; a file appears whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, ImageOps

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.files import whole_file
from deblur_deploy.core.formats import FORMATS
from deblur_deploy.core.lazy import load_named
from deblur_deploy.infer import jpeg_file, png_chunks, thumbnail
from deblur_deploy.infer.bad_files import BAD_FILE_ERRORS
from deblur_deploy.infer.fit import fit
from deblur_deploy.infer.picture import Layout, Metadata, Picture

_ORIENTATION = 274
_PNG_HEADER_END = 33
_LOSSLESS_LEVEL = 100


@dataclass(frozen=True)
class EncodeConfig:
    """How results are written.

    Args:
        format: Pillow's name of a format for all pictures, or None for that of each input.
        quality: Quality of formats that have one, 1 to 100.
    """

    format: str | None = None
    quality: int = 95

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality}", hint="give 1 to 100, such as 95")


def write_picture(path: Path, picture: Picture, config: EncodeConfig = EncodeConfig()) -> tuple[str, ...]:
    """Encode a photograph; the file appears whole or not at all.

    Args:
        path: The file; its folder is made.
        picture: What to write. More bits than the format holds are rounded.
        config: Format and quality.

    Returns:
        Notes on what is not kept.

    Raises:
        ArtifactError: The format cannot hold the picture's samples, or the file cannot be written.
    """
    kind = config.format or picture.format
    fitted, notes = fit(path, picture, kind)
    with whole_file(path) as partial, encoding(path, kind, fitted.samples.shape):
        _encode(partial, fitted, kind, config.quality)
    return notes


@contextmanager
def encoding(path: Path, kind: str, shape: tuple[int, ...]) -> Iterator[None]:
    """A context that turns what libraries raise while they write a picture into our own error; the disk's errors pass.

    Args:
        path: The file.
        kind: Pillow's name of its format.
        shape: Height and width of the picture, and more.

    Raises:
        ArtifactError: The picture or its metadata does not fit into such a file.
    """
    try:
        yield
    except OSError:
        raise  # the disk, not the picture
    except BAD_FILE_ERRORS as err:
        raise ArtifactError(
            f"{path.name} cannot be written as {kind} of {shape[1]}x{shape[0]}: {err}",
            hint="choose another --format, such as png",
        ) from err


def streaming_writer(kind: str) -> Callable[[BinaryIO, Layout, Metadata], Any] | None:
    """The class that writes a format row by row, or None."""
    place = FORMATS[kind].streaming_writer
    return load_named(place) if place is not None else None


def _encode(path: Path, picture: Picture, kind: str, quality: int) -> None:
    metadata = picture.metadata
    if kind != "TIFF":
        metadata = replace(metadata, exif=thumbnail.renewed(metadata.exif, picture))
    if kind == "TIFF" or (kind == "PNG" and picture.samples.dtype == np.uint16):
        writer = streaming_writer(kind)
        assert writer is not None  # the two have one
        with path.open("wb") as file, writer(file, Layout.of(picture), metadata) as rows:
            rows.write(picture.samples)
        return
    encode = _ENCODERS.get(kind, _encode_plain)
    encode(path, picture, metadata, EncodeConfig(kind, quality))


def _as_image(picture: Picture) -> Image.Image:
    samples = picture.samples
    return Image.fromarray(samples[:, :, 0] if samples.shape[2] == 1 else samples)


def _encode_png(path: Path, picture: Picture, metadata: Metadata, config: EncodeConfig) -> None:
    with path.open("wb") as file:
        _as_image(picture).save(cast(BinaryIO, _AfterHeader(file, png_chunks.describe(metadata))), "PNG")


class _AfterHeader:
    """A file that inserts chunks after the header of the PNG that is written to it: Pillow writes only some kinds."""

    def __init__(self, file: BinaryIO, chunks: bytes) -> None:
        self._file, self._chunks, self._written = file, chunks, 0

    def write(self, data: bytes) -> int:
        """Write; what comes up to the end of the header goes before the chunks."""
        left = max(0, _PNG_HEADER_END - self._written)
        self._file.write(data[:left])
        self._written += len(data)
        if self._chunks and self._written >= _PNG_HEADER_END:
            self._file.write(self._chunks)
            self._chunks = b""
        self._file.write(data[left:])
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered here."""


def _encode_jpeg(path: Path, picture: Picture, metadata: Metadata, config: EncodeConfig) -> None:
    options = _options(metadata) | {"quality": config.quality, "subsampling": "4:4:4"}
    options["progressive"] = metadata.progressive
    options["extra"] = jpeg_file.extra_segments(metadata.own)
    if metadata.trailer is None:
        _as_image(picture).save(path, "JPEG", **options)
        return
    content = io.BytesIO()
    _as_image(picture).save(content, "JPEG", **options)
    path.write_bytes(jpeg_file.append_trailer(content.getvalue(), metadata.trailer))


def _encode_webp(path: Path, picture: Picture, metadata: Metadata, config: EncodeConfig) -> None:
    lossless = {"lossless": True, "exact": True, "quality": 100} if metadata.lossless else {"quality": config.quality}
    _as_image(picture).save(path, "WEBP", **(_options(metadata) | lossless))


def _encode_avif(path: Path, picture: Picture, metadata: Metadata, config: EncodeConfig) -> None:
    if picture.bits is None and metadata.cicp is None:
        options = _options(metadata) | {"quality": config.quality, "subsampling": "4:4:4"}
        _as_image(picture).save(path, "AVIF", **options)
        return
    from deblur_deploy.infer.deep import encode_avif
    from deblur_deploy.infer.isobmff import add_metadata

    level = _LOSSLESS_LEVEL if metadata.lossless else min(config.quality, _LOSSLESS_LEVEL - 1)
    content = encode_avif(picture.samples, picture.bits or 8, level, metadata.cicp)
    path.write_bytes(add_metadata(content, metadata))


def _encode_heif(path: Path, picture: Picture, metadata: Metadata, config: EncodeConfig) -> None:
    from deblur_deploy.infer.heif import encode_heif

    path.write_bytes(encode_heif(picture, metadata, config.quality))


def _encode_plain(path: Path, picture: Picture, metadata: Metadata, config: EncodeConfig) -> None:
    """Write with Pillow, with the options that its plugins share."""
    row = FORMATS[str(config.format)]
    row.prepare()
    image = _as_image(picture)
    if not row.exif:
        exif = Image.Exif()
        exif.load(metadata.exif or b"")
        image.getexif()[_ORIENTATION] = exif.get(_ORIENTATION, 1)
        image = ImageOps.exif_transpose(image)
        metadata = replace(metadata, exif=None)
    image.save(path, row.name, **(_options(metadata) | ({"quality": config.quality} if row.quality else {})))


def _options(metadata: Metadata) -> dict[str, Any]:
    """The metadata as options of Pillow's ``save``."""
    given = {
        "exif": metadata.exif,
        "icc_profile": metadata.icc_profile,
        "dpi": metadata.dpi,
        "xmp": metadata.xmp,
    }
    return {name: value for name, value in given.items() if value is not None}


_ENCODERS: dict[str, Callable[[Path, Picture, Metadata, EncodeConfig], None]] = {
    "PNG": _encode_png,
    "JPEG": _encode_jpeg,
    "WEBP": _encode_webp,
    "AVIF": _encode_avif,
    "HEIF": _encode_heif,
}
