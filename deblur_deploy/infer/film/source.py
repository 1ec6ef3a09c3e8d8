"""A film as it is found: which stream is the film, and what its first picture says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import MAX_PIXELS

COLOR_FIELDS = ("colorspace", "color_range", "color_primaries", "color_trc")
"""Code points of ITU-T H.273, as FFmpeg calls them."""

METADATA_ERRORS = "surrogateescape"
"""Text that is not UTF-8 keeps its bytes."""

_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these leave out the transparency."""

_WITHOUT_COLORS = {"vp8"}
"""Codecs that do not signal colours: FFmpeg's decoder makes them up, whatever the container says."""

_NOT_FILMS = {"image2", "tty", "gif", "apng", "webp_anim"}


@dataclass(frozen=True)
class FilmFacts:
    """What is known about a film before it is restored.

    Args:
        codec: FFmpeg's name of the codec, such as ``h264``.
        profile: Profile of the codec, or None.
        tag: Four-character code of the codec in the container.
        container: FFmpeg's name of the container.
        width: Width as stored, in pixels.
        height: Height as stored.
        pix_fmt: Pixel format.
        bits: Bits of the deepest component.
        has_alpha: Whether pictures have transparency.
        is_rgb: Whether pictures are stored as RGB.
        interlaced: Whether the first picture consists of two fields.
        colors: Colour space, range, primaries and transfer; see :data:`COLOR_FIELDS`.
        aspect: Sample aspect ratio, or None.
        side_data: Side data of the first picture by FFmpeg's name.
    """

    codec: str
    profile: str | None
    tag: str
    container: str
    width: int
    height: int
    pix_fmt: str
    bits: int
    has_alpha: bool
    is_rgb: bool
    interlaced: bool
    colors: dict[str, int]
    aspect: Any = None
    side_data: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file opened by FFmpeg.

    ``file:`` keeps names with a colon from being taken for addresses.

    Raises:
        ArtifactError: FFmpeg cannot open it.
    """
    try:
        reader = av.open(f"file:{path}", metadata_errors=METADATA_ERRORS)
    except (av.error.FFmpegError, ValueError) as err:
        raise ArtifactError(f"{path} cannot be restored: {reason(err)}", hint="check that it plays") from err
    with reader:
        yield reader


def reason(err: BaseException) -> str:
    """What FFmpeg says about an error, in one line."""
    return str(getattr(err, "strerror", None) or " ".join(str(err).split()) or type(err).__name__)


def is_film(path: Path) -> bool:
    """Whether FFmpeg finds moving pictures in a file."""
    try:
        with opened(path) as reader:
            named = set(reader.format.name.split(","))
            return not (named & _NOT_FILMS or reader.format.name.endswith("_pipe")) and any(
                not is_still(stream) for stream in reader.streams.video
            )
    except ArtifactError:
        return False


def is_still(stream: Any) -> bool:
    """Whether a stream is a cover or a thumbnail, not the film."""
    return bool(stream.disposition & _STILLS)


def film_stream(reader: Any, path: Path) -> Any:
    """The stream to restore: the default one, else the largest; never a cover.

    Raises:
        ArtifactError: There is none, or FFmpeg has no decoder for it.
    """
    films = [stream for stream in reader.streams.video if not is_still(stream)]
    if not films:
        raise ArtifactError(f"{path} holds no video", hint="give a file with moving pictures in it")
    known = [stream for stream in films if stream.codec_context is not None]
    if not known:
        raise ArtifactError(f"the codec of {path} is not known to FFmpeg", hint="convert the film to H.264 first")
    return max(
        known,
        key=lambda stream: (
            bool(stream.disposition & Disposition.default),
            stream.codec_context.width * stream.codec_context.height,
            -stream.index,
        ),
    )


def decoder_of(stream: Any) -> Any:
    """What decodes a stream, with its transparency."""
    name = stream.codec_context.codec.canonical_name
    says_alpha = any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
    if says_alpha and name in _ALPHA_DECODERS:
        return av.CodecContext.create(_ALPHA_DECODERS[name], "r")
    return stream.codec_context


def read_facts(path: Path) -> FilmFacts:
    """What the first picture of a film says.

    Raises:
        ArtifactError: There is none, or it is too large.
    """
    with opened(path) as reader:
        stream = film_stream(reader, path)
        declared = {name: int(getattr(stream.codec_context, name)) for name in COLOR_FIELDS}
        frame = _first_frame(reader, stream)
        if frame is None:
            raise ArtifactError(f"{path} holds no frames", hint="check that it plays")
        if frame.width * frame.height > MAX_PIXELS:
            raise ArtifactError(f"{path} has absurd dimensions: {frame.width}x{frame.height}", hint="cut it into parts")
        context, components = stream.codec_context, frame.format.components
        return FilmFacts(
            context.codec.canonical_name,
            context.profile,
            _tag_of(context),
            reader.format.name,
            frame.width,
            frame.height,
            frame.format.name,
            max((component.bits for component in components), default=8),
            frame.format.name != "pal8" and any(component.is_alpha for component in components),
            frame.format.is_rgb or frame.format.name == "pal8",
            frame.interlaced_frame,
            declared if context.codec.canonical_name in _WITHOUT_COLORS else _colors_of(frame),
            stream.sample_aspect_ratio or None,
            {item.type.name: bytes(item) for item in frame.side_data},
        )


def _first_frame(reader: Any, stream: Any) -> Any:
    decoder = decoder_of(stream)
    for packet in reader.demux(stream):
        try:
            for frame in decoder.decode(packet):
                return frame
        except av.error.InvalidDataError:  # what stands before the first key frame of a recording
            continue
    return None


def _colors_of(frame: Any) -> dict[str, int]:
    return {name: int(getattr(frame, name)) for name in COLOR_FIELDS}


def _tag_of(context: Any) -> str:
    try:
        return str(context.codec_tag)
    except UnicodeDecodeError:
        return ""
