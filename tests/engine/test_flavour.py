"""Which TensorRT is found, and where the flavours differ."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import pytest

from deblur_deploy.core.errors import BuildError, MissingDependencyError
from deblur_deploy.engine import flavour as flavour_module
from deblur_deploy.engine.flavour import Flavour, aim, choose_flavour, load_flavour, strongly_typed_flags
from deblur_deploy.engine.targets import CURRENT, PORTABLE, resolve_target


class Capability(IntEnum):
    """As in TensorRT-RTX."""

    NONE = 0
    CURRENT = 1
    SM75 = 75
    SM86 = 86


class NamedCardConfig:
    """A builder's settings as TensorRT-RTX has them."""

    num_compute_capabilities = 0

    def __init__(self, *, accepts: bool = True) -> None:
        self.set: list[tuple[Capability, int]] = []
        self._accepts = accepts

    def set_compute_capability(self, capability: Capability, index: int) -> bool:
        self.set.append((capability, index))
        return self._accepts


RTX = Flavour("rtx", SimpleNamespace(__version__="1.7", ComputeCapability=Capability))
FULL = Flavour("tensorrt", SimpleNamespace(__version__="11.4"))


def install(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    monkeypatch.setattr(flavour_module, "find_spec", lambda name: object() if name in modules else None)


@pytest.mark.parametrize(
    ("wanted", "installed", "found"),
    [
        ("auto", ("tensorrt_rtx", "tensorrt"), "rtx"),
        ("auto", ("tensorrt",), "tensorrt"),
        ("tensorrt", ("tensorrt_rtx", "tensorrt"), "tensorrt"),
        ("rtx", ("tensorrt_rtx",), "rtx"),
    ],
)
def test_installed_flavour_is_found(
    monkeypatch: pytest.MonkeyPatch, wanted: str, installed: tuple[str, ...], found: str
) -> None:
    install(monkeypatch, *installed)
    assert choose_flavour(wanted) == found


@pytest.mark.parametrize(
    ("wanted", "installed", "hint"),
    [
        ("auto", (), "pip install 'deblur-deploy[rtx]'"),
        ("rtx", ("tensorrt",), "pip install 'deblur-deploy[rtx]'"),
        ("tensorrt", ("tensorrt_rtx",), "pip install 'deblur-deploy[trt]'"),
    ],
)
def test_missing_flavour_comes_with_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, wanted: str, installed: tuple[str, ...], hint: str
) -> None:
    install(monkeypatch, *installed)
    with pytest.raises(MissingDependencyError, match="not installed") as caught:
        choose_flavour(wanted)
    assert caught.value.hint == hint


def test_flavour_that_does_not_import_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_trt.py").write_text("raise OSError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(flavour_module._MODULES, "tensorrt", "broken_trt")
    with pytest.raises(MissingDependencyError, match=r"libnvinfer\.so\.11") as caught:
        load_flavour("tensorrt")
    assert caught.value.hint == "pip install 'deblur-deploy[trt]'"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [(SimpleNamespace(STRONGLY_TYPED=1), 2), (SimpleNamespace(STRONGLY_TYPED=0), 1), (SimpleNamespace(), 0)],
)
def test_strong_typing_is_asked_for_where_it_is_a_flag(flags: SimpleNamespace, expected: int) -> None:
    assert strongly_typed_flags(SimpleNamespace(NetworkDefinitionCreationFlag=flags)) == expected


@pytest.mark.parametrize(("target", "capability"), [("2080ti", Capability.SM75), ("current", Capability.CURRENT)])
def test_named_card_is_set(target: str, capability: Capability) -> None:
    config = NamedCardConfig()
    aim(RTX, config, resolve_target(target))
    assert config.num_compute_capabilities == 1
    assert config.set == [(capability, 0)]


def test_portable_leaves_the_default() -> None:
    config = NamedCardConfig()
    aim(RTX, config, PORTABLE)
    assert config.num_compute_capabilities == 0
    assert not config.set


def test_card_that_the_flavour_lacks_is_refused() -> None:
    with pytest.raises(BuildError, match="SM90"):
        aim(RTX, NamedCardConfig(), resolve_target("h100"))


def test_card_that_the_builder_refuses_is_an_error() -> None:
    with pytest.raises(BuildError, match="refuses to build for RTX 3090"):
        aim(RTX, NamedCardConfig(accepts=False), resolve_target("3090"))


def test_full_tensorrt_builds_for_the_card_at_hand_only() -> None:
    config = SimpleNamespace()
    aim(FULL, config, CURRENT)
    with pytest.raises(BuildError, match=r"TensorRT builds for the GPU .* RTX 2080 Ti") as caught:
        aim(FULL, config, resolve_target("2080ti"))
    assert "--target current" in caught.value.hint


@pytest.mark.rtx
def test_every_capability_of_the_installed_flavour_has_a_name() -> None:
    rtx = load_flavour("rtx")
    assert rtx.version.startswith("1.")
    cards = [name for name in rtx.module.ComputeCapability.__members__ if name.startswith("SM")]
    assert "SM75" in cards
    assert [resolve_target(name).sm for name in cards] == cards
