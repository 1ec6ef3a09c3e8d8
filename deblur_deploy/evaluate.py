"""Picture quality of an artifact: PSNR and SSIM of what it restores, through any runner."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deblur_deploy.artifact import Artifact
from deblur_deploy.data.pairs import Image8, Pair, crop_pairs
from deblur_deploy.errors import ConfigError
from deblur_deploy.images import ImageSpec, from_batch, to_batch
from deblur_deploy.metrics import psnr_db, ssim_matlab, ssim_skimage
from deblur_deploy.runtime.runner import Runner, fixed_size, open_runner

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ImageScore:
    """Quality of one restored photograph against the sharp one, on rounded uint8 RGB.

    Args:
        name: File name of the photograph.
        psnr_db: PSNR of the restored photograph in dB.
        psnr_blurred_db: PSNR of the blurred photograph that went in.
        ssim_matlab: SSIM as MATLAB computes it on RGB (see ``metrics.py``).
        ssim_skimage: SSIM as scikit-image computes it.
    """

    name: str
    psnr_db: float
    psnr_blurred_db: float
    ssim_matlab: float
    ssim_skimage: float


@dataclass(frozen=True)
class EvalReport:
    """Quality over a set of pairs; means are means of the per-image values, as papers have them.

    Args:
        artifact: Directory of the artifact.
        runtime: What it ran on.
        per_image: One score per pair.
    """

    artifact: str
    runtime: str
    per_image: tuple[ImageScore, ...]

    @property
    def psnr_db(self) -> float:
        """Mean PSNR of the restored photographs in dB."""
        return statistics.fmean(score.psnr_db for score in self.per_image)

    @property
    def psnr_blurred_db(self) -> float:
        """Mean PSNR of the blurred photographs in dB."""
        return statistics.fmean(score.psnr_blurred_db for score in self.per_image)

    @property
    def ssim_matlab(self) -> float:
        """Mean SSIM of the restored photographs, MATLAB's convention."""
        return statistics.fmean(score.ssim_matlab for score in self.per_image)

    @property
    def ssim_skimage(self) -> float:
        """Mean SSIM of the restored photographs, scikit-image's convention."""
        return statistics.fmean(score.ssim_skimage for score in self.per_image)

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``. The PSNR of equal images, which is infinite, is null."""
        keys = ("psnr_db", "psnr_blurred_db", "ssim_matlab", "ssim_skimage")
        return {
            "artifact": self.artifact,
            "images": len(self.per_image),
            **{key: _finite(getattr(self, key)) for key in keys},
            "per_image": [
                {"name": score.name, **{key: _finite(getattr(score, key)) for key in keys}} for score in self.per_image
            ],
        }


def evaluate(artifact: Artifact, pairs: Sequence[Pair], runtime: str | None = None) -> EvalReport:
    """Restore every blurred photograph and compare it with the sharp one.

    Args:
        artifact: What to evaluate. Where it takes one size only, pairs are cropped to that size from the centre.
        pairs: At least one pair.
        runtime: One of ``RUNTIMES``, or None for the preferred one.

    Raises:
        ConfigError: There are no pairs, or the runtime does not fit.
        ArtifactError: A photograph is smaller than the artifact's size.
        VerificationError: A photograph is too small for SSIM.
        DeblurDeployError: The artifact cannot be run here.
    """
    with open_runner(artifact, runtime) as runner:
        scores = tuple(_score(pair, restored) for pair, restored in _restored(runner, pairs))
        return EvalReport(str(artifact.directory), runner.name, scores)


def evaluate_network(net: nn.Module, pairs: Sequence[Pair]) -> float:
    """Mean PSNR in dB of a network in memory, for stages that watch their budget.

    Args:
        net: Maps (1, 3, H, W) float32 in [0, 1] to the same shape. It is left in the mode, training or not, it was in.
        pairs: At least one pair.

    Raises:
        ConfigError: There are no pairs.
    """
    from deblur_deploy.runtime.eager import TorchRunner  # torch is not needed to evaluate an ONNX file

    training = net.training
    net.eval()
    try:
        with TorchRunner(net, ImageSpec()) as runner:
            return statistics.fmean(psnr_db(restored, pair.sharp) for pair, restored in _restored(runner, pairs))
    finally:
        net.train(training)


def _restored(runner: Runner, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Image8]]:
    """Each pair, cropped where it must be, with the restored photograph."""
    if not pairs:
        raise ConfigError("there are no pairs to evaluate on", hint="give a folder with images")
    if size := fixed_size(runner.image):
        pairs = crop_pairs(pairs, size)
    for pair in pairs:
        yield pair, from_batch(runner.infer(to_batch(pair.blurred)))


def _score(pair: Pair, restored: Image8) -> ImageScore:
    return ImageScore(
        pair.name,
        psnr_db(restored, pair.sharp),
        psnr_db(pair.blurred, pair.sharp),
        ssim_matlab(restored, pair.sharp),
        ssim_skimage(restored, pair.sharp),
    )


def _finite(value: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if math.isfinite(value) else None
