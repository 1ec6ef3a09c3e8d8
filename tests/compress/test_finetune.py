"""Fine-tuning after compression: what it hands to the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deblur_deploy.compress import finetune as finetune_module
from deblur_deploy.compress.finetune import finetune, fitting_crops
from deblur_deploy.config import FitConfig, ShakeConfig, TuningConfig
from deblur_deploy.core.images import save_rgb
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.training.loop import FitReport


@pytest.fixture
def config(photo: NDArray[np.uint8], tmp_path: Path) -> TuningConfig:
    save_rgb(tmp_path / "one.png", photo)
    fit = FitConfig(steps=1, batch=2, crop=64, lr=1e-4, distill_weight=0.5)
    return TuningConfig(str(tmp_path), str(tmp_path), ShakeConfig(length_px=(2.0, 4.0)), fit)


def test_the_teacher_and_the_schedule_reach_the_training_loop(
    monkeypatch: pytest.MonkeyPatch, tiny_config: SRNConfig, config: TuningConfig
) -> None:
    seen: list[tuple[object, ...]] = []
    told: list[tuple[int, int, float]] = []

    def fit(
        net: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        schedule: FitConfig,
        teacher: nn.Module | None = None,
        on_step: Callable[[int, float], None] | None = None,
    ) -> FitReport:
        seen.append((net, schedule, teacher))
        assert on_step is not None
        on_step(1, 0.25)
        return FitReport(1, 2.0, 1.0, 0.25)

    monkeypatch.setattr(finetune_module, "fit", fit)
    net, teacher = SRN(tiny_config), SRN(tiny_config)
    report = finetune(net, teacher, config, lambda *facts: told.append(facts))
    assert seen == [(net, config.fit, teacher)]
    assert told == [(1, 1, 0.25)]
    assert report.loss == 0.25


def test_the_teachers_picture_is_part_of_the_loss(tiny_config: SRNConfig, config: TuningConfig) -> None:
    losses = []
    for brighter in (0.0, 8.0):
        torch.manual_seed(0)
        net, teacher = SRN(tiny_config), SRN(tiny_config).eval()
        assert teacher.head.bias is not None
        nn.init.constant_(teacher.head.bias, brighter)
        losses.append(finetune(net, teacher, config, None).loss)
    assert losses[0] is not None
    assert losses[1] is not None
    assert losses[1] > losses[0] + 1


@pytest.mark.parametrize(
    ("multiple_of", "smallest_side", "side"), [(1, 1, 80), (16, 16, 80), (32, 64, 96), (32, 128, 128), (7, 1, 112)]
)
def test_crops_are_as_large_as_the_network_needs(multiple_of: int, smallest_side: int, side: int) -> None:
    class Demanding(Generator):
        def forward_scales(self, blurred: Tensor) -> list[Tensor]:
            return [blurred]

    net = Demanding()
    net.multiple_of, net.smallest_side = multiple_of, smallest_side
    assert fitting_crops(FitConfig(crop=80), net).crop == side
    assert fitting_crops(FitConfig(crop=80), nn.Identity()).crop == 80
