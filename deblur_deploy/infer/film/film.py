"""An open film with everything that is known about it, and the part of it that is restored."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from deblur_deploy.infer.film.source import FilmFacts, film_stream
from deblur_deploy.infer.film.survey import Survey
from deblur_deploy.infer.settings import VideoConfig


@dataclass(frozen=True)
class Clip:
    """A part of a film.

    Args:
        origin: Time of the film's first picture, in seconds.
        start: Where the part begins, in seconds after that.
        end: Where it ends, or None for the end of the film.
    """

    origin: Fraction
    start: Fraction = Fraction(0)
    end: Fraction | None = None

    @property
    def is_part(self) -> bool:
        """Whether something is left out."""
        return self.start > 0 or self.end is not None

    def holds(self, time: Fraction) -> bool:
        """Whether a time, in seconds, lies in the part."""
        after = time - self.origin
        return not self.is_part or (after >= self.start and (self.end is None or after < self.end))

    def is_over(self, time: Fraction) -> bool:
        """Whether a time lies behind the part."""
        return self.end is not None and time - self.origin >= self.end

    def chapters(self, chapters: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Chapters of the part, at their times in it."""
        if not self.is_part:
            return chapters
        kept = []
        for chapter in chapters:
            unit = chapter["time_base"]
            start, end = (round(self._inside(chapter[side] * unit) / unit) for side in ("start", "end"))
            if end > start:
                kept.append(chapter | {"start": start, "end": end})
        return kept

    def _inside(self, time: Fraction) -> Fraction:
        after = max(time - self.start, Fraction(0))
        return after if self.end is None else min(after, self.end - self.start)


@dataclass(frozen=True)
class Film:
    """A film and how it is to be restored.

    Args:
        path: The file.
        reader: The same, opened.
        stream: The stream that is restored.
        facts: What its first picture says.
        survey: What its packets say.
        config: What the user asks for.
        clip: The part that is restored.
    """

    path: Path
    reader: Any
    stream: Any
    facts: FilmFacts
    survey: Survey
    config: VideoConfig
    clip: Clip


def open_film(path: Path, reader: Any, facts: FilmFacts, surveyed: Survey, config: VideoConfig) -> Film:
    """Put together what is known of an open film."""
    origin = surveyed.times[0] * surveyed.unit if surveyed.times else Fraction(0)
    clip = Clip(origin, config.start, config.end)
    return Film(path, reader, film_stream(reader, path), facts, surveyed, config, clip)
