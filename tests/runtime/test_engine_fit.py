"""Engines that do not fit this machine: each refused with one sentence and the command that builds one that does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import BuildError, MissingDependencyError
from deblur_deploy.runtime import engine_fit
from deblur_deploy.runtime.engine_fit import driver_hint, engine_unavailable, import_tensorrt, rebuild_hint
from deblur_deploy.runtime.nvidia import Gpu

RTX = {"flavour": "rtx", "flavour_version": "1.7.1.116"}
FULL = {"flavour": "tensorrt", "flavour_version": "11.4.0.106"}
TURING = {"target": "RTX 2080 Ti", "capability": "7.5"}
PORTABLE = {"target": "portable", "capability": None}


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch, engine: Artifact, with_figures: Any) -> Callable[..., Any]:
    """Why an engine with some figures cannot run on a card, with both flavours installed, or None."""
    versions = {"tensorrt_rtx": "1.7.1.116", "tensorrt": "11.4.0.106"}
    importer = SimpleNamespace(import_module=lambda name: SimpleNamespace(__version__=versions[name]))
    monkeypatch.setattr(engine_fit, "importlib", importer)
    monkeypatch.setattr(engine_fit, "count_nvidia_gpus", lambda: 1)

    def judge(figures: dict[str, Any], capability: str = "7.5", driver_cuda: str = "13.0") -> Any:
        monkeypatch.setattr(engine_fit, "find_gpu", lambda: Gpu("NVIDIA card", capability, driver_cuda))
        return engine_unavailable(with_figures(engine, **figures))

    return judge


@pytest.mark.parametrize(
    ("figures", "capability"),
    [
        (RTX | TURING, "7.5"),
        (FULL | TURING, "7.5"),
        (RTX | PORTABLE, "8.0"),
        (RTX | PORTABLE, "12.0"),
        (FULL | {"target": "current", "capability": "8.6", "hardware_compatibility": "ampere_plus"}, "8.9"),
        (FULL | {"target": "current", "capability": None}, "8.9"),
        (RTX | TURING | {"flavour_version": None}, "7.5"),
        (FULL | TURING | {"flavour_version": "11.2.9.9", "version_compatible": True}, "7.5"),
        (RTX | TURING | {"driver_cuda": "14.5"}, "7.5"),
    ],
)
def test_engines_that_fit_are_not_refused(judge: Callable[..., Any], figures: dict[str, Any], capability: str) -> None:
    assert judge(figures, capability) is None


@pytest.mark.parametrize(
    ("figures", "capability", "message", "hint"),
    [
        (RTX | TURING, "8.6", r"for RTX 2080 Ti \(SM75\) cannot run on .*NVIDIA card \(SM86\)", "rtx --target 'sm86'"),
        (FULL | TURING, "8.6", "cannot run on", "--flavour tensorrt --target 'current' --res 640x360 --fp16"),
        (RTX | PORTABLE, "7.5", "a portable engine, for Ampere and later, cannot run", "--target 'sm75'"),
        (FULL | TURING | {"hardware_compatibility": "same_compute_capability"}, "8.6", "cannot run on", "export-trt"),
        (RTX | TURING | {"flavour_version": "1.6.0.1"}, "7.5", "RTX 1.6.0.1, which 1.7.1.116, installed", "1.6.0.1"),
        (FULL | TURING | {"flavour_version": "11.2.0.1"}, "7.5", "11.2.0.1, which 11.4.0.106", "target 'current'"),
        (FULL | TURING | {"flavour_version": "10.9.0.1", "version_compatible": True}, "7.5", "cannot load", "export"),
        (FULL | TURING | {"flavour_version": "11.5.0.1", "version_compatible": True}, "7.5", "cannot load", "export"),
        (RTX | TURING, "9.0", "cannot run on", "--flavour tensorrt --target 'current'"),
    ],
)
def test_other_cards_and_versions_are_refused(
    judge: Callable[..., Any], figures: dict[str, Any], capability: str, message: str, hint: str
) -> None:
    with pytest.raises(BuildError, match=message) as e:
        raise judge(figures, capability)
    assert hint in e.value.hint
    assert "deblur-deploy export-trt" in e.value.hint


def test_an_old_driver_is_named_where_an_engine_does_not_load(engine: Artifact, with_figures: Any) -> None:
    built = with_figures(engine, driver_cuda="13.5")
    hint = driver_hint(built, Gpu("NVIDIA card", "7.5", "12.8"))
    assert hint is not None
    assert hint.startswith("update the NVIDIA driver, which knows CUDA 12.8 and the one at the build 13.5")
    assert driver_hint(built, Gpu("NVIDIA card", "7.5", "13.0")) is None
    assert driver_hint(engine, Gpu("NVIDIA card", "7.5", "12.8")) is None


def test_a_missing_tensorrt_comes_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, judge: Callable[..., Any]
) -> None:
    def fail(name: str) -> None:
        raise ImportError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(engine_fit, "importlib", SimpleNamespace(import_module=fail))
    unavailable = judge(FULL | TURING)
    assert isinstance(unavailable, MissingDependencyError)
    assert "libnvinfer.so.11" in unavailable.message
    assert unavailable.hint == "pip install tensorrt"
    with pytest.raises(MissingDependencyError, match="TensorRT-RTX, which runs the engine"):
        import_tensorrt("rtx")


def test_the_engine_is_rebuilt_for_its_own_card_where_this_one_is_unknown(engine: Artifact) -> None:
    assert "--flavour rtx --target 'RTX 2080 Ti' --res 640x360 --fp16`" in rebuild_hint(engine, None)
    assert "--flavour tensorrt --target 'current' --res" in rebuild_hint(engine, None, "tensorrt")


def test_the_rebuilt_engine_has_the_sizes_of_this_one_and_a_type_of_the_card(engine: Artifact) -> None:
    shapes = {"res": [], "min_res": "64x48", "opt_res": None, "max_res": "640x360", "batch": [1, 4]}
    step = dataclasses.replace(engine.history[-1], config={"precision": "int8", "shapes": shapes})
    hint = rebuild_hint(dataclasses.replace(engine, history=(step,)), Gpu("NVIDIA card", "7.5", "13.0"))
    assert "--target 'sm75' --min-res 64x48 --max-res 640x360 --batch 1-4 --fp16`" in hint
