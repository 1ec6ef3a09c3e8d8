"""An open film with everything that is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from deblur_deploy.infer.film.clip import Clip
from deblur_deploy.infer.film.source import Facts, film_stream
from deblur_deploy.infer.film.survey import Survey
from deblur_deploy.infer.settings import VideoConfig


@dataclass(frozen=True)
class Film:
    """A film and what is to become of it.

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
    facts: Facts
    survey: Survey
    config: VideoConfig
    clip: Clip


def open_film(path: Path, reader: Any, facts: Facts, surveyed: Survey, config: VideoConfig) -> Film:
    """Put together what is known of an open film."""
    origin = surveyed.times[0] * surveyed.unit if surveyed.times else Fraction(0)
    clip = Clip(origin, config.start, config.end)
    return Film(path, reader, film_stream(reader, path), facts, surveyed, config, clip)
