"""Reading photographs: which reader takes which file, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from deblur_deploy.core import formats
from deblur_deploy.core.curves import icc_gamma
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.formats import FORMATS
from deblur_deploy.core.images import MAX_PIXELS
from deblur_deploy.core.tiff_repair import HEIGHT, SIGNATURES, WIDTH
from deblur_deploy.infer import jpeg_file, png_chunks, tiff_tags
from deblur_deploy.infer.bad_files import decoding, quiet_libraries, too_large
from deblur_deploy.infer.picture import Picture, Tones
from deblur_deploy.infer.pillow_samples import other_metadata, pillow_samples, to_stored_orientation
from deblur_deploy.infer.tones import gamma_tones, measured_tones, transfer_note, transfer_tones

_BYTES_PER_PIXEL = 10
"""Peak of decoding or encoding 8-bit colour: four bytes in Pillow, up to four in the array, and a reserve.

Deeper samples take as much more.
"""

_PROGRESSIVE_BYTES_PER_PIXEL = 6
"""Two bytes for each coefficient of a progressive JPEG, all of which are held until the last scan (ITU-T T.81, G.1)."""

_JPEG_START = b"\xff\xd8\xff"
_RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"II\x1a\0", b"FOVb", b"\0MRM")
_RAW_BRANDS = (b"ftypcrx ",)
_JXL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_PALETTE = 3
"""Colour type of a PNG whose pixels are numbers of colours."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def decoding_bytes(path: Path, target_format: str | None = None) -> int:
    """Peak memory of decoding a picture, and of encoding it again, from its header alone.

    Args:
        path: The picture.
        target_format: Pillow's name of the format that it will be written in, or None for its own.

    Raises:
        ArtifactError: As :func:`read_picture`.
    """
    with decoding(path), path.open("rb") as file:
        start = _checked_start(path, file)
        if start.startswith(png_chunks.SIGNATURE):
            header = png_chunks.read_header(file)
            return _needed(path, (header.width, header.height), ("PNG", target_format), 2 if header.depth > 8 else 1)
        if start[:4] in SIGNATURES:
            page = tiff_tags.find_page(file)
            size = page.number(WIDTH, 0), page.number(HEIGHT, 0)
            # Samples other than uint8 go through the network as float32, and are computed with in float64.
            deep = 1.0 if page.suits_pillow and max(page.bits) <= 8 else max(2.0, max(page.bits) / 8)
            needed = _needed(path, size, ("TIFF", target_format), deep * max(1.0, len(page.bits) / 4))
            return needed + (
                0 if page.file is file else path.stat().st_size
            )  # Pillow holds the bytes of what is not a file on disk
        with open_image(path) as image:
            progressive = _PROGRESSIVE_BYTES_PER_PIXEL if image.info.get("progressive") else 0
            deep = 2.0 if image.format in ("AVIF", "HEIF") and _isobmff_bits(path) > 8 else 1.0
            needed = _needed(path, image.size, (str(image.format), target_format), deep)
            return needed + image.width * image.height * progressive + path.stat().st_size  # the file is held, too


def _needed(path: Path, size: tuple[int, int], kinds: tuple[str, str | None], depth: float) -> int:
    width, height = size
    if width * height > MAX_PIXELS:
        raise too_large(path, f"{width}x{height}")
    codec = max(row.bytes_per_pixel for kind in kinds if (row := FORMATS.get(kind or "PNG")))
    return int(width * height * (_BYTES_PER_PIXEL * depth + codec))


def read_picture(path: Path, content: BinaryIO | None = None, *, cut_off: bool = False) -> Picture:
    """Decode a photograph at its own depth.

    Args:
        path: A file of one of :data:`FORMATS`.
        content: Bytes to read instead of the file, which then only names errors: a part that is a picture by itself.
        cut_off: Whether a JPEG that ends too early is read as far as it goes.

    Raises:
        ArtifactError: The file is missing, is not an image, is damaged, larger than :data:`MAX_PIXELS`, animated or of
            several pages, or of a kind whose colours are unknown (CMYK, Lab).
        MissingDependencyError: It is deeper than 8 bits or of a format that needs a plugin, and the extra is not
            installed.
    """
    with decoding(path), quiet_libraries(), path.open("rb") if content is None else nullcontext(content) as file:
        start = _checked_start(path, file)
        if start.startswith(png_chunks.SIGNATURE):
            return _read_png(path, file)
        if start[:4] in SIGNATURES:
            return _read_tiff(path, file)
        if start.startswith(_JPEG_START):
            return _read_jpeg(path, file, cut_off)
        return _read_other(path, file)


