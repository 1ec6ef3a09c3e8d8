"""The picture formats: one row each, from which everything that reads, writes, lists or names pictures goes.

A format is added by its row. Where Pillow does not know it by itself, ``plugin`` names what teaches it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deblur_deploy.core.errors import MissingDependencyError
from deblur_deploy.core.lazy import load_named


@dataclass(frozen=True, kw_only=True)
class PictureFormat:
    """The name of a picture format, and what it can hold.

    Args:
        name: Pillow's name.
        suffixes: Of its files, in lower case; results in this format get the first.
        depth: Bits per sample that are written at most.
        alpha: Whether it holds transparency.
        exif: Whether it holds EXIF data, and with them the orientation.
        quality: Whether it is written with a quality, 1 to 100.
        animation: Whether one file may hold several pictures.
        bytes_per_pixel: What its codec takes besides the decoded picture, measured: encoders that hold the whole
            picture once more; BMP is turned upright first.
        streaming_reader: ``module:function`` that opens a file to be read row by row, or None.
        streaming_writer: ``module:class`` that writes a file row by row, or None.
        plugin: ``module:function`` that teaches Pillow the format, or None.
        extra: Extra of this package that brings the plugin.
    """

    name: str
    suffixes: tuple[str, ...]
    depth: int = 8
    alpha: bool = True
    exif: bool = True
    quality: bool = False
    animation: bool = False
    bytes_per_pixel: int = 0
    streaming_reader: str | None = None
    streaming_writer: str | None = None
    plugin: str | None = None
    extra: str | None = None

    def prepare(self) -> None:
        """Teach Pillow the format, where it does not know it by itself.

        Raises:
            MissingDependencyError: The plugin is not installed.
        """
        if self.plugin is None:
            return
        try:
            load_named(self.plugin)()
        except ModuleNotFoundError as err:
            raise MissingDependencyError(
                f"{self.name} pictures need {err.name}", hint=f"pip install 'deblur-deploy[{self.extra}]'"
            ) from err


_ROWS = (
    PictureFormat(
        name="PNG",
        suffixes=(".png", ".apng"),
        depth=16,
        animation=True,
        streaming_reader="deblur_deploy.infer.png_reader:open_png",
        streaming_writer="deblur_deploy.infer.png_writer:PngWriter",
    ),
    PictureFormat(name="JPEG", suffixes=(".jpg", ".jpeg", ".jpe", ".jfif"), alpha=False, quality=True),
    PictureFormat(
        name="TIFF",
        suffixes=(".tif", ".tiff"),
        depth=64,
        animation=True,
        streaming_reader="deblur_deploy.infer.tiff_reader:open_tiff",
        streaming_writer="deblur_deploy.infer.tiff_writer:TiffWriter",
    ),
    PictureFormat(name="WEBP", suffixes=(".webp",), quality=True, animation=True, bytes_per_pixel=30),
    PictureFormat(name="AVIF", suffixes=(".avif",), quality=True, animation=True, bytes_per_pixel=40),
    PictureFormat(
        name="HEIF",
        suffixes=(".heic", ".heif"),
        quality=True,
        animation=True,
        bytes_per_pixel=40,
        plugin="pillow_heif:register_heif_opener",
        extra="heif",
    ),
    PictureFormat(name="BMP", suffixes=(".bmp", ".dib"), alpha=False, exif=False, bytes_per_pixel=4),
)

FORMATS: dict[str, PictureFormat] = {row.name: row for row in _ROWS}
"""The picture formats by Pillow's name."""

_RAW = (
    ".3fr .ari .arw .bay .cap .cr2 .cr3 .crw .dcr .dcs .dng .drf .eip .erf .fff .gpr .iiq .k25 .kdc .mdc .mef .mos "
    ".mrw .nef .nrw .orf .pef .ptx .pxn .r3d .raf .raw .rw2 .rwl .rwz .sr2 .srf .srw .x3f"
)

_DEVELOP = "develop it first, and give the TIFF or PNG that comes out"

REFUSED: dict[str, tuple[str, str]] = {
    **dict.fromkeys(_RAW.split(), ("camera RAW", _DEVELOP)),
    ".gif": ("GIF", "save it as PNG, or as a video where it moves"),
    ".jxl": ("JPEG XL", "convert it to PNG or TIFF"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf"), ("JPEG 2000", "convert it to PNG or TIFF")),
    **dict.fromkeys((".psd", ".psb"), ("Photoshop", "save it as TIFF without layers")),
    ".exr": ("OpenEXR", "save it as TIFF with 32-bit floats"),
    ".hdr": ("Radiance HDR", "save it as TIFF with 32-bit floats"),
    **dict.fromkeys((".svg", ".eps", ".pdf"), ("a drawing without pixels", "export it as PNG")),
}
"""Formats that are refused by name, by their suffix: the name, and what to do."""


def suffixes() -> frozenset[str]:
    """The suffixes of all formats, in lower case."""
    return frozenset(suffix for row in FORMATS.values() for suffix in row.suffixes)


def format_of_suffix(suffix: str) -> PictureFormat | None:
    """The format of files that end so, in upper or lower case, or None."""
    return next((row for row in FORMATS.values() if suffix.lower() in row.suffixes), None)


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, going by its suffix."""
    return format_of_suffix(path.suffix) is not None


def names() -> str:
    """The formats in a sentence, such as ``PNG, JPEG or BMP``."""
    *first, last = FORMATS
    return f"{', '.join(first)} or {last}"


def describe_suffixes(counts: Mapping[str, int]) -> str:
    """Files by their suffixes, such as ``2 .nef (camera RAW), 1 .txt``, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    known = {suffix: f" ({REFUSED[suffix][0]})" for suffix, _ in ordered if suffix in REFUSED}
    parts = [f"{count} {suffix or 'without suffix'}{known.get(suffix, '')}" for suffix, count in ordered[:8]]
    return ", ".join(parts) + (f" and {len(ordered) - 8} more kinds" if len(ordered) > 8 else "")


def prepare(path: Path) -> None:
    """Teach Pillow the format of a file, going by its suffix.

    Raises:
        MissingDependencyError: It needs a plugin that is not installed.
    """
    if (row := format_of_suffix(path.suffix)) is not None:
        row.prepare()
