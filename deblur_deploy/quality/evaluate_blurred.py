"""Figures for photographs that have no sharp partner: colour shift and ringing.

Both compare a restored photograph with the blurred one, in a window around each pixel:

- **Colour shift.** Where a window is flat, blur changes nothing, and a restored picture must have the colours of the
  blurred one. Flat is what Shan, Jia and Agarwala (*High-quality Motion Deblurring from a Single Image*, SIGGRAPH
  2008) call smooth: the standard deviation in the window is below 5 codes.
- **Overshoot.** Blur averages what is near. Beside the edge between two even surfaces both colours are found close by
  in the blurred picture, whatever the blur, and a restored pixel beyond them is ringing. A line or a light narrower
  than its blur also has to go beyond them: on the shipped pairs the sharp photographs themselves are at 3 to 13 %. So
  this share is meant to be compared and bounded, not to be 0.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError, MissingDependencyError, VerificationError
from deblur_deploy.core.images import from_batch, load_rgb, to_batch
from deblur_deploy.data.pairs import Image8, crop_center
from deblur_deploy.runtime.runner import fixed_size, infer_finite, open_runner

OnPicture = Callable[[str, Image8, Image8], None]

WINDOW = 13
"""Side of the windows in pixels: a path of the default shake, which is up to 12 pixels long, lies within."""
FLAT_BELOW = 5.0
"""Standard deviation, in codes of 0 to 255, below which a window is flat."""
OVERSHOOT_ABOVE = 8
"""Codes beyond the window's range that still count as noise."""


@dataclass(frozen=True)
class BlurredReport:
    """Side effects on a set of blurred photographs (see :class:`SideEffects`).

    Args:
        artifact: Directory of the artifact.
        runtime: What it ran on.
        per_image: File name and what was measured, for each photograph.
        failed: File name and why, for each that could not be read.
    """

    artifact: str
    runtime: str
    per_image: tuple[tuple[str, SideEffects], ...]
    failed: tuple[tuple[str, str], ...] = ()

    @property
    def color_shift(self) -> float | None:
        """The largest colour shift of a photograph in a channel, in codes of 0 to 255; None where nothing is flat."""
        shifts = [abs(shift) for _, effects in self.per_image for shift in effects.color_shift or ()]
        return max(shifts, default=None)

    @property
    def overshoot_share(self) -> float:
        """Mean of the shares of pixels that overshoot."""
        return statistics.fmean(effects.overshoot_share for _, effects in self.per_image)

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "artifact": self.artifact,
            "images": len(self.per_image),
            "color_shift": self.color_shift,
            "overshoot_share": self.overshoot_share,
            "per_image": [{"name": name, **dataclasses.asdict(effects)} for name, effects in self.per_image],
            "failed": [{"name": name, "error": error} for name, error in self.failed],
        }


def evaluate_blurred(
    artifact: Artifact,
    files: Iterable[Path],
    runtime: str | None = None,
    on_picture: OnPicture | None = None,
    folder: Path | None = None,
) -> BlurredReport:
    """Restore photographs one by one and measure the side effects.

    Args:
        artifact: What to evaluate. Where it takes one size only, photographs are cropped to it from the centre.
        files: At least one image.
        runtime: One of ``RUNTIMES``, or None for the preferred one.
        on_picture: Called with the name of each photograph, the photograph and what was restored of it, both (H, W, 3)
            uint8.
        folder: Photographs are named by their path below it; without it by their file name.

    Returns:
        The figures. A file that cannot be read is among ``failed`` and the others go on.

    Raises:
        ConfigError: There are no files, or the runtime does not fit.
        ArtifactError: No file can be read, or one is smaller than the artifact's size.
        VerificationError: The network gives NaN or infinite values.
        DeblurDeployError: The artifact cannot be run here.
    """
    measured: list[tuple[str, SideEffects]] = []
    failed: list[tuple[str, str]] = []
    with open_runner(artifact, runtime) as runner:
        for path in files:
            name = path.name if folder is None else path.relative_to(folder).as_posix()
            try:
                blurred = load_rgb(path)
            except (ArtifactError, MissingDependencyError) as err:
                failed.append((name, err.message))
                continue
            if size := fixed_size(runner.image):
                blurred = crop_center(blurred, size, name)
            restored = from_batch(infer_finite(runner, to_batch(blurred), name))
            measured.append((name, side_effects(blurred, restored)))
            if on_picture:
                on_picture(name, blurred, restored)
        if failed and not measured:
            reason = f"none of {len(failed)} photographs can be read: {failed[0][1]}"
            raise ArtifactError(reason, hint="check the folder")
        if not measured:
            raise ConfigError("there are no photographs to evaluate on", hint="give a folder with images")
        return BlurredReport(str(artifact.directory), runner.name, tuple(measured), tuple(failed))


