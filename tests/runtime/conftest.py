"""One tiny network as a checkpoint and as an ONNX file, facts of an engine, and a stand-in for what runs engines."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact, NetworkSpec, new_step
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig


def _load(name: str) -> None:
    """Let the tests of this folder import a module beside them by its name."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


for _name in ("cuda_stand_in", "trt_stand_in", "engine_bench"):
    _load(_name)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A fresh network whose head and offsets are large enough to show in the picture."""
    torch.manual_seed(0)
    net = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval()
    torch.nn.init.normal_(net.head.weight, std=0.1)
    torch.nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.1)
    out = tmp_path_factory.mktemp("runtime") / "checkpoint"
    return save_network(out, net, spec_of(net), new_step("import", {}, None, {}))


@pytest.fixture(scope="session")
def onnx_file(checkpoint: Artifact) -> Artifact:
    """The same network for 50x36, a size that its pyramid does not divide."""
    from deblur_deploy.export.to_onnx import export_onnx  # what needs no graph is tested without onnxscript too

    return export_onnx(checkpoint, ExportConfig(width=50, height=36), checkpoint.directory.parent / "onnx")


@pytest.fixture(scope="session")
def stand_in() -> ModuleType:
    """The module ``trt_stand_in``: CUDA and TensorRT in the processor's memory."""
    return sys.modules["trt_stand_in"]


@pytest.fixture
def make(stand_in: Any, engine: Artifact) -> Callable[..., Any]:
    """Makes a stand-in engine with what opens it, of the module ``engine_bench``."""

    def make(shape: tuple[int, ...] = (1, 3, 4, 6), flavour: str = "tensorrt", **settings: Any) -> Any:
        built = stand_in.StandInEngine(stand_in.StandInCuda(), shape, **settings)
        return sys.modules["engine_bench"].Bench(stand_in, engine, flavour, built)

    return make


@pytest.fixture
def engine(tmp_path: Path) -> Artifact:
    """Facts of an engine and a file; what is in the file is up to the test's TensorRT."""
    path = tmp_path / "model.engine"
    path.write_bytes(b"engine")
    figures = {"target": "RTX 2080 Ti", "capability": "7.5", "flavour": "rtx", "flavour_version": "1.7.1.116"}
    step = new_step("export-trt", {"precision": "fp16"}, None, figures)
    return Artifact("engine", path, "0" * 64, NetworkSpec("srn", {}), ImageSpec(height=360, width=640), (step,))


WithFigures = Callable[..., Artifact]


@pytest.fixture
def with_figures() -> WithFigures:
    """Makes an artifact with other figures."""

    def change(artifact: Artifact, **figures: object) -> Artifact:
        last = dataclasses.replace(artifact.history[-1], figures=figures)
        return dataclasses.replace(artifact, history=(*artifact.history[:-1], last))

    return change
