"""Whether two artifacts of one network give the same pictures, and whether their difference grows on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deblur_deploy.config import precision_of_stage
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import ImageSpec, Resolution, to_batch, with_noise
from deblur_deploy.data.pairs import Image8, crop_center
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.network.drift import Drift, measure_drift
from deblur_deploy.network.srn import SRN
from deblur_deploy.runtime.runner import Batch, Runner, fixed_size, open_runner


@dataclass(frozen=True)
class Tolerances:
    """How far two artifacts may be apart; None is not checked.

    Args:
        max_abs: Largest difference of any value, where black is 0 and white is 1.
        mean_abs: Mean difference.
        psnr_db: Least PSNR between the two.
    """

    max_abs: float | None = None
    mean_abs: float | None = None
    psnr_db: float | None = None


FLOAT_TOLERANCES = Tolerances(max_abs=1e-3)
"""Between two float32 forms of a network: a quarter of an 8-bit step, in the worst pixel."""

REDUCED_TOLERANCES = Tolerances(psnr_db=40.0)
"""Where one side computes in fewer bits. One value that rounds the other way in a first layer may move a pixel by
more than any bound worth stating, so the mean square is what counts."""


NOISE_IMAGES, NOISE_MARGIN_DB = 4, 6.0
"""On how many images the effect of noise is measured, and how many dB worse two quantized forms of a network may be:
both have codes that fall to the other side."""

DRIFT_IMAGES, DRIFT_SIDE = 2, 256
"""Images that drift is measured on, and the longest side of the piece that is cut from their middle: thirty
applications to a whole photograph take minutes."""


@dataclass(frozen=True)
class VerifyReport:
    """How far two artifacts are apart, over all values of all images; outputs are neither rounded nor clipped.

    Where one of the two gives camera frames, which are both, the other is clipped too.

    Args:
        max_abs: Largest absolute difference, where black is 0 and white is 1.
        mean_abs: Mean absolute difference.
        psnr_db: ``10 log10(1 / MSE)`` between the two in dB; infinity where they are equal.
        passed: Whether all of this is within the tolerances, or the two are no further apart than rounding noise moves
            one of them.
        noise_psnr_db: PSNR between what a quantized one of the two gives for a picture, and for the picture with
            :func:`with_noise`; None where it was not needed.
    """

    max_abs: float
    mean_abs: float
    psnr_db: float
    passed: bool
    noise_psnr_db: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``; values that are not finite or not known are null."""
        figures = {
            "max_abs": self.max_abs,
            "mean_abs": self.mean_abs,
            "psnr_db": self.psnr_db,
            "noise_psnr_db": self.noise_psnr_db,
        }
        known = {key: value if value is not None and math.isfinite(value) else None for key, value in figures.items()}
        return known | {"passed": self.passed}


def verify(
    a: Artifact,
    b: Artifact,
    images: Sequence[Image8],
    tolerances: Tolerances | None = None,
    runtimes: tuple[str | None, str | None] = (None, None),
) -> VerifyReport:
    """Run two artifacts on the same images and compare the results.

    Args:
        a: One artifact, such as the checkpoint.
        b: The other, such as the ONNX file made from it.
        images: (H, W, 3) uint8; cropped from the centre where an artifact takes one size only.
        tolerances: What is allowed; by default what the precisions of the two call for.
        runtimes: What to run each on; None is the preferred runtime.

    Raises:
        ConfigError: There are no images, or the two take different sizes.
        ArtifactError: An image is smaller than the size that an artifact takes.
        DeblurDeployError: One of them cannot be run here.
    """
    if not images:
        raise ConfigError("there are no images to compare on", hint="give a folder with images")
    size = _common_size(a.image, b.image)
    frames = "uint8" in (a.image.dtype, b.image.dtype)
    worst, total_abs, total_square, count, noise_db = 0.0, 0.0, 0.0, 0, None
    batches: list[Batch] = []
    with open_runner(a, runtimes[0]) as runner_a, open_runner(b, runtimes[1]) as runner_b:
        # An engine for several sizes has one in its runner only: there it is the largest.
        size = size or _common_size(runner_a.image, runner_b.image)
        for number, image in enumerate(images, start=1):
            cropped = crop_center(image, size, f"image {number}") if size else image
            batch = to_batch(cropped)
            batches.append(batch)
            restored_a, restored_b = runner_a.infer(batch).astype(np.float64), runner_b.infer(batch)
            if frames:
                restored_a, restored_b = np.clip(restored_a, 0, 1), np.clip(restored_b, 0, 1)
            difference = np.abs(restored_a - restored_b)
            # np.maximum, unlike max(), lets a NaN through.
            worst = float(np.maximum(worst, difference.max()))
            total_abs += float(difference.sum())
            total_square += float(np.square(difference).sum())
            count += difference.size
        psnr_db = _psnr(total_square, count)
        passed = _within(tolerances or default_tolerances(a, b), worst, total_abs / count, psnr_db)
        quantized = [runner for runner, side in ((runner_a, a), (runner_b, b)) if side.network.quantization]
        if not passed and tolerances is None and quantized and not frames and math.isfinite(worst):
            noise_db = _noise_db(quantized[0], batches)
            passed = psnr_db >= noise_db - NOISE_MARGIN_DB
    return VerifyReport(worst, total_abs / count, psnr_db, passed, noise_db)