@dataclass(frozen=True)
class SideEffects:
    """What restoring a photograph did to it that it should not have.

    Args:
        flat_share: Share of the pixels whose window is flat in every channel, 0 to 1.
        color_shift: Mean of restored minus blurred over the flat pixels, in codes of 0 to 255, for R, G and B; None
            where nothing is flat.
        overshoot_share: Share of the pixels that lie in some channel more than :data:`OVERSHOOT_ABOVE` codes outside
            the range of their window in the blurred photograph, 0 to 1.
    """

    flat_share: float
    color_shift: tuple[float, float, float] | None
    overshoot_share: float


def side_effects(blurred: Image8, restored: Image8) -> SideEffects:
    """Measure colour shift and overshoot.

    Args:
        blurred: (H, W, 3) uint8 sRGB.
        restored: Same shape.

    Raises:
        VerificationError: Shapes differ.
    """
    if blurred.shape != restored.shape:
        raise VerificationError(
            f"images of {blurred.shape} and {restored.shape} cannot be compared", hint="give images of one size"
        )
    flat = _is_flat(blurred)
    shift = None
    if flat.any():
        red, green, blue = (restored[flat].mean(axis=0) - blurred[flat].mean(axis=0)).tolist()
        shift = (red, green, blue)
    beyond = _outside_of_range(blurred, restored) > OVERSHOOT_ABOVE
    return SideEffects(float(flat.mean()), shift, float(beyond.any(axis=-1).mean()))


def _outside_of_range(blurred: Image8, restored: Image8) -> NDArray[np.int16]:
    """How far each value lies outside the range of its window in the blurred photograph, in codes; 0 inside."""
    lowest, highest = (_over_windows(blurred, combine).astype(np.int16) for combine in (np.minimum, np.maximum))
    values = restored.astype(np.int16)
    outside: NDArray[np.int16] = np.maximum(np.maximum(lowest - values, values - highest), 0)
    return outside


def _is_flat(image: Image8) -> NDArray[np.bool_]:
    """(H, W): whether the standard deviation of the window is below the bound in every channel."""
    values = image.astype(np.float64)
    mean, mean_square = (_over_windows(plane, np.add) / WINDOW**2 for plane in (values, values * values))
    is_flat: NDArray[np.bool_] = mean_square - mean**2 < FLAT_BELOW**2
    return np.asarray(is_flat.all(axis=-1))


def _over_windows(image: NDArray[Any], combine: np.ufunc) -> NDArray[Any]:
    """The minimum, maximum or sum of the window around each pixel, borders repeated."""
    reach = WINDOW // 2
    for axis in (0, 1):
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = np.moveaxis(np.pad(image, pad, mode="edge"), axis, 0)
        size = image.shape[axis]
        combined = padded[:size].copy()
        for tap in range(1, WINDOW):
            combine(combined, padded[tap : tap + size], out=combined)
        image = np.moveaxis(combined, 0, axis)
    return image
