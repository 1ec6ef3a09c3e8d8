"""Settings check themselves, and a table becomes settings or a message that names the field."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from deblur_deploy.config import FitConfig, ShakeConfig, from_table
from deblur_deploy.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str
    mode: Literal["fast", "exact"] = "fast"
    limit: int | None = None
    inner: Inner = dataclasses.field(default_factory=Inner)
    widths: dict[str, int] = dataclasses.field(default_factory=dict)
    extra: Any = None


def test_a_toml_table_becomes_settings() -> None:
    table = tomllib.loads("""
        name = "a"
        mode = "exact"
        limit = 3
        extra = [1, "x"]
        inner = { sizes = [1, 2] }
        widths = { head = 8 }
    """)
    assert from_table(Outer, table, "recipe") == Outer("a", "exact", 3, Inner((1, 2)), {"head": 8}, [1, "x"])


def test_defaults_fill_in_and_null_is_none() -> None:
    assert from_table(Outer, {"name": "a", "limit": None}, "recipe") == Outer("a")


def test_settings_survive_the_way_through_plain_data() -> None:
    for config in (ShakeConfig(length_px=(1.0, 2.0)), FitConfig(steps=3, lr=1e-4)):
        assert from_table(type(config), dataclasses.asdict(config), "table") == config


def test_whole_numbers_are_taken_for_fractions() -> None:
    config = from_table(ShakeConfig, {"length_px": [2, 8], "roll_deg": 1}, "shake")
    assert config == ShakeConfig(length_px=(2.0, 8.0), roll_deg=1.0)
    assert isinstance(config.roll_deg, float)


def test_an_unknown_field_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"fit has no field 'step'") as error:
        from_table(FitConfig, {"step": 3}, "fit")
    assert error.value.hint == "did you mean 'steps'?"
    with pytest.raises(ConfigError) as error:
        from_table(Inner, {"zzzzzz": 3}, "inner")
    assert "sizes" in error.value.hint


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": 3}, r"recipe\.name is 3"),
        ({"name": "a", "mode": "slow"}, r"recipe\.mode is 'slow'"),
        ({"name": "a", "limit": "3"}, r"recipe\.limit is '3'"),
        ({"name": "a", "limit": True}, r"recipe\.limit is True"),
        ({"name": "a", "inner": 3}, r"recipe\.inner is 3"),
        ({"name": "a", "inner": {"sizes": 3}}, r"recipe\.inner\.sizes is 3"),
        ({"name": "a", "inner": {"sizes": [1, 2.5]}}, r"recipe\.inner\.sizes\[1\] is 2\.5"),
        ({"name": "a", "widths": {"head": None}}, r"recipe\.widths\.head is None"),
        ({}, "recipe lacks name"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_table(Outer, table, "recipe")


@pytest.mark.parametrize("value", [[1.0], [1.0, 2.0, 3.0], 5, "ab"])
def test_a_range_has_two_ends(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"shake\.length_px"):
        from_table(ShakeConfig, {"length_px": value}, "shake")


@pytest.mark.parametrize(
    "values",
    [
        {"length_px": (5.0, 3.0)},
        {"length_px": (-1.0, 3.0)},
        {"length_px": (math.nan, math.nan)},
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
