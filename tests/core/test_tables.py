"""A table becomes settings, or a message that names the field."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from deblur_deploy.config import FitConfig, QatConfig, ShakeConfig
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.tables import from_table, load_settings


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


def test_a_sub_table_changes_what_it_names_and_nothing_else() -> None:
    qat = from_table(QatConfig, {"tuning": {"fit": {"steps": 7}, "photos": "mine"}}, "qat")
    usual = QatConfig().tuning
    assert qat.tuning.fit == dataclasses.replace(usual.fit, steps=7)
    assert qat.tuning == dataclasses.replace(usual, fit=qat.tuning.fit, photos="mine")
    with pytest.raises(ConfigError, match=r"qat\.tuning\.fit has no field 'step'"):
        from_table(QatConfig, {"tuning": {"fit": {"step": 7}}}, "qat")


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


def test_settings_are_read_from_a_toml_file(tmp_path: Path) -> None:
    (tmp_path / "fit.toml").write_text("steps = 7\nlr = 1e-3\n")
    assert load_settings(FitConfig, tmp_path / "fit.toml") == FitConfig(steps=7, lr=1e-3)


@pytest.mark.parametrize("content", [b"steps = ", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fit.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"fit\.toml cannot be read as a recipe"):
        load_settings(FitConfig, tmp_path / "fit.toml")
