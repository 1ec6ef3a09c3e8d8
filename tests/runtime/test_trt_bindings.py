"""The stand-in against TensorRT's real Python classes: what the runner calls on the one is there on the other.

The runner can call on a stand-in only what the stand-in has; so if all of that is on the real class, so is all that the
runner calls.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.runtime.engine_load import _DIAGNOSTICS, load_engine, new_logger

PROBE = Path(__file__).with_name("bindings_probe.py")


def members(module: str, *libraries: str) -> dict[str, set[str]]:
    ended = subprocess.run(
        [sys.executable, str(PROBE), module, *libraries], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return {name: set(found) for name, found in json.loads(ended.stdout).items()}


@pytest.fixture(scope="module")
def full(tensorrt_stubs: list[str]) -> dict[str, set[str]]:
    return members("tensorrt_bindings", *tensorrt_stubs)


@pytest.fixture(scope="module")
def rtx() -> dict[str, set[str]]:
    return members("tensorrt_rtx")


def played(cls: type) -> set[str]:
    """Methods and properties of a stand-in; what it has for the tests alone are attributes of its objects."""
    return {name for name in vars(cls) if not name.startswith("_")}


def missing(stand_in: Any, real: dict[str, set[str]], names: dict[str, str]) -> dict[str, set[str]]:
    lacking = {name: played(getattr(stand_in, cls)) - real[name] for name, cls in names.items()}
    return {name: found for name, found in lacking.items() if found}


@pytest.mark.parametrize("flavour", ["full", pytest.param("rtx", marks=pytest.mark.rtx)])
def test_all_that_the_runner_calls_exists(stand_in: Any, request: pytest.FixtureRequest, flavour: str) -> None:
    real = request.getfixturevalue(flavour)
    names = {
        "ICudaEngine": "StandInEngine",
        "IExecutionContext": "StandInContext",
        "Refitter": "StandInRefitter",
        "OnnxParserRefitter": "StandInOnnxParserRefitter",
    }
    assert len(played(stand_in.StandInEngine)) > 8
    assert missing(stand_in, real, names) == {}
    assert {"INPUT", "OUTPUT"} <= real["TensorIOMode"]
    assert {"FLOAT", "HALF", "UINT8"} <= real["DataType"]
    assert "LINEAR" in real["TensorFormat"]
    assert "DEVICE" in real["TensorLocation"]
    assert {"deserialize_cuda_engine", "get_plugin_registry"} <= real["Runtime"]
    assert "desc" in real["ParserError"]
    assert {"Runtime", "ILogger", "Refitter", "OnnxParserRefitter", "__version__"} <= real[""]


@pytest.mark.rtx
def test_what_only_rtx_has_exists(stand_in: Any, rtx: dict[str, set[str]]) -> None:
    assert missing(stand_in, rtx, {"IRuntimeCache": "StandInRuntimeCache"}) == {}
    config = played(stand_in.StandInRuntimeConfig) | {"cuda_graph_strategy"}
    assert config <= rtx["IRuntimeConfig"]
    assert "get_engine_validity" in rtx["Runtime"]
    for name in ("CudaGraphStrategy", "EngineValidity", "EngineInvalidityDiagnostics"):
        assert {member.name for member in getattr(stand_in.StandInTensorRTRTX, name)} <= rtx[name]
    assert set(_DIAGNOSTICS) == {name for name in rtx["EngineInvalidityDiagnostics"] if name.isupper()}


def test_the_full_tensorrt_is_told_from_rtx_by_what_it_lacks(full: dict[str, set[str]]) -> None:
    assert "load_library" in full["IPluginRegistry"]
    assert "CudaGraphStrategy" not in full[""]
    assert "get_engine_validity" not in full["Runtime"]


@pytest.mark.rtx
def test_rtx_itself_refuses_what_is_no_engine(engine: Artifact) -> None:
    import tensorrt_rtx

    with pytest.raises(ArtifactError, match=r"TensorRT-RTX [\d.]+ refuses .*model\.engine: the file is not an engine"):
        load_engine(engine, tensorrt_rtx)


@pytest.mark.rtx
def test_the_logger_is_one_that_tensorrt_takes() -> None:
    import tensorrt_rtx

    logger = new_logger(tensorrt_rtx)
    assert tensorrt_rtx.Runtime(logger) is not None
    logger.log(tensorrt_rtx.ILogger.Severity.ERROR, "something\n  failed")
    logger.log(tensorrt_rtx.ILogger.Severity.INFO, "all is well")
    assert logger.last_error == "something failed"
