"""What an exported file restores, and how far it is from the network that it was made from.

It is compared on one picture, at two sizes where it takes any.

Exporters and runtimes disagree with PyTorch in places that no checker sees: where a nearest resize takes its samples
from, what an assignment to a slice leaves at another size. A file that differs is written with a warning; one that
gives no numbers is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.config import ExportConfig, PrecisionConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import DeblurDeployError, ExportError
from deblur_deploy.core.images import Resolution, from_frames, to_batch
from deblur_deploy.data.pairs import Image8, PairsOnDisk, load_photos
from deblur_deploy.quality.evaluate import artifact_quality
from deblur_deploy.quality.gain import gain_of
from deblur_deploy.runtime.runner import Runner, open_runner, reason_unavailable

if TYPE_CHECKING:
    from deblur_deploy.network.generator import Generator

_BAR = 6
"""The bars of a letterboxed picture take a sixth of its height each."""

LEVEL = 1 / 255
"""How far all but a thousandth of the samples may be from the network's without a warning."""
_SHARE = 0.999
_PICTURE = "letterboxed photograph"
_RUNTIMES = ("onnxruntime", "openvino")
_FREE_SIZES = (Resolution(160, 96), Resolution(117, 139))
"""Two sizes for a file that takes any: one that divides well, and one that does not."""


def fit_photo(photo: Image8, size: Resolution) -> Image8:
    """A photograph repeated and cropped to a size."""
    repeats = -(-size.height // photo.shape[0]), -(-size.width // photo.shape[1]), 1
    return np.ascontiguousarray(np.tile(photo, repeats)[: size.height, : size.width])


def probe_pictures(photos: Sequence[Image8], size: Resolution | None) -> Mapping[str, Image8]:
    """Photographs and pictures that are hard on number formats, by name.

    Args:
        photos: (H, W, 3) uint8, at least one.
        size: Size of all pictures; None leaves the photographs as they are and takes the first one's for the others.
    """
    fitted = [photo if size is None else fit_photo(photo, size) for photo in photos]
    shape = height, width, _ = fitted[0].shape
    black, white = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
    letterboxed, bar = fitted[0].copy(), -(-height // _BAR)
    letterboxed[:bar] = letterboxed[-bar:] = 0
    y, x = np.mgrid[:height, :width]
    checkerboard: NDArray[np.uint8] = np.where(((y // 8 + x // 8) % 2)[..., None], white, black)
    noise = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8) * np.uint8(255)
    named = {f"photograph {number}": photo for number, photo in enumerate(fitted, start=1)}
    return named | {
        "black": black,
        "white": white,
        "flat gray": np.full(shape, 128, np.uint8),
        "letterboxed photograph": letterboxed,
        "checkerboard": checkerboard,
        "saturated noise": noise,
    }


def comparing(net: Generator, config: ExportConfig) -> Callable[[Artifact], dict[str, Any]]:
    """What compares a file with its network before it is put in place, as ``Draft.measure`` takes it.

    Its figures are ``network_difference``, for each runtime at hand how far the file is from the network, as a share of
    white that all but a thousandth of the samples keep to, or the sentence that says why there is none.

    Args:
        net: The network in evaluation mode.
        config: How it was exported.
    """

    def measure(artifact: Artifact) -> dict[str, Any]:
        found: dict[str, Any] = {}
        photo = load_photos(None)[0]
        for runtime in _RUNTIMES:
            if reason_unavailable(artifact, runtime) or not _fits(runtime, config):
                continue
            found[runtime] = _difference(net, artifact, runtime, _pictures(photo, net, config))
        return {"network_difference": found}

    return measure


def _fits(runtime: str, config: ExportConfig) -> bool:
    """Whether a runtime reads the file: ONNX's own DeformConv is onnxruntime's."""
    return runtime == "onnxruntime" or config.deform_op != "standard"


def _pictures(photo: Image8, net: Generator, config: ExportConfig) -> list[NDArray[np.float32]]:
    """A picture of each size to compare at, (1, 3, H, W)."""
    if not config.dynamic:
        sizes = [Resolution(config.width, config.height)]
    else:
        least = net.smallest_side
        sizes = [Resolution(max(size.width, least), max(size.height, least)) for size in _FREE_SIZES]
    return [to_batch(probe_pictures([photo], size)[_PICTURE]) for size in sizes]


def _difference(net: Generator, artifact: Artifact, runtime: str, pictures: list[NDArray[np.float32]]) -> float | str:
    """How far a file is from its network in one runtime."""
    worst = 0.0
    try:
        with open_runner(artifact, runtime) as runner:
            for batch in pictures:
                worst = max(worst, _apart(net, runner, batch))
    except ExportError:
        raise
    except DeblurDeployError as err:
        return err.message
    return worst


def _apart(net: Generator, runner: Runner, batch: NDArray[np.float32]) -> float:
    import torch

    with torch.inference_mode(), _in_evaluation(net):
        expected = net(torch.from_numpy(batch)).float().numpy()
    if runner.image.dtype == "uint8":
        frames = np.rint(batch.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        given = from_frames(runner.infer(frames))
    else:
        given = runner.infer(batch)
    if not np.isfinite(expected).all():
        return 0.0  # the network itself is no better
    if not np.isfinite(given).all():
        raise ExportError(
            f"the exported file gives NaN or infinite values in {runner.name}, where the network gives a picture",
            hint="please report this with the checkpoint; the checkpoint itself runs in PyTorch",
        )
    apart = np.abs(np.clip(given, 0, 1) - np.clip(expected, 0, 1))
    return float(np.quantile(apart, _SHARE))


@contextlib.contextmanager
def _in_evaluation(net: Generator) -> Iterator[None]:
    was_training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(was_training)


def measuring(config: ExportConfig | PrecisionConfig) -> Callable[[Artifact], dict[str, Any]] | None:
    """The measurement that an export's settings ask for, as ``Draft.measure`` takes it, or None.

    A file that cannot be evaluated here is still a file: the figures then have ``quality_skipped`` with the reason,
    such as photographs that are smaller than the graph.

    Args:
        config: Its ``evaluation`` names the pairs.
    """
    if not config.evaluate:
        return None
    folder = Path(config.evaluation) if config.evaluation else None

    def measure(artifact: Artifact) -> dict[str, Any]:
        try:
            quality = artifact_quality(artifact, PairsOnDisk(folder, "evaluation"), "onnxruntime")
        except DeblurDeployError as err:
            return {"quality_skipped": err.message}
        return quality | gain_of(artifact.history, quality)

    return measure
