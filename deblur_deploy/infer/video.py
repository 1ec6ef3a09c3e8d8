"""Films picture by picture: what the network does not change stays, and what cannot be kept is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deblur_deploy.core.errors import ArtifactError, ConfigError, MissingDependencyError

try:
    import av
except ModuleNotFoundError as err:
    raise MissingDependencyError("films need PyAV", hint="pip install 'deblur-deploy[video]'") from err

from deblur_deploy.core.files import whole_file
from deblur_deploy.infer.film.color import ColorBridge
from deblur_deploy.infer.film.deinterlace import Deinterlacer, refuse_interlaced
from deblur_deploy.infer.film.encoders import quiet_encoders
from deblur_deploy.infer.film.film import Film, open_film
from deblur_deploy.infer.film.kept import losses
from deblur_deploy.infer.film.source import decoder_of, opened, read_facts, reason
from deblur_deploy.infer.film.survey import survey
from deblur_deploy.infer.film.writer import FilmWriter
from deblur_deploy.infer.overlap import overlap
from deblur_deploy.infer.restore import Restorer
from deblur_deploy.infer.settings import VideoConfig

Tick = Callable[[int, int | None], None]


@dataclass(frozen=True)
class RestoredFilm:
    """The outcome of a film.

    Args:
        frames: Pictures restored.
        notes: What could not be kept, or was changed, one sentence each.
        ended_early: How the film ended before its declared end, or None.
    """

    frames: int
    notes: tuple[str, ...] = ()
    ended_early: str | None = None


def restore_video(source: Path, target: Path, restorer: Restorer, config: VideoConfig, tick: Tick) -> RestoredFilm:
    """Restore the film of a file and copy everything else.

    Args:
        source: Anything that FFmpeg reads.
        target: The result, in the container of the film. It appears whole or not at all.
        restorer: The network.
        config: Codec, quality and the part of the film.
        tick: Called after every picture with the number restored, and the total where the file declares it.

    Raises:
        ArtifactError: The file is not a film, is damaged, or its container cannot hold what is in it.
        ConfigError: What was asked for does not go together, the film is interlaced, or nothing keeps its transparency.
        DeblurDeployError: The network failed.
    """
    try:
        facts, surveyed = read_facts(source), survey(source)
        if facts.interlaced and not config.deinterlace:
            raise refuse_interlaced(source)
        with whole_file(target) as partial, opened(source) as reader, quiet_encoders():
            film = open_film(source, reader, facts, surveyed, config)
            restorer.begin_film()
            cuts, run = restorer.cuts, _Run(film)
            with FilmWriter(film, partial) as writer:
                run.run(writer, restorer, tick)
            notes = [*writer.notes, *run.notes(), *restorer.cut_notes(cuts)]
            if partial.is_file():
                notes += losses(source, facts, partial, writer.target.colors)
    except av.error.FFmpegError as err:
        raise ArtifactError(
            f"{source} cannot be restored: {reason(err)}", hint="check that it plays to the end"
        ) from err
    ended_early = None if film.clip.end is not None else surveyed.shortfall(run.count)
    return RestoredFilm(run.count, tuple(notes), ended_early)


@dataclass(frozen=True)
class _Picture:
    """A picture on its way, with its time and duration in the survey's units."""

    frame: Any
    time: int
    duration: int
    given: NDArray[Any]
    restored: NDArray[Any] | None = None