def _checked_start(path: Path, file: BinaryIO) -> bytes:
    """The first bytes of a file, unless its format is refused."""
    file.seek(0)
    start = file.read(32)
    raw = start.startswith(_RAW_STARTS) or start[4:12] in _RAW_BRANDS
    if raw or formats.REFUSED.get(path.suffix.lower(), ("",))[0] == "camera RAW":
        kind, hint = formats.REFUSED[".raw"]
        raise ArtifactError(f"{path} is {kind}, which is not supported", hint=hint)
    if start.startswith(_JXL_STARTS):
        kind, hint = formats.REFUSED[".jxl"]
        raise ArtifactError(f"{path} is {kind}, which is not supported", hint=hint)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS and "HEIF" in FORMATS and b"avif" not in start:
        FORMATS["HEIF"].prepare()
    formats.prepare(path)
    return start


@contextmanager
def open_image(path: Path, content: BinaryIO | None = None) -> Iterator[Image.Image]:
    """A file in Pillow, with its header read and checked.

    Raises:
        ArtifactError: As in :func:`read_picture`.
    """
    # Pillow warns of sizes within MAX_PIXELS and of damaged metadata; damaged pixels end in an error.
    with decoding(path), quiet_libraries(), Image.open(content or path) as image:
        kind = "JPEG" if image.format == "MPO" else str(image.format)  # cameras append previews to a JPEG
        if kind not in FORMATS:
            kind, hint = formats.REFUSED.get(f".{kind.lower()}", (kind, "convert it to PNG or TIFF"))
            raise ArtifactError(f"{path} is {kind}, which is not supported", hint=hint)
        if image.width * image.height > MAX_PIXELS:
            raise too_large(path, f"{image.width}x{image.height}")
        if FORMATS[kind].animation and kind != "TIFF":  # some of its pages are not pictures of their own
            _check_single(path, getattr(image, "n_frames", 1))
        yield image


def _check_single(path: Path, count: int) -> None:
    if count > 1:
        raise ArtifactError(f"{path} holds {count} pictures", hint="give each one a file of its own")


def _read_png(path: Path, file: BinaryIO) -> Picture:
    parts = png_chunks.take_apart(file)
    header = parts.header
    if header.width * header.height > MAX_PIXELS:
        raise too_large(path, f"{header.width}x{header.height}")
    _check_single(path, parts.frames)
    if header.is_deep_color or (header.depth == 16 and parts.transparent is not None):
        from deblur_deploy.infer.deep import decode_png

        samples = decode_png(parts.pixels.read(), parts.transparent)
    else:
        with open_image(path, parts.pixels) as image:
            samples = pillow_samples(image, path)
    tones, note = parts.tones
    palette = ("its palette is written as colours",) if header.color_type == _PALETTE else ()
    notes = (*parts.notes, *palette, *([note] if note else []))
    return Picture(samples, "PNG", parts.metadata, tones=tones, notes=notes)


def _read_jpeg(path: Path, file: BinaryIO, cut_off: bool) -> Picture:
    file.seek(0)
    data = file.read()
    parts = jpeg_file.take_apart(data)
    if parts.end is None:
        if not cut_off:
            raise ArtifactError(
                f"{path} cannot be read: it is cut off, its end marker is missing",
                hint="copy it again, or restore it as far as it goes with --keep-going",
            )
        data += b"\xff\xd9"
    with open_image(path, io.BytesIO(data)) as image:
        samples = pillow_samples(image, path)
    metadata, notes = parts.metadata()
    if parts.end is None:
        notes = ("it is cut off; it was restored as far as it goes", *notes)
    return Picture(samples, "JPEG", metadata, tones=gamma_tones(icc_gamma(metadata.icc_profile), 255), notes=notes)


