"""Pruning with the unpruned network as the only teacher, in steps that survive being stopped."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from deblur_deploy.compress.finetune import tuning_photos
from deblur_deploy.compress.plan import Analysis, PrunePlan
from deblur_deploy.compress.prune import ChannelSurvey, rebuilt
from deblur_deploy.config import CameraConfig, FitConfig, LossConfig, PruneConfig, TuningConfig
from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.data.crops import BlurredCrops, Share, batches_of
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.generator import Generator
from deblur_deploy.training.devices import Devices
from deblur_deploy.training.loop import FitReport, OnStep, Trainer, processor_has_bfloat16
from deblur_deploy.training.losses import Objective
from deblur_deploy.training.state import StateKeeper

_CONTENT = 0.05
"""Weight of the sharp picture beside the teacher's: a trained network is to be kept, not trained anew."""


@dataclass(frozen=True)
class Teaching:
    """How a network is pruned, and how what is left learns from the whole one.

    Args:
        keep: Share of the channels to keep; a scan says of which groups.
        fit: Crops, steps and rates.
        round_to: As for ``prune``.
        scan_images: Likewise.
        scan_size: Likewise.
        length_px: Range of the length of the synthetic blur.
        save_minutes: Time between two saved states.
    """

    keep: float
    fit: FitConfig
    round_to: int = 8
    scan_images: int = 2
    scan_size: int = 192
    length_px: tuple[float, float] = (2.0, 30.0)
    save_minutes: float = 5.0

    def tuning(self, photos: Path) -> TuningConfig:
        """Photographs with blur as high-speed cameras make it: frames averaged in code values."""
        blur = CameraConfig(length_px=self.length_px, code_share=1.0, sharpen_share=0.0, jpeg_share=0.0)
        return TuningConfig(str(photos), camera=blur, fit=self.fit)

    def config(self, photos: Path) -> PruneConfig:
        """What ``prune`` would be told."""
        return PruneConfig(
            keep=self.keep,
            allocation="sensitivity",
            round_to=self.round_to,
            scan_images=self.scan_images,
            scan_size=self.scan_size,
            tuning=self.tuning(photos),
        )


class _Teacher(nn.Module):
    """A network that is only looked at: in bfloat16 where the processor has that."""

    def __init__(self, net: Generator) -> None:
        super().__init__()
        self.net = net
        self.half = processor_has_bfloat16()

    def forward(self, blurred: Tensor) -> Tensor:
        """(N, 3, H, W) in and out."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            return self.net(blurred).float()  # type: ignore[no-any-return]


def prune_and_teach(original: Artifact, teaching: Teaching, photos: Path, out: Path) -> Artifact:
    """Prune a network and let what is left follow it.

    The plan and the state of the fine-tuning lie beside ``out``; the same call goes on with them.

    Args:
        original: The trained network.
        teaching: Budget and schedule.
        photos: Folder of sharp photographs.
        out: The artifact's directory.
    """
    teacher, config = load_network(original), teaching.config(photos)
    analysis, plan = _planned(teacher, config, out.with_name(f"{out.name}.plan.json"))
    net = rebuilt(analysis.carry_out(teacher, plan))
    crops = BlurredCrops(tuning_photos(config.tuning), config.tuning.fit, config.tuning.blur)
    recipe = {"fit": dataclasses.asdict(crops.fit)}
    keeper = StateKeeper(out.with_name(f"{out.name}.training"), teaching.save_minutes, recipe)
    done = _teach(net, teacher, crops, keeper)
    figures = {**measure_cost(net), "steps": done.steps, "loss": done.loss}
    return save_network(out, net, spec_of(net), new_step("prune", config, original, figures), original.history)


def _planned(net: Generator, config: PruneConfig, path: Path) -> tuple[Analysis, PrunePlan]:
    """The channels that go: those that went the first time, if there was one."""
    if path.exists():
        removed = tuple(tuple(channels) for channels in json.loads(path.read_text(encoding="utf-8")))
        without_scan = dataclasses.replace(config, importance="l2", allocation="uniform")
        survey = ChannelSurvey.of(net, without_scan)
        return survey.analysis, dataclasses.replace(survey.plan(without_scan), removed=removed)
    survey = ChannelSurvey.of(net, config, _tell_scan)
    plan = survey.plan(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plan.removed), encoding="utf-8")
    return survey.analysis, plan


def _teach(net: Generator, teacher: Generator, crops: BlurredCrops, keeper: StateKeeper) -> FitReport:
    """Follow the teacher's picture to the last step."""
    objective = Objective(crops.fit, LossConfig(content=_CONTENT), _Teacher(teacher))
    trainer = Trainer(net, crops.fit, objective, Devices(torch.device("cpu")))
    start = 0
    if any(keeper.folder.glob("state-*")):
        state = keeper.load()
        trainer.restore(state)
        start = state.step
    report = trainer.run(batches_of(crops, 0, Share(start)), _teller(crops.fit.steps), keeper)
    keeper.clear()
    return report


def _tell_scan(number: int, count: int, drop_db: float) -> None:
    if number % 20 == 0:
        print(f"width {number} of {count}, {drop_db:.2f} dB lost", flush=True)


def _teller(steps: int) -> OnStep:
    def tell(step: int, loss: float) -> None:
        if step % 20 == 0 or step == steps:
            print(f"step {step} of {steps}, loss {loss:.5f}", flush=True)

    return tell
