"""A first look at the packets of a film, before any is decoded: their times, and whether all are there."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av

from deblur_deploy.infer.film.cut_off import is_cut_off
from deblur_deploy.infer.film.source import film_stream, is_still, opened, reason

_DEFAULT_RATE = Fraction(25)
_FASTEST = 1000
"""Frames per second above which a rate is a unit of time in disguise."""


@dataclass(frozen=True)
class Survey:
    """What the packets say.

    Args:
        times: Times of the pictures, sorted, in units.
        unit: Length of a unit in seconds: that of the stream, or of a picture where it has no times.
        by_order: Whether pictures get these times in the order in which they are shown, because theirs are those at
            which they are decoded.
        tick: The greatest common divisor of the times between pictures, in seconds.
        step: Usual time between two pictures in units, at least 1.
        last: How long the last picture is shown, in units.
        rate: Pictures per second.
        broken: How the file ends too early, or None.
        expected: How many pictures there would be, as far as that is known.
        covers: Files of covers, by index of their streams.
    """

    times: tuple[int, ...]
    unit: Fraction
    by_order: bool
    tick: Fraction
    step: int
    last: int
    rate: Fraction
    broken: str | None = None
    expected: int | None = None
    covers: dict[int, bytes] = field(default_factory=dict)

    def duration_after(self, time: int) -> int:
        """How long the picture of a time is shown: until the next, or as the last one is."""
        index = bisect_right(self.times, time)
        return self.times[index] - time if index < len(self.times) else self.last

    def shortfall(self, frames: int) -> str | None:
        """How a film that was restored to this point ended early, for its line of the report; None for a whole one."""
        if self.broken is None:
            return None
        known = self.expected is not None and self.expected > frames
        return f"ends early: {self.broken}, after {frames}{f' of {self.expected}' if known else ''} frames"


def survey(path: Path) -> Survey:
    """Read all packets once.

    Raises:
        ArtifactError: The file is not a film.
    """
    with opened(path) as reader:
        stream = film_stream(reader, path)
        times: list[int] = []
        durations: dict[int, int] = {}
        covers: dict[int, bytes] = {}
        untimed, corrupt, failure = 0, False, None
        decoding_times = reader.format.name == "avi"
        try:
            for packet in reader.demux():
                if packet.stream.type == "video" and is_still(packet.stream) and packet.size:
                    covers.setdefault(packet.stream.index, bytes(packet))
                if packet.stream.index != stream.index or not packet.size:
                    continue
                time = packet.dts if decoding_times or packet.pts is None else packet.pts
                corrupt = packet.is_corrupt
                if time is None:
                    untimed += 1
                elif not packet.is_discard:
                    times.append(time)
                    durations[time] = packet.duration or 0
        except (av.error.FFmpegError, ValueError) as err:
            failure = f"reading fails ({reason(err)})"
        broken = failure or ("bytes are missing at its end" if corrupt or is_cut_off(path) else None)
        if untimed:
            times = list(range(untimed + len(times)))
        times.sort()
        steps = Counter(after - before for before, after in pairwise(times) if after > before)
        tick = math.gcd(*steps) if steps else 1
        step = _usual(steps, stream) if not untimed else 1
        rate = _rate_of(stream, step if decoding_times and not untimed else None)
        unit = 1 / rate if untimed else stream.time_base
        return Survey(
            tuple(times),
            unit,
            decoding_times or bool(untimed),
            tick * unit,
            step,
            step if decoding_times or untimed else _last(times, durations, stream) or step,
            rate,
            broken,
            None if decoding_times else _expected(stream, rate),  # FFmpeg shortens the header's number of a cut AVI
            covers,
        )


def _usual(steps: Counter[int], stream: Any) -> int:
    if steps:
        return steps.most_common(1)[0][0]
    return max(1, round(1 / (Fraction(stream.guessed_rate or _DEFAULT_RATE) * Fraction(stream.time_base))))


def _last(times: list[int], durations: dict[int, int], stream: Any) -> int:
    """The last picture's duration: of QuickTime what is left of the track's, else that of its packet; 0 if unknown."""
    if not times:
        return 0
    if "mov" in stream.container.format.name and stream.duration:
        left = times[0] + int(stream.duration) - times[-1]
        if left > 0:
            return left
    return durations[times[-1]]


def _rate_of(stream: Any, step: int | None) -> Fraction:
    if step is not None:
        return Fraction(1 / (step * stream.time_base))
    rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    return next((Fraction(rate) for rate in rates if rate and rate <= _FASTEST), _DEFAULT_RATE)


def _expected(stream: Any, rate: Fraction) -> int | None:
    """How many pictures the header promises."""
    seconds = _seconds(stream.metadata.get("DURATION", ""))
    if seconds is not None:
        return round(seconds * rate)
    if stream.duration:
        return round(Fraction(stream.duration) * Fraction(stream.time_base) * rate)
    return int(stream.frames) or None


def _seconds(text: str) -> Fraction | None:
    """Matroska's duration of a track, such as ``00:00:02.000000000``."""
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None
