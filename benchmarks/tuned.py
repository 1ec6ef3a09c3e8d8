"""Networks of a contest after the same few fine-tuning steps, and what they restore in FP32 and in INT8."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deblur_deploy.compress.calibration import PeakWatch
from deblur_deploy.compress.finetune import finetune
from deblur_deploy.compress.quantize import calibration_frames, plan_scheme, quantize_network
from deblur_deploy.config import QatConfig, TuningConfig
from deblur_deploy.data.pairs import Pair
from deblur_deploy.network.fake_quant import insert_quantizers, without_quantizers
from deblur_deploy.network.generator import Generator
from deblur_deploy.quality.evaluate import evaluate_network

_CALIBRATION_IMAGES, _CALIBRATION_SIDE = 4, 256


@dataclass(frozen=True)
class Restored:
    """What a network restores.

    Args:
        untuned_db: PSNR in FP32 before the fine-tuning.
        psnr_db: PSNR after it, in the precision that was asked for.
    """

    untuned_db: float
    psnr_db: float


class Tuner:
    """Fine-tunes networks after one teacher; one that comes again is not tuned again.

    Args:
        teacher: The unpruned network.
        tuning: Photographs and schedule.
        pairs: What the networks are judged on.
    """

    def __init__(self, teacher: Generator, tuning: TuningConfig, pairs: Sequence[Pair]) -> None:
        self._teacher, self._tuning, self._pairs = teacher, tuning, pairs
        quick = QatConfig(calibration_images=_CALIBRATION_IMAGES, tuning=tuning)
        side = _CALIBRATION_SIDE
        self._quick, self._frames = quick, [frame[..., :side, :side] for frame in calibration_frames(quick)]
        self._done: dict[str, tuple[float, Generator]] = {}

    def restored(self, key: str, net: Generator, int8: bool) -> Restored:
        """What is restored after the fine-tuning; INT8 is calibrated and not trained.

        Args:
            key: Tells networks apart.
            net: The network; it is left as it is.
            int8: Whether it is evaluated in INT8.

        Raises:
            DeblurDeployError: The fine-tuning fails.
        """
        if key not in self._done:
            tuned = copy.deepcopy(net)
            finetune(tuned, self._teacher, self._tuning, None)
            self._done[key] = evaluate_network(net, self._pairs), tuned
        untuned_db, tuned = self._done[key]
        if int8:
            config = dataclasses.replace(self._quick, exempt=self._idle_layers(tuned))
            tuned = copy.deepcopy(tuned)
            quantize_network(tuned, dataclasses.asdict(plan_scheme(tuned, config)), self._frames)
        return Restored(untuned_db, evaluate_network(tuned, self._pairs))

    def _idle_layers(self, net: Generator) -> tuple[str, ...]:
        """Layers that nothing but zeros enters, as pruning may leave them: they have no range."""
        watched = copy.deepcopy(net)
        insert_quantizers(watched, dataclasses.asdict(plan_scheme(watched, self._quick)))
        with PeakWatch(watched) as watch, without_quantizers(watched), torch.no_grad():
            for frame in self._frames:
                watched(torch.from_numpy(frame))
        return tuple(name for name, peak in watch.peaks.items() if peak == 0)
