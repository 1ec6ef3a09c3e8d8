"""Settings check themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest

from deblur_deploy.config import CameraConfig, FitConfig, ShakeConfig, TrainConfig, TuningConfig, UnpairedConfig
from deblur_deploy.core.errors import ConfigError


@pytest.mark.parametrize(
    "values",
    [
        {"length_px": (5.0, 3.0)},
        {"length_px": (-1.0, 3.0)},
        {"length_px": (math.nan, math.nan)},
        {"length_px": (3.0, math.inf)},
        {"frames": (0, 4)},
        {"frames": (8, 4)},
        {"foreground_probability": 1.5},
        {"photons": (0.0, 100.0)},
        {"roll_deg": -0.1},
        {"turn_rad": -1.0},
        {"highlight_gain": -1.0},
        {"read_noise": -0.1},
    ],
)
def test_a_shake_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        ShakeConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"steps": -1},
        {"batch": 0},
        {"crop": 0},
        {"crop": 120},
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"lr": -1e-3},
        {"lr": math.inf, "lr_final": math.inf},
        {"coarse_weight": -0.5},
        {"coarse_weight": math.nan},
        {"coarse_weight": math.inf},
        {"distill_weight": -0.5},
        {"distill_weight": math.nan},
        {"distill_weight": math.inf},
        {"lr_final": 1.0},
        {"warmup": -1},
        {"clip_norm": 0.0},
        {"ema_decay": 1.0},
        {"seed": -1},
    ],
)
def test_a_fit_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        FitConfig(**values)


@pytest.mark.parametrize("kind", [TrainConfig, TuningConfig])
@pytest.mark.parametrize(
    "blur", [{"shake": ShakeConfig(length_px=(3.0, 40.0))}, {"camera": CameraConfig(length_px=(2.0, 40.0))}]
)
def test_paths_that_lead_out_of_the_crops_are_refused(kind: Any, blur: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="paths of up to 40 px do not fit into crops of 32 px") as caught:
        kind(fit=FitConfig(10, crop=32), **blur)
    assert "crops of 160 px or more" in caught.value.hint
    assert kind(fit=FitConfig(10, crop=48), **blur).blur.length_px[1] == 40


@pytest.mark.parametrize(
    "values",
    [
        {"film_frames": 0},
        {"cycle": 0.0},
        {"cycle": math.nan},
        {"identity": -1.0},
        {"identity": math.inf},
        {"adversarial": -0.1},
        {"guard_db": -0.3},
        {"guard_db": math.nan},
        {"discriminator_lr": 0.0},
        {"blur_lr": math.inf},
        {"blur_base": 0},
        {"blur_share": 1.0},
        {"blur_share": -0.1},
        {"check_every": 0},
    ],
)
def test_settings_of_training_on_footage_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        UnpairedConfig(**values)
