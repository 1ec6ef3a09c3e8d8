"""Picture quality of an artifact: PSNR and SSIM of what it restores, through any runner."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.files import write_text
from deblur_deploy.core.images import ImageSpec, from_batch, to_batch
from deblur_deploy.core.plain_data import to_json, without_infinity
from deblur_deploy.data.align import align
from deblur_deploy.data.pairs import Image8, Pair, crop_pair
from deblur_deploy.quality.decibels import mean_psnr_db
from deblur_deploy.quality.metrics import both_ssims, psnr_db
from deblur_deploy.runtime.runner import Batch, Runner, fixed_size, infer_finite, open_runner

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")
OnImage = Callable[[int], None]

_KEYS = (
    "psnr_db",
    "psnr_blurred_db",
    "ssim_matlab",
    "ssim_matlab_blurred",
    "ssim_skimage",
    "ssim_skimage_blurred",
)

_ALEXNET = "alexnet-owt-7be5be79.pth"
"""torchvision's name for the backbone that LPIPS takes, in torch's folder of downloaded weights."""


@dataclass(frozen=True)
class EvalConfig:
    """What is measured besides PSNR and SSIM, and how.

    Args:
        align: Register every picture on the sharp one first, as RealBlur's protocol wants (see ``data/align.py``).
        lpips: Measure LPIPS too, where its package and weights are there.
    """

    align: bool = False
    lpips: bool = False


@dataclass(frozen=True)
class ImageScore:
    """Quality of one restored photograph against the sharp one, on rounded uint8 RGB.

    Args:
        name: File name of the photograph.
        psnr_db: PSNR of the restored photograph in dB.
        psnr_blurred_db: PSNR of the blurred photograph that went in.
        ssim_matlab: SSIM as MATLAB computes it on RGB (see ``metrics.py``).
        ssim_matlab_blurred: The same of the blurred photograph.
        ssim_skimage: SSIM as scikit-image computes it.
        ssim_skimage_blurred: The same of the blurred photograph.
        lpips: LPIPS, AlexNet's version 0.1, lower is closer; None where it was not measured.
    """

    name: str
    psnr_db: float
    psnr_blurred_db: float
    ssim_matlab: float
    ssim_matlab_blurred: float
    ssim_skimage: float
    ssim_skimage_blurred: float
    lpips: float | None = None


@dataclass(frozen=True)
class EvalReport:
    """Quality over a set of pairs; means are means of the per-image values, as papers have them.

    In the mean PSNR a picture that came out equal to the sharp one counts as 100 dB (see :func:`mean_psnr_db`).

    Args:
        artifact: Directory of the artifact.
        runtime: What it ran on.
        per_image: One score per pair.
        config: How it was measured.
        lpips_skipped: Why LPIPS is missing though it was asked for.
    """

    artifact: str
    runtime: str
    per_image: tuple[ImageScore, ...]
    config: EvalConfig = EvalConfig()
    lpips_skipped: str | None = None

    @property
    def psnr_db(self) -> float:
        """Mean PSNR of the restored photographs in dB."""
        return mean_psnr_db(score.psnr_db for score in self.per_image)

    @property
    def psnr_blurred_db(self) -> float:
        """Mean PSNR of the blurred photographs in dB."""
        return mean_psnr_db(score.psnr_blurred_db for score in self.per_image)

    @property
    def ssim_matlab(self) -> float:
        """Mean SSIM of the restored photographs, MATLAB's convention."""
        return statistics.fmean(score.ssim_matlab for score in self.per_image)

    @property
    def ssim_matlab_blurred(self) -> float:
        """Mean SSIM of the blurred photographs, MATLAB's convention."""
        return statistics.fmean(score.ssim_matlab_blurred for score in self.per_image)

    @property
    def ssim_skimage(self) -> float:
        """Mean SSIM of the restored photographs, scikit-image's convention."""
        return statistics.fmean(score.ssim_skimage for score in self.per_image)

    @property
    def ssim_skimage_blurred(self) -> float:
        """Mean SSIM of the blurred photographs, scikit-image's convention."""
        return statistics.fmean(score.ssim_skimage_blurred for score in self.per_image)

    @property
    def lpips(self) -> float | None:
        """Mean LPIPS of the restored photographs, where it was measured."""
        values = [score.lpips for score in self.per_image if score.lpips is not None]
        return statistics.fmean(values) if values else None

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the figures: LPIPS is among them where it was asked for."""
        return (*_KEYS, "lpips") if self.config.lpips else _KEYS

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``. The PSNR of equal images, which is infinite, is null."""
        extra = {"aligned": True} if self.config.align else {}
        skipped = {"lpips_skipped": self.lpips_skipped} if self.lpips_skipped else {}
        plain = {
            "artifact": self.artifact,
            "images": len(self.per_image),
            **{key: getattr(self, key) for key in self.keys},
            **extra,
            **skipped,
            "per_image": [
                {"name": score.name, **{key: getattr(score, key) for key in self.keys}} for score in self.per_image
            ],
        }
        return dict(without_infinity(plain, nan_too=True))