def _read_tiff(path: Path, file: BinaryIO) -> Picture:
    page = tiff_tags.find_page(file)
    size = page.number(WIDTH, 0), page.number(HEIGHT, 0)
    if size[0] * size[1] > MAX_PIXELS:
        raise too_large(path, f"{size[0]}x{size[1]}")
    _check_single(path, page.pages)
    if page.is_raw:
        kind, hint = formats.REFUSED[".raw"]
        raise ArtifactError(f"{path} is {kind}, which is not supported", hint=hint)
    metadata, notes = page.metadata, page.notes
    if page.suits_pillow:
        page.file.seek(0)
        with open_image(path, page.file) as image:
            image.seek(page.index)
            samples = to_stored_orientation(pillow_samples(image, path), page.number(tiff_tags.ORIENTATION, 1))
        palette = page.number(tiff_tags.PHOTOMETRIC, 1) == tiff_tags.PALETTE
        notes += ("its palette is written as colours",) if palette else ()
        tones = gamma_tones(icc_gamma(metadata.icc_profile), 2 ** (8 * samples.itemsize) - 1)
        if page.missing is not None:
            white = 2 ** (8 * samples.itemsize) - 1
            tones = Tones(0, white, tones.gamma if tones else None, page.missing)
        return Picture(samples, "TIFF", metadata, tones=tones, notes=notes)
    from deblur_deploy.infer.deep import decode_tiff

    samples, bits = decode_tiff(page.file, page.index)
    extra = tuple(2 if kind == 1 else kind for kind in page.extra)  # colours have been divided by alpha
    picture = Picture(samples, "TIFF", metadata, bits if samples.dtype.kind == "u" else None, extra, None, notes)
    return _with_tones(picture, page.missing)


def _with_tones(picture: Picture, missing: tuple[float, float] | None) -> Picture:
    """A TIFF of any type with its black and white."""
    samples, notes = picture.samples, picture.notes
    if samples.dtype.kind == "u" and samples.itemsize <= 2:
        gamma = gamma_tones(icc_gamma(picture.metadata.icc_profile), picture.white)
        plain = gamma is None and missing is None and picture.white == 2 ** (8 * samples.itemsize) - 1
        tones = None if plain else Tones(0, picture.white, gamma.gamma if gamma else None, missing)
    else:
        tones = measured_tones(samples[:, :, : picture.colors], missing)
        if (tones.low, tones.high) != (0, 1):
            notes = (*notes, f"its values from {tones.low:g} to {tones.high:g} were taken as black to white")
    return replace(picture, tones=tones, notes=notes)


def _read_other(path: Path, file: BinaryIO) -> Picture:
    """WebP, AVIF, HEIF, BMP and every other row of the table."""
    file.seek(0)
    content = file.read()
    with open_image(path, io.BytesIO(content)) as image:
        kind = str(image.format)
        reader = _DEEP_READERS.get(kind)
        if reader is not None and (picture := reader(path, image, content)) is not None:
            return picture
        metadata, notes = other_metadata(image, content)
        return Picture(pillow_samples(image, path), kind, metadata, notes=notes)


def _isobmff_bits(path: Path) -> int:
    from deblur_deploy.infer.isobmff import read_facts

    return read_facts(path.read_bytes()).bits


def _read_avif(path: Path, image: Image.Image, content: bytes) -> Picture | None:
    """AVIF of more than 8 bits, or of a transfer or losslessness that Pillow does not keep; None for others."""
    from deblur_deploy.infer.isobmff import read_facts

    facts = read_facts(content)
    if facts.bits <= 8 and facts.cicp is None:
        return None
    from deblur_deploy.infer.deep import decode_avif

    metadata, notes = other_metadata(image, content)
    metadata = replace(metadata, cicp=facts.cicp, lossless=facts.is_lossless)
    samples = decode_avif(content)
    transfer = facts.cicp[1] if facts.cicp else 0
    white = 2**facts.bits - 1
    tones = transfer_tones(transfer, white) or gamma_tones(icc_gamma(metadata.icc_profile), white)
    if tones is None and facts.bits not in (8, 16):
        tones = Tones(0, white)
    note = transfer_note(transfer)
    bits = facts.bits if facts.bits != 8 else None
    return Picture(samples, "AVIF", metadata, bits, tones=tones, notes=(*notes, *([note] if note else [])))


def _read_heif(path: Path, image: Image.Image, content: bytes) -> Picture:
    from deblur_deploy.infer.heif import read_heif

    return read_heif(path, content)


_DEEP_READERS: dict[str, Callable[[Path, Image.Image, bytes], Picture | None]] = {
    "AVIF": _read_avif,
    "HEIF": _read_heif,
}
