"""How many pixels a second of training sees, against the version before."""

from __future__ import annotations

import statistics
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from measurement import Measurement, milliseconds

from deblur_deploy.config import CameraConfig, FitConfig, ShakeConfig
from deblur_deploy.core.process_memory import freed_memory_kept
from deblur_deploy.data.crops import blur_function, crop_batches
from deblur_deploy.data.pairs import load_photos
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.training.loop import Trainer, processor_has_bfloat16
from deblur_deploy.training.losses import Objective


@dataclass(frozen=True)
class TrainStep:
    """One step of training on one core: of the generator as it was and in float32, and as it is.

    Args:
        base: Width of the finest level.
        depths_before: Residual blocks on each level, as they were.
        depths: As they are.
        stem: The stem as it is; it was 1.
        batch: Crops in a step.
        crop: Their side in pixels.
        rounds: Turns; each of the variants does one step in each.
        path_px: Length of the path in the two blurs that are timed.
    """

    base: int
    depths_before: tuple[int, int, int]
    depths: tuple[int, int, int]
    stem: int
    batch: int
    crop: int
    rounds: int
    path_px: float

    def measure(self) -> Measurement:
        """Pixels a second as it is over pixels a second as it was: the ratio of the medians."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            samples = self._steps()
            blurs = self._blurs()
            waiting = self._waiting()
        finally:
            torch.set_num_threads(threads)
        pixels = self.batch * self.crop**2 / 1e6
        speeds = {name: round(1000 * pixels / statistics.median(taken), 4) for name, taken in samples.items()}
        before, same, now = speeds.values()
        blur_ms = {name: round(statistics.median(taken), 2) for name, taken in blurs.items()}
        details = {"mpx_per_s": speeds, "blur_ms": blur_ms, "waiting_share": waiting, "threads": 1}
        details["bfloat16_in_hardware"] = processor_has_bfloat16()
        note = (
            f"{before:.3f} Mpx/s before, {same:.3f} the same network now ({same / before:.2f}x), {now:.3f} the "
            f"generator as it is; waiting for crops {waiting:.1%} of a step; a crop is blurred in "
            f"{blur_ms['camera']:.0f} ms ({blur_ms['shake']:.0f} ms of shake)"
        )
        return Measurement(now / before, "×", samples | blurs, note, details)

    def _steps(self) -> dict[str, list[float]]:
        """Milliseconds of every step, the variants in turns."""
        was = SRNConfig.from_base(self.base, self.depths_before)
        now = SRNConfig.from_base(self.base, self.depths, self.stem)
        variants = {
            "before: float32": (self._trainer(was, "float32"), nullcontext),
            "the same network": (self._trainer(was, "fastest"), freed_memory_kept),
            "as it is": (self._trainer(now, "fastest"), freed_memory_kept),
        }
        picture = torch.rand(self.batch, 3, self.crop, self.crop)
        samples: dict[str, list[float]] = {name: [] for name in variants}
        for turn in range(self.rounds):
            for name, (trainer, context) in variants.items():
                with context():
                    trainer._step(2 * turn + 1, picture, picture)  # untimed: it fills the allocator's heap
                    samples[name].append(milliseconds(lambda: trainer._step(2 * turn + 2, picture, picture)))  # noqa: B023
        return samples

    def _trainer(self, config: SRNConfig, precision: str) -> Trainer:
        torch.manual_seed(0)
        fit = FitConfig(steps=2 * self.rounds, batch=self.batch, crop=self.crop, precision=precision)  # type: ignore[arg-type]
        return Trainer(SRN(config), fit, Objective(fit))

    def _blurs(self) -> dict[str, list[float]]:
        """Milliseconds of blurring one crop with its margin, by both blurs."""
        length = (self.path_px, self.path_px)
        settings = {"shake": ShakeConfig(length_px=length), "camera": CameraConfig(length_px=length)}
        photo = load_photos(None, "calibration")[0][:200, :200]
        return {
            name: [milliseconds(lambda: expose(photo, np.random.default_rng(seed))) for seed in range(20)]  # noqa: B023
            for name, expose in ((name, blur_function(config)) for name, config in settings.items())
        }

    def _waiting(self) -> float:
        """Share of the time of training that is spent waiting for crops, with one worker."""
        trainer = self._trainer(SRNConfig.from_base(self.base, self.depths, self.stem), "fastest")
        blur = CameraConfig(length_px=(2.0, self.path_px))
        report = trainer.run(crop_batches(load_photos(None, "calibration"), trainer.config, blur, workers=1))
        return round(report.data_seconds / report.seconds, 4)
