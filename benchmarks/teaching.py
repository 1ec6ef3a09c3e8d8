"""Pruning in rounds with the unpruned network as the only teacher, in steps that survive being stopped."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from deblur_deploy.compress.plan import Analysis
from deblur_deploy.config import CameraConfig, FitConfig, LossConfig, PruneConfig
from deblur_deploy.core.artifact import Artifact, load_artifact, new_step
from deblur_deploy.data.crops import BlurredCrops, Share, batches_of
from deblur_deploy.data.pairs import load_photos
from deblur_deploy.network.checkpoint import build_network, load_network, save_network, spec_of
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.generator import Generator
from deblur_deploy.training.devices import Devices
from deblur_deploy.training.loop import OnStep, Trainer, processor_has_bfloat16
from deblur_deploy.training.losses import Objective
from deblur_deploy.training.state import StateKeeper

_TAYLOR_BATCHES = 4

_CONTENT = 0.05
"""Weight of the sharp picture beside the teacher's: a trained network is to be kept, not trained anew."""


@dataclass(frozen=True)
class Teaching:
    """How a network is pruned, and how what is left learns from the whole one.

    Args:
        keep: Share of the channels to keep.
        scope: As for ``prune``.
        rounds: In how many goes channels are removed.
        steps: Optimiser steps over all rounds; the last one has half of them.
        fit: Crops and rates; its steps are not read.
        round_to: Likewise.
        length_px: Range of the length of the synthetic blur.
        save_minutes: Time between two saved states.
    """

    keep: float
    rounds: int
    steps: int
    fit: FitConfig
    scope: Literal["local", "global"] = "global"
    round_to: int = 8
    length_px: tuple[float, float] = (2.0, 30.0)
    save_minutes: float = 5.0

    @property
    def blur(self) -> CameraConfig:
        """Blur as high-speed cameras make it: frames averaged in code values."""
        return CameraConfig(length_px=self.length_px, code_share=1.0, sharpen_share=0.0, jpeg_share=0.0)

    def steps_of(self, number: int) -> int:
        """Steps of a round, counted from 0."""
        last = self.rounds - 1
        return self.steps - self.steps // 2 if number == last else self.steps // 2 // max(1, last)

    def config_of(self, number: int) -> PruneConfig:
        """What a round prunes to."""
        share = 1 - (1 - self.keep) * (number + 1) / self.rounds
        return PruneConfig(keep=share, scope=self.scope, importance="taylor", round_to=self.round_to)


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


def prune_in_rounds(original: Artifact, teaching: Teaching, photos: Path, out: Path) -> Artifact:
    """Prune a network and let what is left follow it.

    Rounds that are done lie beside ``out``, and so does the state of the one that was stopped; the same call goes on.

    Args:
        original: The trained network.
        teaching: Rounds and schedule.
        photos: Folder of sharp photographs.
        out: The artifact's directory.
    """
    teacher = load_network(original)
    learned = load_photos(photos, "calibration")
    net, analysis = teacher, None
    for number in range(teaching.rounds):
        fit = dataclasses.replace(teaching.fit, steps=teaching.steps_of(number), seed=teaching.fit.seed + number)
        crops = BlurredCrops(learned, fit, teaching.blur)
        done = out.with_name(f"{out.name}-round-{number + 1}")
        plan_file = done.with_suffix(".plan.json")
        config = teaching.config_of(number)
        if plan_file.exists():  # the channels that went are those that went the first time
            analysis = analysis or Analysis.of(teacher, dataclasses.replace(config, importance="l2"))
            plan = dataclasses.replace(analysis.plan(config), removed=_read(plan_file))
        else:
            batches = list(batches_of(BlurredCrops(learned, _few(fit), teaching.blur), 0, Share()))
            analysis = Analysis.of(net, config, batches, analysis)
            plan = analysis.plan(config)
        net = _rebuilt(analysis.carry_out(net, plan))
        analysis = analysis.after(plan)
        out.parent.mkdir(parents=True, exist_ok=True)
        plan_file.write_text(json.dumps(plan.removed), encoding="utf-8")
        if (done / "manifest.json").exists():
            net = load_network(load_artifact(done))
            continue
        report = _teach(net, teacher, crops, teaching, done)
        figures = {**measure_cost(net), "steps": teaching.steps, "loss": report}
        target = out if number + 1 == teaching.rounds else done
        made = save_network(target, net, spec_of(net), new_step("prune", config, original, figures), original.history)
        print(
            f"round {number + 1} of {teaching.rounds}: {figures['params']:,} parameters, loss {report:.5f}", flush=True
        )
    return made


def _few(fit: FitConfig) -> FitConfig:
    return dataclasses.replace(fit, steps=_TAYLOR_BATCHES)


def _read(path: Path) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(channels) for channels in json.loads(path.read_text(encoding="utf-8")))


def _rebuilt(shrunk: Generator) -> Generator:
    net = build_network(spec_of(shrunk))
    net.load_state_dict(shrunk.state_dict())
    return net


def _teach(net: Generator, teacher: Generator, crops: BlurredCrops, teaching: Teaching, done: Path) -> float:
    """Follow the teacher's picture to the last step of a round; returns the last loss."""
    fit = crops.fit
    objective = Objective(fit, LossConfig(content=_CONTENT), _Teacher(teacher))
    trainer = Trainer(net, fit, objective, Devices(torch.device("cpu")))
    keeper = StateKeeper(done.with_suffix(".training"), teaching.save_minutes, {"fit": dataclasses.asdict(fit)})
    start = 0
    if any(keeper.folder.glob("state-*")):
        state = keeper.load()
        trainer.restore(state)
        start = state.step
    trainer.run(batches_of(crops, 0, Share(start)), _teller(fit.steps), keeper)
    keeper.clear()
    return trainer.losses[-1]


def _teller(steps: int) -> OnStep:
    def tell(step: int, loss: float) -> None:
        if step % 20 == 0 or step == steps:
            print(f"step {step} of {steps}, loss {loss:.5f}", flush=True)

    return tell
