"""A film in a report: frames in a row, as they were, restored frame by frame, and with the frame before."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.images import Resolution, from_batch, to_batch
from deblur_deploy.data.pairs import crop_pair
from deblur_deploy.quality.metrics import psnr_db
from deblur_deploy.report.photographs import Photograph, View
from deblur_deploy.report.stages import ReportStage
from deblur_deploy.runtime.abilities import FollowsFilm
from deblur_deploy.runtime.runner import Runner, fixed_size, open_with, takes_film
from deblur_deploy.runtime.runtimes import OpenOptions

_FILMS, _FRAMES, _FRAME_WIDTH = 2, 3, 320
"""Films shown, frames of each, and pixels of a frame's width: three make a picture as wide as the page."""


def temporal_artifact(stages: Sequence[ReportStage]) -> Artifact | None:
    """The last checkpoint or file among some stages that takes the frame before."""
    for artifact in (stage.artifact for stage in reversed(stages) if stage.artifact.kind != "engine"):
        if takes_film(artifact) or (artifact.kind == "checkpoint" and artifact.network.config.get("temporal")):
            return artifact
    return None


def film_strips(artifact: Artifact, folder: Path | None) -> Iterator[Photograph]:
    """The last frames of some films in a row, in every version.

    Args:
        artifact: A temporal network.
        folder: As for :func:`~deblur_deploy.data.films.load_films`.

    Raises:
        DeblurDeployError: There are no films of the network's size, or it cannot be run here.
    """
    from deblur_deploy.data.films import load_films  # it needs OpenCV, and other reports do not

    size = fixed_size(artifact.image)
    with ExitStack() as stack:
        runners = {
            way: stack.enter_context(open_with(artifact, None, OpenOptions(temporal=temporal)))
            for way, temporal in (("frame by frame", False), ("temporal", True))
        }
        for pairs in load_films(folder)[:_FILMS]:
            frames = [crop_pair(pair, size) for pair in pairs] if size else pairs
            blurred, sharp = [frame.blurred for frame in frames], [frame.sharp for frame in frames]
            versions = {"blurred": blurred} | {way: _restored(runner, blurred) for way, runner in runners.items()}
            views = [View(way, _strip(pictures), _mean_db(pictures, sharp)) for way, pictures in versions.items()]
            name = f"film of {pairs[0].name.partition('#')[0]}, last {min(_FRAMES, len(frames))} frames"
            yield Photograph(name, (*views, View("sharp", _strip(sharp), None)))


def _restored(runner: Runner, film: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    if isinstance(runner, FollowsFilm):
        runner.begin_film()
    return [from_batch(runner.infer(to_batch(frame))) for frame in film]


def _mean_db(pictures: Sequence[NDArray[np.uint8]], sharp: Sequence[NDArray[np.uint8]]) -> float:
    return statistics.fmean(psnr_db(*pair) for pair in list(zip(pictures, sharp, strict=True))[-_FRAMES:])


def _strip(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The middles of the last frames, side by side."""
    last = pictures[-_FRAMES:]
    height, width = last[0].shape[:2]
    shown = Resolution(min(width, _FRAME_WIDTH), height)
    left = (width - shown.width) // 2
    return np.concatenate([picture[:, left : left + shown.width] for picture in last], axis=1)
