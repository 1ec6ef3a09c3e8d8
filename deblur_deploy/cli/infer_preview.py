"""``infer --preview``: the middle of a few pictures before and after, and the first seconds of films."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.infer.jobs import Job
from deblur_deploy.infer.picture import Picture, Tones
from deblur_deploy.infer.read import decoding_bytes, read_picture
from deblur_deploy.infer.restore import Restorer
from deblur_deploy.infer.settings import InferConfig, VideoConfig
from deblur_deploy.infer.tones import restore_picture, to_unit
from deblur_deploy.report.photographs import save_before_after
from deblur_deploy.runtime.runner import Runner

FOLDER = "preview"
_PICTURES, _SIDE, _SECONDS = 4, 512, 2


def write_previews(runner: Runner, jobs: Sequence[Job], out: Path, config: InferConfig) -> list[Path]:
    """Write a sheet for a few pictures that lie evenly in a run, and the first seconds of a few films.

    Args:
        runner: The network.
        jobs: The run.
        out: Its folder for results; sheets go to ``preview`` in it.
        config: Memory, strength and tiles.

    Returns:
        The sheets and films.

    Raises:
        ConfigError: There is neither picture nor film among the files.
        DeblurDeployError: One cannot be read, or the network gave up.
    """
    pictures = _some([job for job in jobs if job.kind == "picture"])
    films = _some([job for job in jobs if job.kind == "video"])
    if not pictures and not films:
        raise ConfigError("there is no picture or film to preview", hint="name some, or leave out --preview")
    restorer = Restorer(runner, config.restore)
    sheets = []
    for job in pictures:
        restorer.require(decoding_bytes(job.source), str(job.source))
        part = _middle(read_picture(job.source, cut_off=config.keep_going))
        before = _as_rgb(part)
        restore_picture(restorer, part, 0)
        name = job.name.replace("/", "-")
        save_before_after(out / FOLDER, name, before, _as_rgb(part))
        sheets.append(out / FOLDER / f"{name}.png")
    return sheets + [_first_seconds(restorer, job, out, config.video) for job in films]


def _some(jobs: list[Job]) -> list[Job]:
    """A few that lie evenly."""
    places = np.linspace(0, len(jobs) - 1, _PICTURES if jobs else 0)
    return [jobs[index] for index in sorted({round(place) for place in places})]


def _first_seconds(restorer: Restorer, job: Job, out: Path, config: VideoConfig) -> Path:
    from deblur_deploy.infer.video import restore_video

    target = out / FOLDER / job.name.replace("/", "-")
    part = replace(config, end=config.end or config.start + _SECONDS)
    restore_video(job.source, target, restorer, part, lambda count, of: None)
    return target


def _middle(picture: Picture) -> Picture:
    height, width = picture.samples.shape[:2]
    top, left = max(0, height - _SIDE) // 2, max(0, width - _SIDE) // 2
    return replace(picture, samples=picture.samples[top : top + _SIDE, left : left + _SIDE].copy())


def _as_rgb(picture: Picture) -> NDArray[np.uint8]:
    """What the network sees, as (H, W, 3) uint8."""
    unit = to_unit(picture.samples[:, :, : picture.colors], picture.tones or Tones(0, picture.white))
    codes = np.rint(unit * 255).astype(np.uint8)
    return np.repeat(codes, 3, axis=2) if codes.shape[2] == 1 else codes
