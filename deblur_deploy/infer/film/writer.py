"""The result of a film: its own stream restored, and everything else copied."""

from __future__ import annotations

import struct
from contextlib import nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.infer.film.containers import container_options, muxer_for
from deblur_deploy.infer.film.copies import Copies
from deblur_deploy.infer.film.encoder_choice import EncoderChoice, choices
from deblur_deploy.infer.film.encoders import MPEG_RATES
from deblur_deploy.infer.film.film import Film
from deblur_deploy.infer.film.metadata import DOLBY_VISION, IN_CONTAINER, kept_metadata, time_code_of
from deblur_deploy.infer.film.source import COLOR_FIELDS, METADATA_ERRORS, reason
from deblur_deploy.infer.settings import VideoConfig

_LEGAL_MPEG = [Fraction(n, d) for n, d in ((24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (50, 1))] + [
    Fraction(60000, 1001),
    Fraction(60),
]
"""Frame rates of MPEG-1 and MPEG-2 (ISO/IEC 13818-2, table 6-4)."""

_LARGEST_UNIT = 65535
"""MPEG-4's largest number of units in a second (ISO/IEC 14496-2, vop_time_increment_resolution)."""

_GLOBAL_HEADER = 1 << 22
"""AV_CODEC_FLAG_GLOBAL_HEADER."""

_BY_RATE = frozenset({"avi", "rm"})
"""Containers whose times are counts of pictures."""

_QUICKTIME = frozenset({"mov", "mp4", "3gp", "3g2"})
_PROGRESSIVE = 1
_APPLE_TAG, _KEPT_TAGS = "hvc1", frozenset({"hvc1", "hev1", "XVID", "DIVX", "DX50", "FMP4"})


class FilmWriter:
    """An open result; a context manager.

    Args:
        film: The film.
        partial: The file to write.

    Raises:
        ArtifactError: The container cannot hold what is in the film.
        ConfigError: What the user asks for does not go together.
    """

    def __init__(self, film: Film, partial: Path) -> None:
        self._facts, self._survey = film.facts, film.survey
        muxer = muxer_for(partial, film.facts.container, film.facts.codec)
        metadata = kept_metadata(film.reader.metadata)
        options = container_options(muxer, film.path, film.facts, metadata)
        self._writer = av.open(
            f"file:{partial}", "w", format=muxer, metadata_errors=METADATA_ERRORS, container_options=options
        )
        try:
            self._rate, self._is_quicktime = self._encoding_rate(), muxer in _QUICKTIME
            choice = self._choose(film.config)
            self.target = choice.target
            self.copies = Copies(film.reader, self._writer, film.survey.covers)
            for stream in film.reader.streams:
                if stream.index == film.stream.index:
                    self._out, self._encoder = self._add_film(stream, choice)
                else:
                    self.copies.add(stream)
            self._writer.metadata.update(metadata)
            self._writer.set_chapters(film.clip.chapters(film.reader.chapters()))
        except BaseException as err:
            self.__exit__(type(err), err, None)
            raise
        self.notes = (*choice.notes, *self.copies.notes)
        self._times: list[int] = []
        self._durations: list[int] = []
        self._delay = 0

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The first error is reported, not the one that closing the unfinished file raises after it.
        with suppress(av.error.FFmpegError, ValueError) if kind is not None else nullcontext():
            self._writer.close()

    def write(self, frame: Any, time: int, duration: int) -> None:
        """Encode one picture.

        Args:
            frame: The picture in the target's format.
            time: When it is shown, in the survey's units.
            duration: For how long.
        """
        # Encoders count pictures; their times are put on the packets. Many know few rates, and none every time.
        frame.pts, frame.time_base = len(self._times), 1 / self._rate
        self._times.append(time)
        self._durations.append(duration)
        self._mux(self._encoder.encode(frame))

    def copy(self, packet: Any, shift: Fraction) -> None:
        """Write a packet of another stream, earlier by so many seconds."""
        if (out := self.copies.target_of(packet.stream)) is None:
            return
        if shift:
            units = round(shift / packet.time_base)
            packet.pts, packet.dts = (None if time is None else time - units for time in (packet.pts, packet.dts))
        packet.stream = out
        self._writer.mux(packet)

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self._mux(self._encoder.encode(None), ends=True)

    def _mux(self, packets: list[Any], *, ends: bool = False) -> None:
        for position, packet in enumerate(packets, start=1):
            index, decoded = packet.pts, packet.pts if packet.dts is None else packet.dts
            packet.pts = self._times[index]
            packet.dts = self._times[decoded] if decoded >= 0 else self._times[0] + decoded * self._survey.step
            packet.duration = self._durations[index]
            self._delay = max(self._delay, self._times[0] - packet.dts)
            if ends and position == len(packets) and self._is_quicktime:
                # QuickTime's tracks are as long as the time between decoding the first picture and after the last.
                packet.duration = max(1, self._times[-1] + self._durations[-1] - self._delay - packet.dts)
            packet.time_base = self._survey.unit
            packet.stream = self._out
            self._writer.mux(packet)

    def _encoding_rate(self) -> Fraction:
        rate = self._survey.rate.limit_denominator(1001)
        return rate if 0 < rate.numerator <= _LARGEST_UNIT else Fraction(max(1, round(rate)))

    def _choose(self, config: VideoConfig) -> EncoderChoice:
        """The first choice that the encoder itself accepts."""
        failure: tuple[EncoderChoice, BaseException] | None = None
        for choice in choices(self._facts, config, self._writer):
            if choice.encoder.codec in MPEG_RATES:
                self._rate = min(_LEGAL_MPEG, key=lambda legal: abs(legal - self._survey.rate))
            try:
                self._configured(av.CodecContext.create(choice.encoder.name, "w"), choice).open()
            except (av.error.FFmpegError, ValueError) as err:
                failure = failure or (choice, err)
                continue
            if failure is None or config.codec is not None:
                return choice
            lost = f"{failure[0].encoder.name} does not take these pictures of {self._facts.width}x{self._facts.height}"
            return EncoderChoice(choice.encoder, choice.target, choice.options, (*choice.notes, lost))
        name = failure[0].encoder.name if failure else config.codec
        raise ConfigError(
            f"{name} does not take these settings: {reason(failure[1]) if failure else 'unknown'}",
            hint="leave out --codec, --profile and --preset, or give libx264",
        )

    def _configured(self, context: Any, choice: EncoderChoice) -> Any:
        facts = self._facts
        context.width, context.height, context.pix_fmt = facts.width, facts.height, choice.target.pix_fmt
        context.time_base, context.framerate = 1 / self._rate, self._rate
        if facts.aspect:
            context.sample_aspect_ratio = facts.aspect
        for name in COLOR_FIELDS:
            setattr(context, name, choice.target.colors[name])
        if self._writer.format.name == "avi":  # its times are those of decoding
            context.max_b_frames = 0
        if self._writer.format.flags & av.format.Flags.global_header.value:
            context.flags |= _GLOBAL_HEADER
        context.field_order = _PROGRESSIVE
        context.options = dict(choice.options)
        return context

    def _add_film(self, stream: Any, choice: EncoderChoice) -> tuple[Any, Any]:
        """The stream of the result, and what encodes for it."""
        facts, name = self._facts, choice.encoder.name
        # A stream made after the film's own brings the container's side data along; a new one cannot be given any.
        same = choice.encoder.codec == facts.codec and IN_CONTAINER & set(facts.side_data)
        if same and not DOLBY_VISION & set(facts.side_data):
            encoder = self._configured(av.CodecContext.create(name, "w"), choice)
            encoder.open()
            out = self._writer.add_stream_from_template(stream, opaque=True)
            _describe(out.codec_context, encoder)
        else:
            try:
                out = self._writer.add_stream(name, rate=self._rate)
            except ValueError as err:
                raise ConfigError(
                    f"{name!r} is not an encoder that {self._writer.format.name} files take",
                    hint="leave out --codec for that of the input, or give libx264",
                ) from err
            encoder = self._configured(out.codec_context, choice)
            encoder.open()
        by_rate = self._writer.format.name in _BY_RATE
        out.time_base = self._survey.tick if by_rate else self._survey.unit
        if (tag := self._tag(choice)) is not None:
            out.codec_context.codec_tag = tag
        if "DISPLAYMATRIX" in facts.side_data:
            out.set_display_matrix(struct.unpack("=9i", facts.side_data["DISPLAYMATRIX"]))
        out.metadata.update(time_code_of(stream.container) | kept_metadata(stream.metadata))
        if choice.encoder.name.startswith("libvpx") and choice.target.pix_fmt.startswith("yuva"):
            out.metadata["alpha_mode"] = "1"
        out.disposition = stream.disposition
        return out, encoder

    def _tag(self, choice: EncoderChoice) -> str | None:
        """Apple's players refuse HEVC that is not called hvc1; fourcc of AVI tell players which decoder to take."""
        facts = self._facts
        if choice.encoder.codec == facts.codec and facts.tag in _KEPT_TAGS:
            return facts.tag
        if choice.encoder.codec == "hevc" and self._writer.format.name in ("mov", "mp4"):
            return _APPLE_TAG
        return None


def _describe(context: Any, encoder: Any) -> None:
    """Say of a copied stream what an encoder makes of it."""
    for name in ("width", "height", "pix_fmt", "framerate", "sample_aspect_ratio", *COLOR_FIELDS):
        if (value := getattr(encoder, name)) is not None:
            setattr(context, name, value)
    context.extradata = encoder.extradata
    context.profile = encoder.profile
    context.reorder_depth = encoder.reorder_depth
    context.field_order = _PROGRESSIVE
    context.bit_rate = 0