def evaluate(
    artifact: Artifact,
    pairs: Iterable[Pair],
    runtime: str | None = None,
    config: EvalConfig | None = None,
    on_image: OnImage | None = None,
) -> EvalReport:
    """Restore every blurred photograph and compare it with the sharp one.

    Args:
        artifact: What to evaluate. Where it takes one size only, pairs are cropped to that size from the centre.
        pairs: At least one pair. Each is let go before the next is taken, so that a set may be larger than memory.
        runtime: One of ``RUNTIMES``, or None for the preferred one.
        config: What is measured besides PSNR and SSIM, and how.
        on_image: Called after each pair with how many are done.

    Raises:
        ConfigError: There are no pairs, or the runtime does not fit.
        ArtifactError: A photograph is smaller than the artifact's size.
        VerificationError: A photograph is too small for SSIM, or the network gives no numbers.
        DeblurDeployError: The artifact cannot be run here.
    """
    config = config or EvalConfig()
    measure, skipped = _open_lpips() if config.lpips else (None, None)
    scores: list[ImageScore] = []
    with open_runner(artifact, runtime) as runner:
        for score in _each(runner, pairs, lambda pair, restored: _score(pair, restored, config, measure)):
            scores.append(score)
            if on_image:
                on_image(len(scores))
        return EvalReport(str(artifact.directory), runner.name, tuple(scores), config, skipped)


def write_report(report: EvalReport, path: Path) -> Path:
    """Write one row per image as CSV, and the means as JSON beside it; both appear whole or not at all.

    Args:
        report: What was measured.
        path: The CSV file; the summary has the same name and ``.json``.

    Returns:
        The path of the summary.

    Raises:
        ConfigError: The CSV itself ends in ``.json``.
        ArtifactError: A file cannot be written.
    """
    summary_path = path.with_suffix(".json")
    if summary_path == path:
        raise ConfigError(f"{path} would be both the table and its summary", hint="end the name in .csv")
    table = io.StringIO()
    writer = csv.DictWriter(table, ["name", *report.keys], lineterminator="\n")
    writer.writeheader()
    plain = report.as_json()
    writer.writerows(plain.pop("per_image"))
    write_text(path, table.getvalue())
    write_text(summary_path, to_json({**plain, "runtime": report.runtime}, indent=2) + "\n")
    return summary_path


def evaluate_network(net: nn.Module, pairs: Iterable[Pair]) -> float:
    """Mean PSNR in dB of a network in memory, for stages that watch their budget.

    Args:
        net: Maps (1, 3, H, W) float32 in [0, 1] to the same shape. It is left in the mode, training or not, it was in.
        pairs: At least one pair.

    Raises:
        ConfigError: There are no pairs.
        VerificationError: The network gives NaN or infinite values.
    """
    with _running(net) as runner:
        return mean_psnr_db(_each(runner, pairs, lambda pair, restored: psnr_db(restored, pair.sharp)))


def restored_by(net: nn.Module, pairs: Iterable[Pair]) -> list[Batch]:
    """What a network in memory restores, before it is rounded.

    Args:
        net: As for :func:`evaluate_network`.
        pairs: Few enough that all results fit into memory.

    Returns:
        For every pair (1, 3, H, W) float32, RGB, close to [0, 1] but not clipped.

    Raises:
        VerificationError: The network gives NaN or infinite values.
    """
    with _running(net) as runner:
        return [infer_finite(runner, to_batch(pair.blurred), pair.name) for pair in pairs]


def pairs_psnr_db(pairs: Iterable[Pair]) -> float:
    """Mean PSNR in dB of the blurred pictures of at least one pair, before anything restores them."""
    return mean_psnr_db(psnr_db(pair.blurred, pair.sharp) for pair in pairs)