def _noise_db(runner: Runner, batches: Sequence[Batch]) -> float:
    """PSNR between a network's results for pictures and for the same pictures with a little noise."""
    rng, total, count = np.random.default_rng(0), 0.0, 0
    for batch in batches[:NOISE_IMAGES]:
        difference = runner.infer(batch).astype(np.float64) - runner.infer(with_noise(batch, rng))
        total, count = total + float(np.square(difference).sum()), count + difference.size
    return _psnr(total, count)


def _psnr(total_square: float, count: int) -> float:
    mean_square = total_square / count
    return math.inf if mean_square == 0 else -10 * math.log10(mean_square)


def drift_between(a: Artifact, b: Artifact, images: Sequence[Image8]) -> Drift | None:
    """How the difference of two artifacts grows through the recurrence, on pieces of the first images.

    Args:
        a: One artifact, such as the float checkpoint.
        b: The other, such as the quantized checkpoint.
        images: (H, W, 3) uint8.

    Returns:
        None where one of the two is not a recurrent checkpoint: exported graphs give their last estimate only.
    """
    if not a.kind == b.kind == "checkpoint":
        return None
    first, second = load_network(a), load_network(b)
    if not (isinstance(first, SRN) and isinstance(second, SRN)):
        return None
    pieces = [crop_center(image, _at_most(image, DRIFT_SIDE), "image") for image in images[:DRIFT_IMAGES]]
    return measure_drift(first.eval(), second.eval(), [to_batch(piece) for piece in pieces])


def default_tolerances(a: Artifact, b: Artifact) -> Tolerances:
    """Tolerances for two artifacts: close where both compute in float32, similar where one does not."""
    reduced = any(
        artifact.network.quantization
        or artifact.kind == "engine"
        or precision_of_stage(artifact.stage)
        or artifact.image.dtype == "uint8"
        for artifact in (a, b)
    )
    return REDUCED_TOLERANCES if reduced else FLOAT_TOLERANCES


def _at_most(image: Image8, side: int) -> Resolution:
    height, width = image.shape[:2]
    return Resolution(min(width, side), min(height, side))


def _common_size(a: ImageSpec, b: ImageSpec) -> Resolution | None:
    """The size that both take, or None where both take any."""
    sizes = {size for size in (fixed_size(a), fixed_size(b)) if size}
    if len(sizes) > 1:
        raise ConfigError(
            f"one artifact takes {' and the other '.join(sorted(map(str, sizes)))}",
            hint="export both with the same --res",
        )
    return next(iter(sizes), None)


def _within(tolerances: Tolerances, max_abs: float, mean_abs: float, psnr_db: float) -> bool:
    """Whether every bound holds; a NaN holds no bound."""
    if not math.isfinite(max_abs):
        return False
    return (
        (tolerances.max_abs is None or max_abs <= tolerances.max_abs)
        and (tolerances.mean_abs is None or mean_abs <= tolerances.mean_abs)
        and (tolerances.psnr_db is None or psnr_db >= tolerances.psnr_db)
    )
