"""Small films made by code, and what is in a film."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from deblur_deploy.infer.settings import VideoConfig
from deblur_deploy.infer.video import RestoredFilm, restore_video

BT601, BT709, BT2020 = 5, 1, 9
LIMITED, FULL = 1, 2


class Same:
    """A network that changes nothing; it remembers what it was given."""

    cuts = 0

    def begin_film(self):
        pass

    def cut_notes(self, before):
        return ()

    def __init__(self, change=None):
        self.given, self._change = [], change

    def restore_in_place(self, samples):
        self.given.append(samples.copy())
        if self._change is not None:
            samples[:] = self._change(samples)


@dataclass
class Recipe:
    """How a film is made."""

    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    ticks: tuple[int, ...] = tuple(range(8))
    rate: int = 30
    colorspace: int = BT709
    color_range: int = LIMITED
    options: dict[str, str] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    stream: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)
    sound: str | None = None
    chapters: tuple[str, ...] = ()
    attachment: bytes | None = None
    cover: bytes | None = None
    subtitles: bool = False
    turn: int = 0


def pictures(photo, count=8, size=(96, 64)):
    """A moving photograph: (height, width, 3) uint8 each."""
    width, height = size
    return [np.ascontiguousarray(np.roll(photo, 3 * index, 1)[:height, :width]) for index in range(count)]


def frame_of(picture, recipe):
    """A frame of a film from RGB, or from RGBA."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[2] == 4 else "rgb24")
    is_rgb = av.VideoFormat(recipe.pix_fmt, 16, 16).is_rgb
    frame = frame.reformat(
        format=recipe.pix_fmt,
        dst_colorspace=None if is_rgb else recipe.colorspace,
        dst_color_range=None if is_rgb else recipe.color_range,
    )
    if not is_rgb:
        frame.colorspace, frame.color_range = recipe.colorspace, recipe.color_range
    return frame


def make_film(path: Path, frames: list[Any], recipe: Recipe) -> Path:
    """Write a film; frames are RGB pictures, or frames as :func:`frame_of` gives them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [frame if isinstance(frame, av.VideoFrame) else frame_of(frame, recipe) for frame in frames]
    with av.open(str(path), "w", metadata_errors="surrogateescape", container_options=recipe.container) as writer:
        cover = _cover(writer, recipe)
        video = _video(writer, frames[0], recipe)
        audio = writer.add_stream(recipe.sound, rate=48_000) if recipe.sound else None
        if audio is not None:
            audio.layout = "mono"
            audio.metadata.update(language="jpn", title="Commentary")
        if recipe.attachment is not None:
            writer.add_attachment("font.ttf", "application/x-truetype-font", recipe.attachment)
        writer.metadata.update(recipe.metadata)
        writer.set_chapters(_chapters(recipe))
        if cover is not None:
            packet = av.Packet(recipe.cover)
            packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1, 90_000)
            writer.mux(packet)
        for tick, frame in zip(recipe.ticks, frames, strict=False):
            frame.pts, frame.time_base = tick, Fraction(1, recipe.rate)
            writer.mux(video.encode(frame))
        writer.mux(video.encode(None))
        if audio is not None:
            _tone(writer, audio)
    return path


def _video(writer, first, recipe):
    options = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "10"}}.get(recipe.codec, {})
    video = writer.add_stream(recipe.codec, rate=recipe.rate, options=options | recipe.options)
    video.width, video.height, video.pix_fmt = first.width, first.height, recipe.pix_fmt
    context = video.codec_context
    context.time_base = Fraction(1, recipe.rate)
    if not first.format.is_rgb:
        context.colorspace, context.color_range = recipe.colorspace, recipe.color_range
    for name, value in recipe.context.items():
        setattr(context, name, value)
    if recipe.turn:
        video.set_display_rotation(recipe.turn)
    video.metadata.update(recipe.stream)
    return video


def _cover(writer, recipe):
    if recipe.cover is None:
        return None
    stream = writer.add_mux_stream("mjpeg", width=80, height=80, time_base=Fraction(1, 90_000))
    stream.disposition = 1024
    return stream


def _chapters(recipe):
    length = len(recipe.ticks) * 1000 // recipe.rate
    step = length // max(1, len(recipe.chapters))
    return [
        {
            "id": index + 1,
            "start": index * step,
            "end": (index + 1) * step,
            "time_base": Fraction(1, 1000),
            "metadata": {"title": title},
        }
        for index, title in enumerate(recipe.chapters)
    ]


def _tone(writer, audio):
    tone = (8000 * np.sin(np.arange(12_288) / 16)).astype(np.int16)[None]
    samples = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
    samples.sample_rate, samples.pts = 48_000, 0
    for resampled in av.AudioResampler(audio.codec_context.format, "mono", 48_000, audio.frame_size or None).resample(
        samples
    ):
        writer.mux(audio.encode(resampled))
    writer.mux(audio.encode(None))


def jpeg(photo) -> bytes:
    """A cover: a JPEG of 80x80."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(photo[:80, :80]).save(stream, "JPEG")
    return stream.getvalue()


def restored(source: Path, network: Any = None, out: str = "out", **config: Any) -> tuple[Path, RestoredFilm]:
    """A film through a network, by default one that changes nothing."""
    target = source.parent / out / source.name
    return target, restore_video(source, target, network or Same(), VideoConfig(**config), lambda count, of: None)


def film_frames(path: Path) -> list[Any]:
    """All frames of a film; of several videos, that which is not a cover."""
    with av.open(str(path), metadata_errors="surrogateescape") as reader:
        (stream,) = [stream for stream in reader.streams.video if not stream.disposition & 1024]
        return list(reader.decode(stream))


def codes(frame: Any, index: int = 0) -> np.ndarray:
    """The samples of a plane as they are stored, (rows, samples)."""
    plane, bits = frame.planes[index], max(component.bits for component in frame.format.components)
    dtype = np.dtype(np.uint8) if bits <= 8 else np.dtype(">u2" if frame.format.name.endswith("be") else "<u2")
    rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)
    per_pixel = 1 if len(frame.planes) > 1 or len(frame.format.components) == 1 else len(frame.format.components)
    return rows[:, : plane.width * per_pixel].copy()


def psnr(before: list[Any], after: list[Any]) -> float:
    """Of all samples of two films in one format, in dB."""
    errors, peak = [], 1
    for first, second in zip(before, after, strict=True):
        assert first.format.name == second.format.name
        peak = (1 << max(component.bits for component in first.format.components)) - 1
        for index in range(len(first.planes)):
            errors.append((codes(first, index).astype(float) - codes(second, index)).ravel() ** 2)
    error = np.concatenate(errors).mean()
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def mean_levels(path: Path) -> np.ndarray:
    """Mean of every plane over a film, in levels of 8 bits."""
    frames = film_frames(path)
    bits = max(component.bits for component in frames[0].format.components)
    planes = range(len(frames[0].planes))
    return np.array([np.mean([codes(frame, index).mean() for frame in frames]) for index in planes]) / (1 << (bits - 8))
