"""Videos frame by frame: timestamps, rotation, colours and sound are those of the input."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import ArtifactError, ConfigError, MissingDependencyError
from deblur_deploy.core.files import whole_file
from deblur_deploy.core.images import MAX_PIXELS
from deblur_deploy.infer.bad_files import BAD_FILE_ERRORS
from deblur_deploy.infer.pipeline import overlap
from deblur_deploy.infer.restore import Restorer
from deblur_deploy.infer.settings import VideoConfig

try:
    import av
    from av.sidedata.sidedata import Type as SideDataType
except ModuleNotFoundError as err:
    raise MissingDependencyError("videos need PyAV", hint="pip install 'deblur-deploy[video]'") from err

_ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
    "mpeg4": "mpeg4",
    "mjpeg": "mjpeg",
    "ffv1": "ffv1",
}
"""Encoders by codec; another codec becomes H.264, in WebM VP9."""

_WITH_CRF = {"libx264", "libx265", "libvpx", "libvpx-vp9", "libsvtav1", "libaom-av1"}
Tick = Callable[[int, int | None], None]

_COPIED = ("audio", "subtitle")


@dataclass(frozen=True)
class _Facts:
    """What the first frame says about a video's picture.

    Args:
        width: Width as stored, in pixels.
        height: Height as stored.
        pix_fmt: Pixel format.
        deep: Whether samples have more than 8 bits.
        display_matrix: How the picture is turned for display (ISO/IEC 14496-12, section 6.2.2), or None.
        colors: Colour space, range, primaries and transfer, as the encoder takes them.
    """

    width: int
    height: int
    pix_fmt: str
    deep: bool
    display_matrix: tuple[int, ...] | None
    colors: dict[str, int]


def restore_video(source: Path, target: Path, restorer: Restorer, config: VideoConfig, tick: Tick) -> int:
    """Restore the first video stream of a file and copy its sound and subtitles.

    Args:
        source: Anything that FFmpeg reads.
        target: The result; its suffix names the container. It appears whole or not at all.
        restorer: The network.
        config: Codec and quality.
        tick: Told after every frame how many are restored, and of how many where the file says so.

    Returns:
        Number of frames.

    Raises:
        ArtifactError: The file is no video, is damaged, or the container cannot hold what is in it.
        ConfigError: There is no such encoder.
        DeblurDeployError: The network gave up.
    """
    try:
        facts = _read_facts(source)
        with whole_file(target) as partial, av.open(str(source)) as reader, av.open(str(partial), "w") as writer:
            return _Transcoder(reader, writer, facts, config).run(restorer, tick)
    except av.error.FFmpegError as err:
        raise ArtifactError(
            f"{source} cannot be restored: {err.strerror}", hint="check that it plays to the end"
        ) from err


def _read_facts(source: Path) -> _Facts:
    with av.open(str(source)) as reader:
        if not reader.streams.video:
            raise ArtifactError(f"{source} holds no video", hint="give a file with pictures in it")
        frame = next(reader.decode(reader.streams.video[0]), None)
        if frame is None:
            raise ArtifactError(f"{source} holds no frames", hint="check that it plays")
        if frame.width * frame.height > MAX_PIXELS:
            raise ArtifactError(
                f"{source} has absurd dimensions: {frame.width}x{frame.height}", hint="cut it into parts"
            )
        matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
        colors = {
            name: int(getattr(frame, name)) for name in ("colorspace", "color_range", "color_primaries", "color_trc")
        }
        return _Facts(
            frame.width,
            frame.height,
            frame.format.name,
            max(component.bits for component in frame.format.components) > 8,
            struct.unpack("=9i", bytes(matrix)) if matrix is not None else None,
            colors,
        )


class _Transcoder:
    """One video from an open input to an open output."""

    def __init__(self, reader: Any, writer: Any, facts: _Facts, config: VideoConfig) -> None:
        self._reader, self._writer, self._facts = reader, writer, facts
        self._video = reader.streams.video[0]
        self._out = self._add_video(config)
        self._copies = {stream.index: self._copy(stream) for stream in reader.streams if stream.type in _COPIED}
        writer.metadata.update(reader.metadata)
        self._last_pts: int | None = None

    def run(self, restorer: Restorer, tick: Tick) -> int:
        """Restore every frame; returns how many there were."""
        count = 0

        def restore(item: Any) -> Any:
            nonlocal count
            if isinstance(item, av.Packet):
                return item
            count += 1
            restored = self._restore_frame(item, restorer)
            tick(count, self._video.frames or None)
            return restored

        overlap(self._demux(), restore, self._write)
        self._writer.mux(self._out.encode(None))
        return count

    def _demux(self) -> Iterator[Any]:
        """Frames of the video, and packets of what is copied."""
        streams = [self._video, *(self._reader.streams[index] for index in self._copies)]
        for packet in self._reader.demux(streams):
            if packet.stream.index == self._video.index:
                yield from packet.decode()
            elif packet.dts is not None:
                yield packet

    def _copy(self, stream: Any) -> Any:
        try:
            return self._writer.add_stream_from_template(stream)
        except BAD_FILE_ERRORS as err:
            codec = stream.codec_context.name if stream.codec_context else "unknown"
            raise ArtifactError(
                f"{self._writer.format.name} files take no {stream.type} of the codec {codec}: {err}",
                hint="name the file by its container, such as .mkv, which takes nearly everything",
            ) from err

    def _restore_frame(self, frame: Any, restorer: Restorer) -> Any:
        facts = self._facts
        if (frame.width, frame.height) != (facts.width, facts.height):
            raise ArtifactError(
                f"the video changes its size from {facts.width}x{facts.height} to {frame.width}x{frame.height}",
                hint="cut it into one file for each size",
            )
        layout = "rgb48le" if facts.deep else "rgb24"
        try:
            samples: NDArray[Any] = np.array(frame.to_ndarray(format=layout))
        except BAD_FILE_ERRORS as err:
            raise ArtifactError(
                f"frames of {frame.format.name} cannot be read: {err}", hint="convert the video to yuv420p first"
            ) from err
        restorer.restore_in_place(samples)
        restored = av.VideoFrame.from_ndarray(samples, format=layout)
        try:
            restored = restored.reformat(
                format=self._out.pix_fmt,
                dst_colorspace=frame.colorspace,
                dst_color_range=frame.color_range or 1,
            )
        except BAD_FILE_ERRORS as err:
            raise ArtifactError(
                f"colours of the kind {frame.colorspace} cannot be written: {err}", hint="convert it to BT.709 first"
            ) from err
        restored.pts, restored.time_base = self._next_pts(frame), self._video.time_base
        return restored

    def _next_pts(self, frame: Any) -> int:
        """The frame's own time; where a damaged or raw stream has none, one frame after the last."""
        pts: int | None = frame.pts
        if pts is None:
            step = 1 / (self._video.average_rate or 25) / self._video.time_base
            pts = 0 if self._last_pts is None else self._last_pts + max(1, round(step))
        self._last_pts = pts
        return pts

    def _write(self, item: Any) -> None:
        if isinstance(item, av.Packet):
            item.stream = self._copies[item.stream.index]
            self._writer.mux(item)
        else:
            self._writer.mux(self._out.encode(item))

    def _add_video(self, config: VideoConfig) -> Any:
        facts, codec = self._facts, self._video.codec_context.name
        fallback = "libvpx-vp9" if self._writer.format.name == "webm" else "libx264"
        name = config.codec or _ENCODERS.get(codec, fallback)
        try:
            formats = {layout.name for layout in av.codec.Codec(name, "w").video_formats or []}
            out = self._writer.add_stream(name, rate=self._video.average_rate or 25)
        except (av.codec.codec.UnknownCodecError, ValueError) as err:
            raise ConfigError(
                f"{name!r} is no encoder that {self._writer.format.name} files take",
                hint="leave out --codec for that of the input, or give libx264",
            ) from err
        context = out.codec_context
        out.width, out.height = facts.width, facts.height
        out.pix_fmt = facts.pix_fmt if facts.pix_fmt in formats else _nearest_format(formats, facts.deep)
        context.time_base = self._video.time_base
        if self._video.sample_aspect_ratio:
            context.sample_aspect_ratio = self._video.sample_aspect_ratio
        for field, value in facts.colors.items():
            setattr(context, field, value)
        if name in _WITH_CRF:
            out.options = {"crf": str(config.crf)} | ({"b:v": "0"} if name.startswith("libvpx") else {})
        if facts.display_matrix:
            out.set_display_matrix(facts.display_matrix)
        return out


def _nearest_format(formats: set[str], deep: bool) -> str:
    wanted = ("yuv420p10le", "yuv420p") if deep else ("yuv420p", "yuvj420p", "bgr0")
    return next((name for name in wanted if name in formats), sorted(formats)[0] if formats else "yuv420p")
