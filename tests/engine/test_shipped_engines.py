"""The shipped generator, whole and pruned, as TensorRT-RTX engines for every kind of target, each with its proof."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deblur_deploy.compress.plan import prune_network
from deblur_deploy.compress.quantize import plan_scheme, quantize_network
from deblur_deploy.config import EngineConfig, ExportConfig, Precision, PrecisionConfig, PruneConfig, QatConfig
from deblur_deploy.core.artifact import Artifact, load_artifact, new_step
from deblur_deploy.core.errors import BuildError
from deblur_deploy.core.sources import shipped
from deblur_deploy.engine.build import build_engine
from deblur_deploy.engine.targets import resolve_target
from deblur_deploy.export.precision import lower_precision
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.runtime.runner import open_runner

pytestmark = pytest.mark.rtx

SMALL = ExportConfig(160, 96)
Graph = Callable[[str, Precision], Artifact]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """ONNX artifacts by name of the network and precision, made once: ``graph("pruned", "fp16")``."""
    root = tmp_path_factory.mktemp("graphs")
    checkpoints = {
        "original": lambda: load_artifact(shipped("models") / "srn-demo"),
        "pruned": lambda: _pruned(checkpoints["original"](), root / "pruned"),
        "quantized": lambda: load_artifact(shipped("models") / "srn-demo-p70-int8"),
        "float8": lambda: _calibrated(checkpoints["original"](), root / "float8"),
    }
    made: dict[tuple[str, Precision], Artifact] = {}

    def graph_of(name: str, precision: Precision) -> Artifact:
        if (name, precision) in made:
            return made[name, precision]
        if precision == "fp16":
            found = lower_precision(graph_of(name, "fp32"), PrecisionConfig(), root / f"{name}-fp16")
        else:
            found = export_onnx(checkpoints[name](), SMALL, root / f"{name}-onnx")
        made[name, precision] = found
        return found

    return graph_of


def _pruned(source: Artifact, out: Path) -> Artifact:
    """Seven tenths of the channels, without the fine-tuning, which changes no shape."""
    net, _ = prune_network(load_network(source), PruneConfig(importance="l2"))
    return save_network(out, net, spec_of(net), new_step("prune", {}, source, measure_cost(net)))


def _calibrated(source: Artifact, out: Path) -> Artifact:
    """Every layer but the exempt ones in float8, ranges read off one small picture, without the fine-tuning."""
    net = load_network(source)
    scheme = asdict(plan_scheme(net, QatConfig(format="fp8")))
    frame = np.random.default_rng(0).random((1, 3, SMALL.height, SMALL.width), dtype=np.float32)
    quantize_network(net, scheme, [frame])
    return save_network(out, net, replace(source.network, quantization=scheme), new_step("qat", {}, source, {}))


@pytest.mark.parametrize("target", ["sm75", "sm86", "portable"])
@pytest.mark.parametrize("name", ["original", "pruned"])
def test_float16_engines(graph: Graph, tmp_path: Path, name: str, target: str):
    build_engine(graph(name, "fp16"), EngineConfig(target=target), tmp_path / "engine")

    engine = load_artifact(tmp_path / "engine")
    figures = engine.figures
    assert figures["precision"]["fp16"] >= 0.9
    assert figures["precision"].get("unproven", 0.0) == 0
    assert set(figures["precision_by_kind"]) == {"convolution", "deconvolution", "deformable"}
    assert figures["precision_by_kind"]["deformable"] == {"fp16": 1.0}
    assert (figures["target"], figures["capability"]) == (
        resolve_target(target).name,
        resolve_target(target).capability,
    )
    assert len(figures["network_sha256"]) == 64
    assert engine.path.stat().st_size > 1_000_000


@pytest.mark.parametrize("target", ["sm86", "portable"])
def test_int8_engines(graph: Graph, tmp_path: Path, target: str):
    source = graph("quantized", "int8")
    engine = build_engine(source, EngineConfig(target=target, precision="int8"), tmp_path / "engine")

    by_kind = load_artifact(tmp_path / "engine").figures["precision_by_kind"]
    assert by_kind["convolution"]["int8"] >= 0.9
    assert "int8" not in by_kind["deconvolution"]
    assert engine.figures["precision"].get("unproven", 0.0) == 0


@pytest.mark.parametrize("target", ["sm89", pytest.param("sm120", marks=pytest.mark.slow)])
def test_float8_engines(graph: Graph, tmp_path: Path, target: str):
    """Deconvolutions and the deformable convolutions stay float32, as they are in the file."""
    engine = build_engine(graph("float8", "fp8"), EngineConfig(target=target, precision="fp8"), tmp_path / "engine")

    by_kind = load_artifact(tmp_path / "engine").figures["precision_by_kind"]
    assert by_kind["convolution"]["fp8"] >= 0.9
    assert by_kind["deformable"] == by_kind["deconvolution"] == {"fp32": 1.0}
    assert engine.figures["precision"]["fp8"] > 0.8
    assert engine.figures["precision_unproven_because"] is None


@pytest.mark.parametrize("target", ["sm75", "sm86"])
def test_a_float8_network_is_no_float8_engine_before_ada(graph: Graph, tmp_path: Path, target: str):
    with pytest.raises(BuildError, match="no fp8 convolutions") as caught:
        build_engine(graph("float8", "fp8"), EngineConfig(target=target, precision="fp8"), tmp_path / "engine")
    assert "--fp16" in caught.value.hint


def test_a_quantized_network_is_no_int8_engine_for_turing(graph: Graph, tmp_path: Path):
    with pytest.raises(BuildError, match="no int8 convolutions") as caught:
        build_engine(graph("quantized", "int8"), EngineConfig(target="sm75", precision="int8"), tmp_path / "engine")
    assert "--fp16" in caught.value.hint


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "precision"), [("original", "fp16"), ("quantized", "int8"), ("float8", "fp8")])
def test_an_engine_gives_the_pictures_of_its_file(
    graph: Graph, tmp_path: Path, skip_unsupported: Any, name: str, precision: Precision
):
    config = EngineConfig(target="current", precision=precision)
    skip_unsupported(config)
    source = graph(name, precision)
    engine = build_engine(source, config, tmp_path / "engine")
    picture = np.random.default_rng(0).random((1, 3, SMALL.height, SMALL.width), dtype=np.float32)
    with open_runner(source, "onnxruntime") as file, open_runner(engine) as runner:
        difference = runner.infer(picture) - file.infer(picture)
    assert 10 * np.log10(1 / np.mean(np.square(difference))) >= 40


def test_the_proof_can_fail(graph: Graph, tmp_path: Path):
    """A float32 engine proves to be none of the others, though the builder was as content with it."""
    source = graph("original", "fp32")
    engine = build_engine(source, EngineConfig(target="sm86", precision="fp32"), tmp_path / "engine")

    assert engine.figures["precision"].get("fp16", 0.0) < 0.05
    assert engine.figures["precision"]["fp32"] >= 0.95
    with pytest.raises(BuildError, match=r"int8 was asked for, but only 0\.0% .* of the convolutions"):
        build_engine(source, EngineConfig(target="sm86", precision="int8"), tmp_path / "other")


def test_a_frame_for_the_default_card_builds_in_time(tmp_path: Path):
    """Measured on the processor's own time too, which does not count what else the machine does."""
    checkpoint = load_artifact(shipped("models") / "srn-demo")
    typed = lower_precision(
        export_onnx(checkpoint, ExportConfig(640, 360), tmp_path / "onnx"), PrecisionConfig(), tmp_path / "fp16"
    )
    children = _children_seconds()
    started = time.perf_counter()
    engine = build_engine(typed, EngineConfig(target="sm75"), tmp_path / "engine")
    wall, processor = time.perf_counter() - started, _children_seconds() - children

    assert engine.figures["precision"]["fp16"] >= 0.9
    assert min(wall, processor) <= 15


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
