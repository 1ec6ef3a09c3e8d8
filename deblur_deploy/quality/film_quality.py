"""Quality of restored films: PSNR of their frames, and how much they flicker.

A frame's flicker is the mean difference between it and the frame before, moved along the motion of the sharp frames,
where that motion is trusted. Sharp frames have some, too: light changes, motion is found to a fraction of a pixel. So
it is told over that of the sharp frames: 1 is as even as the sharp film.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import from_batch, to_batch
from deblur_deploy.data.optical_flow import Motion, find_motion, quarter_gray
from deblur_deploy.data.pairs import Image8, Pair
from deblur_deploy.network.steps import FLOW_STRIDE
from deblur_deploy.quality.decibels import mean_psnr_db
from deblur_deploy.quality.metrics import psnr_db
from deblur_deploy.runtime.abilities import FollowsFilm
from deblur_deploy.runtime.runner import infer_finite, open_with
from deblur_deploy.runtime.runtimes import OpenOptions


@dataclass(frozen=True)
class FilmScore:
    """Quality of films as they were restored in one way.

    Args:
        way: ``blurred`` for the films as they were, ``frame by frame``, or ``temporal``.
        psnr_db: Mean PSNR of the frames in dB.
        flicker: Mean flicker over that of the sharp frames; None where these do not move, or nothing is trusted.
        cuts: How often a film was found to be cut.
    """

    way: str
    psnr_db: float
    flicker: float | None
    cuts: int = 0


@dataclass(frozen=True)
class FilmReport:
    """Quality of a temporal network on films.

    Args:
        artifact: Directory of the artifact.
        runtime: What it ran on.
        films: How many films.
        frames: How many frames they have together.
        scores: One for each way.
    """

    artifact: str
    runtime: str
    films: int
    frames: int
    scores: tuple[FilmScore, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return asdict(self)


def evaluate_films(
    artifact: Artifact,
    films: Sequence[Sequence[Pair]],
    runtime: str | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> FilmReport:
    """Restore films frame by frame and with the frame before, and compare both with the sharp films.

    Args:
        artifact: A temporal network.
        films: Consecutive frames of at least one film each.
        runtime: One of ``RUNTIMES``, or None for the preferred one.
        on_frame: Called after each restored frame with how many are done, twice the number of frames at the end.

    Raises:
        ConfigError: There are no films, one has a single frame, or frames of several sizes; or the network is not
            temporal.
        VerificationError: The network gives no numbers.
    """
    _check(films)
    total = sum(len(pairs) for pairs in films)

    def later(frame: int) -> None:
        if on_frame:
            on_frame(total + frame)

    single, runtime = film_score(artifact, films, runtime, temporal=False, on_frame=on_frame)
    temporal, runtime = film_score(artifact, films, runtime, temporal=True, on_frame=later)
    scores = _blurred_score(films), single, temporal
    return FilmReport(str(artifact.directory), runtime, len(films), total, scores)


def film_score(
    artifact: Artifact,
    films: Sequence[Sequence[Pair]],
    runtime: str | None,
    *,
    temporal: bool,
    on_frame: Callable[[int], None] | None = None,
) -> tuple[FilmScore, str]:
    """Restore films in one way.

    Args:
        artifact: Any network, frame by frame; with ``temporal`` a temporal one.
        films: As for :func:`evaluate_films`.
        runtime: Likewise.
        temporal: Whether the network is given the frame before.
        on_frame: Called after each frame with how many are done.

    Returns:
        The score, and the runtime.

    Raises:
        DeblurDeployError: As for :func:`evaluate_films`.
    """
    measure, done = _Measure("temporal" if temporal else "frame by frame"), 0
    with open_with(artifact, runtime, OpenOptions(temporal=temporal)) as runner:
        for pairs in films:
            measure.begin_film()
            if isinstance(runner, FollowsFilm):
                runner.begin_film()
            for pair in pairs:
                measure.add(from_batch(infer_finite(runner, to_batch(pair.blurred), pair.name)), pair.sharp)
                done += 1
                if on_frame:
                    on_frame(done)
        if isinstance(runner, FollowsFilm):
            measure.cuts = runner.cuts
        return measure.score(), runner.name


def _blurred_score(films: Sequence[Sequence[Pair]]) -> FilmScore:
    measure = _Measure("blurred")
    for pairs in films:
        measure.begin_film()
        for pair in pairs:
            measure.add(pair.blurred, pair.sharp)
    return measure.score()


def _check(films: Sequence[Sequence[Pair]]) -> None:
    if not films:
        raise ConfigError("there are no films to evaluate on", hint="give a folder with films in blur/ and sharp/")
    for pairs in films:
        if len(pairs) < 2:
            raise ConfigError(
                f"the film of {pairs[0].name} has one frame", hint="leave out --temporal, or give consecutive frames"
            )
        sizes = {pair.sharp.shape for pair in pairs}
        if len(sizes) > 1:
            raise ConfigError(f"the film of {pairs[0].name} has frames of several sizes", hint="cut them to one size")


class _Measure:
    """PSNR and flicker of films restored in one way."""

    def __init__(self, way: str) -> None:
        self._way, self.cuts = way, 0
        self._psnr: list[float] = []
        self._changes: list[tuple[float, float]] = []
        self._before: tuple[Image8, Image8] | None = None

    def begin_film(self) -> None:
        """The next frame follows none."""
        self._before = None

    def add(self, restored: Image8, sharp: Image8) -> None:
        """The next frame of a film."""
        self._psnr.append(psnr_db(restored, sharp))
        if self._before is not None:
            motion = find_motion(quarter_gray(sharp), quarter_gray(self._before[1]))
            if motion.trust.any() and not motion.is_cut:
                change, wanted = (
                    flicker(now, then, motion) for now, then in zip((restored, sharp), self._before, strict=True)
                )
                self._changes.append((change, wanted))
        self._before = restored, sharp

    def score(self) -> FilmScore:
        """What was found."""
        changes = np.array(self._changes).reshape(-1, 2).mean(axis=0) if self._changes else np.zeros(2)
        ratio = float(changes[0] / changes[1]) if changes[1] else None
        return FilmScore(self._way, mean_psnr_db(self._psnr), ratio, self.cuts)


def flicker(now: Image8, before: Image8, motion: Motion) -> float:
    """Mean difference between a frame and the moved frame before, in codes of 0 to 255, where the motion is trusted.

    Args:
        now: (H, W, 3) uint8.
        before: Likewise.
        motion: From ``now`` to ``before``, of a quarter of the size.
    """
    height, width = now.shape[:2]
    whole = motion.flow.shape[2] * FLOW_STRIDE, motion.flow.shape[1] * FLOW_STRIDE
    flow = [
        cv2.resize(plane, whole, interpolation=cv2.INTER_LINEAR)[:height, :width] for plane in motion.flow * FLOW_STRIDE
    ]
    trust = cv2.resize(motion.trust[0], whole, interpolation=cv2.INTER_NEAREST)[:height, :width] > 0
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved: NDArray[np.float32] = cv2.remap(
        before.astype(np.float32), x + flow[0], y + flow[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return float(np.abs(now - moved)[trust].mean())
