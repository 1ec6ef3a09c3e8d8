"""Engines from their files, on a stand-in for TensorRT: what is kept beside them, and why one is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine_bench import Bench, picture

from deblur_deploy.core.artifact import hash_file
from deblur_deploy.core.errors import ArtifactError, BuildError, DeblurDeployError
from deblur_deploy.runtime.trt import SUFFIX


def test_rtx_makes_the_graph_itself_and_keeps_its_kernels(make: Callable[..., Bench], stand_in: Any) -> None:
    bench = make(flavour="rtx")
    strategies = stand_in.StandInTensorRTRTX.CudaGraphStrategy
    cache = bench.artifact.path.with_name(bench.artifact.path.name + SUFFIX)
    with bench.open(streams=2) as runner:
        assert runner.name == "tensorrt-rtx"
        for seed in range(3):
            runner.infer(picture(seed=seed))
    assert (bench.count("capture"), bench.count("execute")) == (0, 3)
    assert [config.cuda_graph_strategy for config in bench.engine.configs] == [strategies.WHOLE_GRAPH_CAPTURE]
    assert cache.read_bytes() == b"card A: compiled"
    cache.write_bytes(b"card A: more")
    with bench.open(cuda_graph=False) as runner:
        assert runner.name == "tensorrt-rtx-no-graph"
    assert bench.engine.configs[-1].cuda_graph_strategy is strategies.DISABLED
    assert bench.engine.configs[-1].cache.content == b"card A: more"
    cache.write_bytes(b"card B: compiled")
    with bench.open():
        pass
    assert cache.read_bytes() == b"card A: compiled"
    assert sorted(path.name for path in cache.parent.iterdir()) == ["model.engine", cache.name]


def test_a_file_that_is_no_engine_is_named_with_the_reason(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.artifact.path.write_bytes(b"engi")
    with pytest.raises(ArtifactError, match=r"TensorRT cannot load .*model\.engine: the magic tag does not match"):
        bench.open()
    bench.artifact.path.write_bytes(b"")
    with pytest.raises(ArtifactError, match="is empty"):
        bench.open()
    assert bench.cuda.leaks == {}


@pytest.mark.parametrize(
    ("bits", "error", "message", "hint"),
    [
        (1, BuildError, "built by another version", "export-trt --flavour rtx"),
        (2, BuildError, "for other cards than the one", "export-trt --flavour rtx"),
        (4, DeblurDeployError, "driver is too old", "nvidia-smi"),
        (32 + 1, ArtifactError, "another version and the file is not an engine", "copy the file again"),
        (0, DeblurDeployError, "it gives no reason", "nvidia-smi"),
    ],
)
def test_what_rtx_reads_off_the_file_becomes_a_sentence(
    make: Callable[..., Bench], bits: int, error: type[DeblurDeployError], message: str, hint: str
) -> None:
    bench = make(flavour="rtx")
    bench.trt.validity = (bench.trt.EngineValidity.INVALID, bits)
    with pytest.raises(error, match=message) as e:
        bench.open()
    assert type(e.value) is error
    assert hint in e.value.hint


def test_an_engine_of_another_network_is_refused(make: Callable[..., Bench], stand_in: Any) -> None:
    bench = make()
    bench.engine.tensors["state"] = stand_in.Named.INPUT
    with pytest.raises(ArtifactError, match="the inputs input, state and the outputs output"):
        bench.open()
    del bench.engine.tensors["state"]
    bench.engine.format = stand_in.Named.HWC8
    with pytest.raises(ArtifactError, match="'input' is FLOAT in the format HWC8"):
        bench.open()


def test_the_library_of_a_plugin_is_loaded_first(make: Callable[..., Bench], stand_in: Any, tmp_path: Any) -> None:
    bench, library = make(), tmp_path / "plugin.so"
    library.write_bytes(b"built")
    known = {"plugin": "library", "plugin_path": str(library), "plugin_sha256": hash_file(library)}
    bench.tell(**known)
    library.unlink()
    with pytest.raises(ArtifactError, match=r"needs the plugin library .*plugin\.so, which is not there") as e:
        bench.open()
    assert "build-plugin --out" in e.value.hint
    library.write_bytes(b"another")
    with pytest.raises(ArtifactError, match=r"plugin\.so is not the one that .*model\.engine was built with"):
        bench.open()
    assert bench.trt.libraries == []
    library.write_bytes(b"built")
    with bench.open() as runner:
        runner.infer(picture())
    assert bench.trt.libraries == [str(library)]


@pytest.mark.parametrize(
    "figures", [{"plugin": "aot"}, {"plugin": "none"}, {"plugin": "library", "version_compatible": True}]
)
def test_a_plugin_inside_the_engine_needs_no_library(make: Callable[..., Bench], figures: dict[str, Any]) -> None:
    bench = make()
    bench.tell(**figures)
    with bench.open():
        assert bench.trt.libraries == []


def test_only_an_engine_known_to_be_version_compatible_may_bring_its_own_code(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.engine.has_code = True
    with pytest.raises(ArtifactError, match="host code is not allowed"):
        bench.open()
    bench.tell(version_compatible=True)
    with bench.open() as runner:
        np.testing.assert_array_equal(runner.infer(picture()), 1 - picture())