class _Run:
    """One film from an open input to an open output."""

    def __init__(self, film: Film) -> None:
        self._film, self._facts, self._survey, self._clip = film, film.facts, film.survey, film.clip
        self._decoder = decoder_of(film.stream)
        self._deinterlacer = Deinterlacer(film.stream) if film.config.deinterlace else None
        self.count = self._decoded = self._shown = self._damaged = self._moved = 0
        self._last: int | None = None

    def notes(self) -> list[str]:
        """Problems that did not stop the run."""
        notes = []
        if self._damaged:
            notes.append(f"{self._damaged} parts of the film are damaged and gave no picture")
        if self._moved:
            notes.append(f"{self._moved} pictures had times before those of others and were moved behind them")
        return notes

    def run(self, writer: FilmWriter, restorer: Restorer, tick: Tick) -> None:
        """Restore every picture of the part that is asked for."""
        bridge = ColorBridge(self._facts, writer.target)
        shift = self._clip.start

        def restore(item: Any) -> Any:
            if not isinstance(item, _Picture):
                return item
            restored = item.given.copy()
            restorer.restore_in_place(restored)
            self.count += 1
            tick(self.count, None if self._clip.is_part else len(self._survey.times) or None)
            return _Picture(item.frame, item.time, item.duration, item.given, restored)

        def write(item: Any) -> None:
            if isinstance(item, _Picture) and item.restored is not None:
                frame = bridge.to_film(item.frame, item.given, item.restored)
                writer.write(frame, item.time - round(shift / self._survey.unit), item.duration)
            else:
                writer.copy(item, shift)

        overlap(self._items(bridge, writer.copies.streams), restore, write)
        if not self.count:
            raise ConfigError(
                f"no picture of {self._film.path} lies in this part", hint="check --in-point and --out-point"
            )
        writer.finish()

    def _items(self, bridge: ColorBridge, copied: list[Any]) -> Iterator[Any]:
        """Pictures of the film, and packets of what is copied; in the reading thread."""
        try:
            for packet in self._film.reader.demux([self._film.stream, *copied]):
                if packet.stream.index == self._film.stream.index:
                    for frame in self._frames(packet):
                        if (picture := self._picture(frame, bridge)) is not None:
                            yield picture
                        elif self._is_over():
                            return
                elif packet.size and self._is_copied(packet):
                    yield packet
        except (av.error.FFmpegError, ValueError):
            if not self._decoded:
                raise
            # The survey met the same, and says so.

    def _is_over(self) -> bool:
        return self._last is not None and self._clip.is_over(self._last * self._survey.unit)

    def _is_copied(self, packet: Any) -> bool:
        if not self._clip.is_part:
            return True
        time = packet.pts if packet.pts is not None else packet.dts
        return time is not None and self._clip.holds(time * packet.time_base)

    def _frames(self, packet: Any) -> Iterator[Any]:
        """Decoded and deinterlaced; damaged parts are counted, except before the first picture."""
        try:
            frames = self._decoder.decode(packet if packet.size else None)
        except av.error.InvalidDataError:
            self._damaged += self._decoded > 0
            frames = []
        for frame in frames:
            self._decoded += 1
            if frame.interlaced_frame and self._deinterlacer is None:
                raise refuse_interlaced(self._film.path)
            yield from (frame,) if self._deinterlacer is None else self._deinterlacer.frames(frame)
        if not packet.size and self._deinterlacer is not None:
            yield from self._deinterlacer.frames(None)

    def _picture(self, frame: Any, bridge: ColorBridge) -> _Picture | None:
        """A frame with its time, or None where it lies outside of the part."""
        facts = self._facts
        if (frame.width, frame.height) != (facts.width, facts.height):
            raise ArtifactError(
                f"the video changes its size from {facts.width}x{facts.height} to {frame.width}x{frame.height}",
                hint="cut it into one file for each size",
            )
        time = self._time_of(frame)
        if not self._clip.holds(time * self._survey.unit):
            return None
        return _Picture(frame, time, self._survey.duration_after(time), bridge.to_rgb(frame))

    def _time_of(self, frame: Any) -> int:
        """When a frame is shown: its own time, or that of its place in the order; never before the last frame."""
        surveyed, index, time = self._survey, self._shown, None
        self._shown += 1
        if surveyed.by_order:
            time = surveyed.times[index] if index < len(surveyed.times) else None
        elif frame.pts is not None:
            time = round(frame.pts * (frame.time_base or self._film.stream.time_base) / surveyed.unit)
        if time is None:
            time = 0 if self._last is None else self._last + surveyed.step
        elif self._last is not None and time <= self._last:
            self._moved += 1
            time = self._last + 1
        self._last = time
        return time
