"""Fitting a picture to a format: what the format cannot hold is converted with a note, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.formats import FORMATS
from deblur_deploy.core.tiff_repair import tag_name
from deblur_deploy.infer import jpeg_file
from deblur_deploy.infer.picture import UNASSOCIATED_ALPHA, Metadata, Picture, row_bands
from deblur_deploy.infer.tiff_tags import DESCRIPTIVE_TAGS

_OWN_DEPTHS = {"AVIF": (8, 10, 12), "HEIF": (8, 10, 12)}
"""Depths at which a format is written again when it was read with them."""

_WITH_DPI = {"PNG", "JPEG", "TIFF", "BMP"}
_WITHOUT_PROFILE_AND_XMP = {"BMP"}
_HDR_TRANSFERS = (16, 18)
_IPTC_SEGMENT, _COMMENT_SEGMENT = 0xED, 0xFE
_RESOLUTION_TAGS = (282, 283, 296)


def fit(path: Path, picture: Picture, kind: str) -> tuple[Picture, tuple[str, ...]]:
    """A picture as a format can hold it.

    Args:
        path: The file that it is for, which is named in errors.
        picture: The picture; its samples are not changed.
        kind: Pillow's name of the format.

    Returns:
        The picture, and notes on what is not kept.

    Raises:
        ArtifactError: The format cannot hold its channels, its kind of samples, or the curve of its values.
    """
    _check_channels(path, picture, kind)
    _check_curve(path, picture, kind)
    metadata, notes = fit_metadata(picture.metadata, picture.format, kind)
    samples, bits = picture.samples, picture.bits
    if kind == "TIFF":
        return replace(picture, format=kind, metadata=metadata), notes
    if samples.dtype not in (np.uint8, np.uint16):
        raise ArtifactError(f"{path}: {kind} cannot hold samples of {samples.dtype}", hint="choose --format tiff")
    if FORMATS[kind].depth >= 16:
        target = 16 if samples.dtype == np.uint16 else 8
    elif kind == picture.format and (bits or 8) in _OWN_DEPTHS.get(kind, (8,)) and samples.dtype == np.uint16:
        return replace(picture, metadata=metadata), notes
    else:
        target = 8
        if (bits or 8 * samples.itemsize) > 8:
            notes = (*notes, f"its {bits or 16} bits were rounded to 8, which is all that {kind} holds here")
    white, codes = picture.white, 2**target - 1
    if white != codes:
        scaled = np.empty(samples.shape, np.uint16 if target == 16 else np.uint8)
        for rows in row_bands(*samples.shape[:2]):  # so that no copy of the whole is made in between
            scaled[rows] = np.rint(samples[rows].astype(np.float64) * (codes / white)).clip(0, codes)
        samples = scaled
    return replace(picture, samples=samples, bits=None, format=kind, metadata=metadata), notes


def _check_channels(path: Path, picture: Picture, kind: str) -> None:
    extra = picture.extra_samples
    if not extra or kind == "TIFF":
        return
    if extra != (UNASSOCIATED_ALPHA,):
        raise ArtifactError(
            f"{path}: {kind} cannot hold {len(extra)} channels besides the colours", hint="choose --format tiff"
        )
    if not FORMATS[kind].alpha:
        able = ", ".join(row.suffixes[0][1:] for row in FORMATS.values() if row.alpha)
        raise ArtifactError(f"{path}: {kind} cannot hold transparency", hint=f"choose --format out of {able}")


def _check_curve(path: Path, picture: Picture, kind: str) -> None:
    """Refuse a format in which readers would misinterpret the values."""
    metadata = picture.metadata
    if kind == picture.format:
        return
    own = dict(metadata.own) if picture.format == "PNG" else {}
    transfer = metadata.cicp[1] if metadata.cicp else own.get(b"cICP", b"\0\0")[1]
    curved = picture.tones is not None and picture.tones.gamma is not None
    told = metadata.icc_profile is not None and kind not in _WITHOUT_PROFILE_AND_XMP
    if transfer in _HDR_TRANSFERS or (curved and not told):
        raise ArtifactError(
            f"{path}: {kind} cannot say on which curve the picture's values are",
            hint=f"leave it {picture.format}, or convert it to sRGB first",
        )


def fit_metadata(metadata: Metadata, source: str, kind: str) -> tuple[Metadata, tuple[str, ...]]:
    """The metadata that a format can hold, and notes on what is not kept.

    Args:
        metadata: What the picture's file says.
        source: Pillow's name of the format that it was read from.
        kind: Of the format that is written.
    """
    if source == kind:
        return metadata, ()
    lost = _names(metadata, source)
    if metadata.dpi and kind not in _WITH_DPI:
        lost.append("resolution")
    if kind in _WITHOUT_PROFILE_AND_XMP:
        parts = {"colour profile": metadata.icc_profile, "XMP": metadata.xmp, "EXIF": metadata.exif}
        lost += [name for name, part in parts.items() if part]
        metadata = replace(metadata, icc_profile=None, xmp=None)
    xmp = metadata.xmp
    if metadata.trailer is not None:
        lost.append("what follows the picture in the file")
        xmp = jpeg_file.without_promises(xmp)
    metadata = replace(metadata, own=(), trailer=None, cicp=None, lossless=False, xmp=xmp)
    return metadata, (f"not kept in {kind}: {', '.join(dict.fromkeys(lost))}",) if lost else ()


def _names(metadata: Metadata, source: str) -> list[str]:
    """Names, for notes, of the metadata that only the source's format has."""
    if source == "PNG":
        carried = {b"iCCP", b"pHYs", b"sRGB", b"gAMA"} | ({b"cHRM"} if metadata.icc_profile else set())
        others = [item for item in metadata.own if item[0] not in carried and b"adobe.xmp" not in item[1]]
        return [_png_name(kind, data) for kind, data in others]
    if source == "JPEG":
        names = {_IPTC_SEGMENT: "IPTC", _COMMENT_SEGMENT: "comment"}
        others = [(marker, data) for marker, data in metadata.own if not data.startswith(jpeg_file.MPF)]
        return [names.get(marker, f"segment APP{marker - 0xE0}") for marker, _ in others]
    if source == "TIFF":
        return [tag_name(tag) for tag, _ in metadata.own if tag not in (*DESCRIPTIVE_TAGS, *_RESOLUTION_TAGS)]
    return []


def _png_name(kind: bytes, data: bytes) -> str:
    if kind in (b"tEXt", b"zTXt", b"iTXt"):
        return f"text {data.split(bytes(1), 1)[0].decode('latin-1')!r}"
    return kind.decode("latin-1")
