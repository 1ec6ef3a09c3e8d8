"""Restoring photographs that have no sharp partner, and measuring the side effects (see ``side_effects.py``)."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError, MissingDependencyError
from deblur_deploy.core.images import from_batch, load_rgb, to_batch
from deblur_deploy.data.pairs import Image8, crop_center
from deblur_deploy.quality.side_effects import SideEffects, side_effects
from deblur_deploy.runtime.runner import fixed_size, infer_finite, open_runner

OnPicture = Callable[[str, Image8, Image8], None]


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
