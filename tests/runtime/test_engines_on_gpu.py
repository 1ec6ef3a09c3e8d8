"""Engines for this machine's own card, against PyTorch; nothing of this runs without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deblur_deploy.config import EngineConfig, PlanConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError, MissingDependencyError
from deblur_deploy.engine.build import build_engine
from deblur_deploy.kernels.plugin_library import PluginBuildConfig, build_plugin
from deblur_deploy.runtime.engine_fit import flavour_of
from deblur_deploy.runtime.runner import Batch, open_runner, reason_unavailable, runtimes_for
from deblur_deploy.runtime.trt import EngineOptions, EngineRunner

pytestmark = pytest.mark.gpu

FLAVOURS = [pytest.param("rtx", marks=pytest.mark.rtx), pytest.param("tensorrt", marks=pytest.mark.trt)]
TOLERANCE = 5e-3
"""Of the largest value; float32 convolutions may run in TF32."""


def frame(seed: int = 0) -> Batch:
    return np.random.default_rng(seed).random((1, 3, 36, 50), dtype=np.float32)


@pytest.fixture(scope="module", params=FLAVOURS)
def built(
    request: pytest.FixtureRequest, onnx_file: Artifact, tmp_path_factory: pytest.TempPathFactory, skip_unsupported: Any
) -> Artifact:
    out: Path = tmp_path_factory.mktemp("engine") / request.param
    config = EngineConfig(target="current", flavour=request.param, precision="fp32")
    skip_unsupported(config)
    artifact = build_engine(onnx_file, config, out)
    if reason := reason_unavailable(artifact, runtimes_for(artifact)[0]):
        pytest.skip(reason)
    return artifact


def assert_agree(found: Batch, exact: Batch) -> None:
    assert np.abs(found - exact).max() <= TOLERANCE * np.abs(exact).max()


def test_engines_agree_with_pytorch_with_and_without_graphs(built: Artifact, checkpoint: Artifact) -> None:
    with open_runner(checkpoint, "torch") as reference:
        expected = [reference.infer(frame(seed)) for seed in range(4)]
    for runtime in runtimes_for(built):
        with open_runner(built, runtime) as runner:
            for seed, exact in enumerate(expected):
                assert_agree(runner.infer(frame(seed)), exact)
            with pytest.raises(ConfigError, match="cannot take"):
                runner.infer(frame()[:, :, :20])


def test_weights_are_put_back_into_an_engine_without_them(built: Artifact, onnx_file: Artifact, tmp_path: Path) -> None:
    plan = PlanConfig(strip_weights=True)
    config = EngineConfig(target="current", flavour=flavour_of(built), precision="fp32", plan=plan)
    stripped = build_engine(onnx_file, config, tmp_path / "stripped")
    assert stripped.path.stat().st_size < built.path.stat().st_size
    with open_runner(stripped) as runner, open_runner(built) as whole:
        assert_agree(runner.infer(frame()), whole.infer(frame()))


@pytest.mark.trt
@pytest.mark.parametrize("form", ["aot", "library"])
def test_the_plugin_computes_what_pytorch_does(
    onnx_file: Artifact, checkpoint: Artifact, tmp_path: Path, form: str
) -> None:
    plugin = form
    if form == "library":
        try:
            plugin = str(build_plugin(PluginBuildConfig(), tmp_path / "libdeblur_plugin.so").path)
        except MissingDependencyError as err:
            pytest.skip(err.message)
    config = EngineConfig("current", "tensorrt", "fp32", plugin=plugin)
    engine = build_engine(onnx_file, config, tmp_path / "engine")
    assert engine.figures["plugin"] == form
    with open_runner(checkpoint, "torch") as reference, open_runner(engine) as runner:
        assert_agree(runner.infer(frame()), reference.infer(frame()))


def test_tensors_of_pytorch_are_restored_where_they_are(built: Artifact) -> None:
    x = torch.from_numpy(frame()).cuda()
    with EngineRunner(built) as runner:
        expected = runner.infer(frame())
        result = torch.as_tensor(runner.infer_device(x), device="cuda")
        assert_agree(result.cpu().numpy(), expected)
        stream, out = torch.cuda.Stream(), torch.empty_like(x)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                runner.infer_device(x, out, stream=stream.cuda_stream)
            doubled = out * 2
        stream.synchronize()
        assert_agree(doubled.cpu().numpy(), expected * 2)


def test_streams_and_phases(built: Artifact) -> None:
    with EngineRunner(built, EngineOptions(streams=3)) as runner:
        expected = [runner.infer(frame(seed)) for seed in range(6)]
        for found, exact in zip(runner.infer_all(map(frame, range(6))), expected, strict=True):
            assert_agree(found, exact)
        _, timings = runner.infer_timed(frame())
        assert (
            timings.h2d[0]
            < timings.h2d[1]
            <= timings.compute[0]
            < timings.compute[1]
            <= timings.d2h[0]
            < timings.d2h[1]
        )
        assert runner.compute_again().latency_ms > 0
