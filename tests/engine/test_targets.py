"""Names of cards and compute capabilities."""

from __future__ import annotations

import pytest

from deblur_deploy.core.errors import BuildError, ConfigError
from deblur_deploy.engine.targets import CURRENT, PORTABLE, BuildTarget, check_buildable, resolve_target

RTX_MEMBERS = ("NONE", "CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120", "SM121")


@pytest.mark.parametrize(
    ("text", "name", "capability"),
    [
        ("2080ti", "RTX 2080 Ti", "7.5"),
        ("RTX 2080 Ti", "RTX 2080 Ti", "7.5"),
        ("NVIDIA GeForce RTX 2080 Ti", "RTX 2080 Ti", "7.5"),
        ("rtx-2080-ti", "RTX 2080 Ti", "7.5"),
        ("sm75", "SM75", "7.5"),
        ("SM_75", "SM75", "7.5"),
        ("7.5", "SM75", "7.5"),
        ("75", "SM75", "7.5"),
        ("12.0", "SM120", "12.0"),
        ("120", "SM120", "12.0"),
        ("rtx4090", "RTX 4090", "8.9"),
        ("RTX 4070 Ti SUPER", "RTX 4070", "8.9"),
        ("RTX 3060 Laptop GPU", "RTX 3060", "8.6"),
        ("NVIDIA A100-SXM4-80GB", "A100", "8.0"),
        ("Tesla T4", "T4", "7.5"),
        ("Quadro RTX 8000", "RTX 8000", "7.5"),
        ("titan rtx", "Titan RTX", "7.5"),
        ("h100", "H100", "9.0"),
        (" Portable ", "portable", None),
        ("current", "current", None),
    ],
)
def test_cards_and_capabilities_are_understood(text: str, name: str, capability: str | None) -> None:
    assert resolve_target(text) == BuildTarget(name, capability)


@pytest.mark.parametrize(("text", "hint"), [("2090", "RTX 2080"), ("rtx 4095", "RTX 4090"), ("5070x", "RTX 5070")])
def test_unknown_card_gets_the_nearest_name(text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        resolve_target(text)
    assert f"did you mean {hint!r}?" in caught.value.hint


@pytest.mark.parametrize("text", ["", "banana", "sm999", "0", "7.55", "-7.5", "sm", "RTX"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"called {text!r}"):
        resolve_target(text)


def test_sm_is_what_tensorrt_writes() -> None:
    assert resolve_target("2080ti").sm == "SM75"
    assert resolve_target("5090").sm == "SM120"
    assert PORTABLE.sm is None


@pytest.mark.parametrize("text", ["2080ti", "a100", "5090", "portable", "current"])
def test_cards_of_tensorrt_rtx_pass(text: str) -> None:
    check_buildable(resolve_target(text), RTX_MEMBERS)


def test_data_centre_card_is_sent_to_the_full_tensorrt() -> None:
    with pytest.raises(BuildError, match=r"H100 \(SM90\); it has SM75, .*, SM121") as caught:
        check_buildable(resolve_target("h100"), RTX_MEMBERS)
    assert "--flavour tensorrt --target current" in caught.value.hint


@pytest.mark.parametrize("card", ["V100", "GTX 1080 Ti"])
def test_card_before_turing_is_sent_to_an_older_tensorrt(card: str) -> None:
    with pytest.raises(BuildError, match=card) as caught:
        check_buildable(resolve_target(card), RTX_MEMBERS)
    assert "8.6" in caught.value.hint


def test_portable_and_current_differ() -> None:
    assert PORTABLE != CURRENT