def network_quality(net: nn.Module, pairs: Iterable[Pair]) -> dict[str, Any]:
    """Mean quality of a network in memory, as manifests keep it.

    Args:
        net: As for :func:`evaluate_network`.
        pairs: At least one pair.

    Returns:
        ``psnr_db``, ``psnr_blurred_db``, ``ssim_matlab``, ``ssim_skimage``, and ``evaluation_images``, their number.
        PSNR is infinite where every picture came out equal to the sharp one (see :func:`mean_psnr_db`); manifests have
        null for it.

    Raises:
        ConfigError: There are no pairs.
        VerificationError: A photograph is too small for SSIM, or the network gives no numbers.
    """
    with _running(net) as runner:
        return _quality(runner, pairs)


def artifact_quality(artifact: Artifact, pairs: Iterable[Pair], runtime: str | None = None) -> dict[str, Any]:
    """The same of an artifact.

    Args:
        artifact: What to evaluate. Where it takes one size only, pairs are cropped to that size from the centre.
        pairs: At least one pair.
        runtime: One of ``RUNTIMES``, or None for the preferred one.

    Raises:
        ArtifactError: A photograph is smaller than the artifact's size.
        DeblurDeployError: As for :func:`evaluate`.
    """
    with open_runner(artifact, runtime) as runner:
        return _quality(runner, pairs)


def _quality(runner: Runner, pairs: Iterable[Pair]) -> dict[str, Any]:
    rows = list(
        _each(
            runner,
            pairs,
            lambda pair, restored: (
                psnr_db(restored, pair.sharp),
                psnr_db(pair.blurred, pair.sharp),
                *both_ssims(restored, pair.sharp),
            ),
        )
    )
    restored, blurred, matlab, skimage = zip(*rows, strict=True)
    return {
        "psnr_db": mean_psnr_db(restored),
        "psnr_blurred_db": mean_psnr_db(blurred),
        "ssim_matlab": statistics.fmean(matlab),
        "ssim_skimage": statistics.fmean(skimage),
        "evaluation_images": len(rows),
    }


@contextmanager
def _running(net: nn.Module) -> Iterator[Runner]:
    """A runner for a network in memory, which is put back into the mode it was in."""
    from deblur_deploy.runtime.eager import TorchRunner  # torch is not needed to evaluate an ONNX file

    training = net.training
    net.eval()
    try:
        with TorchRunner(net, ImageSpec()) as runner:
            yield runner
    finally:
        net.train(training)


def _each(runner: Runner, pairs: Iterable[Pair], measure: Callable[[Pair, Image8], T]) -> Iterator[T]:
    """What is measured on each pair, cropped where it must be, and the restored photograph; neither is kept."""
    size = fixed_size(runner.image)
    is_empty = True
    for pair in pairs:
        cropped = crop_pair(pair, size) if size else pair
        yield measure(cropped, from_batch(infer_finite(runner, to_batch(cropped.blurred), pair.name)))
        is_empty = False
        del pair, cropped
    if is_empty:
        raise ConfigError("there are no pairs to evaluate on", hint="give a folder with images")


def _score(
    pair: Pair, restored: Image8, config: EvalConfig, lpips: Callable[[Image8, Image8], float] | None
) -> ImageScore:
    blurred, mask, blurred_mask = pair.blurred, None, None
    if config.align:
        restored, mask = align(restored, pair.sharp, pair.name)
        blurred, blurred_mask = align(blurred, pair.sharp, pair.name)
    matlab, skimage = both_ssims(restored, pair.sharp, mask)
    matlab_blurred, skimage_blurred = both_ssims(blurred, pair.sharp, blurred_mask)
    return ImageScore(
        pair.name,
        psnr_db(restored, pair.sharp, mask),
        psnr_db(blurred, pair.sharp, blurred_mask),
        matlab,
        matlab_blurred,
        skimage,
        skimage_blurred,
        lpips(restored, pair.sharp) if lpips else None,
    )


def _open_lpips() -> tuple[Callable[[Image8, Image8], float] | None, str | None]:
    """LPIPS (Zhang et al., CVPR 2018), or why it cannot be measured here. Nothing is downloaded for it."""
    try:
        import lpips
        import torch
    except (ImportError, OSError, RuntimeError) as err:  # torchvision raises the last two beside another build of torch
        return None, f"lpips cannot be imported ({err}); pip install 'deblur-deploy[lpips]'"
    weights = Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET
    if not weights.is_file():
        return None, f"AlexNet's weights are not at {weights}; torchvision would have to download them"
    network = lpips.LPIPS(net="alex", verbose=False).eval()

    def measure(image: Image8, reference: Image8) -> float:
        with torch.inference_mode():
            pair = (torch.from_numpy(to_batch(picture) * 2 - 1) for picture in (image, reference))
            return float(network(*pair))

    return measure, None
