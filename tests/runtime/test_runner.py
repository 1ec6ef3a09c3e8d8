"""Runners: all give the same picture, and what cannot run says why before it is tried."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from numpy.typing import NDArray

import deblur_deploy
from deblur_deploy.core.artifact import Artifact, Draft, new_step, write_artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError, DeblurDeployError, MissingDependencyError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.core.threads import default_threads
from deblur_deploy.runtime import engine_fit
from deblur_deploy.runtime import runner as runner_module
from deblur_deploy.runtime.eager import TorchRunner, torch_unavailable
from deblur_deploy.runtime.nvidia import Gpu
from deblur_deploy.runtime.ort import OnnxruntimeRunner
from deblur_deploy.runtime.ov import OpenVINORunner, computes_bf16
from deblur_deploy.runtime.runner import (
    RUNTIMES,
    Batch,
    default_runtime,
    measurable_runtimes,
    open_runner,
    reason_unavailable,
    runtime_states,
    runtimes_for,
)

WithFigures = Callable[..., Artifact]


def frame(height: int = 36, width: int = 50) -> Batch:
    return np.random.default_rng(3).random((1, 3, height, width), dtype=np.float32)


def relative_error(found: Batch, exact: Batch) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


@pytest.fixture
def expected(checkpoint: Artifact) -> Batch:
    """What the network makes of ``frame()`` in PyTorch."""
    with open_runner(checkpoint, "torch") as runner:
        return runner.infer(frame())


def test_the_network_changes_the_picture(expected: Batch) -> None:
    assert np.abs(expected - frame()).max() > 0.05


def test_channels_last_agrees_with_torch(checkpoint: Artifact, expected: Batch) -> None:
    with open_runner(checkpoint, "torch-channels-last") as runner:
        assert runner.name == "torch-channels-last"
        np.testing.assert_allclose(runner.infer(frame()), expected, atol=1e-4)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_onnx_runtimes_agree_with_torch(onnx_file: Artifact, expected: Batch, runtime: str) -> None:
    with open_runner(onnx_file, runtime, threads=1) as runner:
        assert runner.name == runtime
        assert (runner.image.width, runner.image.height) == (50, 36)
        first = runner.infer(frame())
        runner.infer(np.zeros_like(frame()))
    assert first.dtype == np.float32
    assert first.shape == (1, 3, 36, 50)
    np.testing.assert_allclose(first, expected, atol=1e-4)


def test_bfloat16_runs_where_the_processor_has_it(onnx_file: Artifact, expected: Batch) -> None:
    if not computes_bf16():
        reason = reason_unavailable(onnx_file, "openvino-bf16")
        assert reason is not None
        assert "no bfloat16 arithmetic" in reason
        return
    with open_runner(onnx_file, "openvino-bf16") as runner:
        assert 0 < relative_error(runner.infer(frame()), expected) < 0.05


@pytest.mark.parametrize(("name", "hint"), [("openvino", "f32"), ("openvino-bf16", "bf16")])
def test_openvino_is_told_precision_and_threads(
    monkeypatch: pytest.MonkeyPatch, onnx_file: Artifact, name: str, hint: str
) -> None:
    seen: list[dict[str, Any]] = []

    class Watched(openvino.Core):
        def compile_model(self, model: Any, device_name: Any = None, config: Any = None, **rest: Any) -> Any:
            seen.append(config)
            return super().compile_model(model, device_name, {"INFERENCE_NUM_THREADS": 1})

    monkeypatch.setattr(openvino, "Core", Watched)
    OpenVINORunner(onnx_file, name, threads=3)
    OpenVINORunner(onnx_file, name)
    assert [settings["INFERENCE_PRECISION_HINT"] for settings in seen] == [hint, hint]
    assert [settings["INFERENCE_NUM_THREADS"] for settings in seen] == [3, default_threads()]


@pytest.mark.parametrize("threads", [3, 1, None])
def test_onnxruntime_is_told_its_threads(onnx_file: Artifact, threads: int | None) -> None:
    with OnnxruntimeRunner(onnx_file, threads) as runner:
        options = runner._session.get_session_options()
    assert options.intra_op_num_threads == (threads or default_threads())
    assert options.inter_op_num_threads == 1


def test_a_checkpoint_takes_any_size(checkpoint: Artifact) -> None:
    with open_runner(checkpoint) as runner:
        assert runner.infer(frame(17, 5)).shape == (1, 3, 17, 5)
        assert runner.infer(np.repeat(frame(), 2, axis=0)).shape == (2, 3, 36, 50)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_another_size_than_the_exported_one_is_refused(onnx_file: Artifact, runtime: str) -> None:
    with (
        open_runner(onnx_file, runtime) as runner,
        pytest.raises(ConfigError, match="50x36 and cannot take 64x48") as e,
    ):
        runner.infer(frame(48, 64))
    assert "--res 64x48" in e.value.hint


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((3, 36, 50), np.float32),
        np.zeros((1, 1, 36, 50), np.float32),
        np.zeros((1, 3, 36, 50), np.float64),
        np.zeros((2, 3, 36, 50), np.float32),
        np.zeros((1, 3, 0, 50), np.float32),
    ],
)
def test_malformed_batches_are_refused(onnx_file: Artifact, batch: Batch) -> None:
    with open_runner(onnx_file, "onnxruntime") as runner, pytest.raises(ConfigError):
        runner.infer(batch)


def test_pytorch_uses_the_threads_it_was_given_and_puts_them_back(checkpoint: Artifact) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    class Watcher(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return x

    with TorchRunner(Watcher(), ImageSpec(), threads=before + 1) as runner:
        runner.infer(frame())
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_a_failure_inside_the_runtime_becomes_one_clear_error() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("not enough memory: you tried to allocate 1 TB")

    with (
        TorchRunner(Broken(), ImageSpec()) as runner,
        pytest.raises(DeblurDeployError, match="torch failed on a 1x3x36x50 batch: not enough memory"),
    ):
        runner.infer(frame())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_that_is_no_onnx_is_named(tmp_path: Path, onnx_file: Artifact, runtime: str) -> None:
    draft = Draft(
        kind="onnx",
        file_name="model.onnx",
        write=lambda path: path.write_bytes(b"not an ONNX file"),
        network=onnx_file.network,
        image=onnx_file.image,
        step=new_step("export-onnx", {}, None, {}),
    )
    artifact = write_artifact(tmp_path / "broken", draft)
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        open_runner(artifact, runtime)


def test_defaults_are_the_preferred_runtimes(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Artifact, onnx_file: Artifact, engine: Artifact
) -> None:
    assert default_runtime(checkpoint) == "torch"
    assert default_runtime(onnx_file) == "openvino"
    assert default_runtime(engine) == "tensorrt-rtx"
    monkeypatch.setattr(runner_module, "find_spec", lambda name: None if name == "openvino" else object())
    assert default_runtime(onnx_file) == "onnxruntime"


@pytest.mark.parametrize(
    ("figures", "name"),
    [
        ({"target": "SM86", "capability": "8.6"}, "an engine for SM86 "),
        ({"target": "portable", "capability": None}, "an engine needs"),
        ({}, "an engine needs"),
    ],
)
def test_engines_are_named_by_what_is_known_of_them(
    monkeypatch: pytest.MonkeyPatch,
    engine: Artifact,
    with_figures: WithFigures,
    figures: dict[str, str | None],
    name: str,
) -> None:
    monkeypatch.setattr(engine_fit, "count_nvidia_gpus", lambda: None)
    assert str(reason_unavailable(with_figures(engine, **figures), "tensorrt-rtx")).startswith(name)


def test_every_runtime_belongs_to_one_kind(
    checkpoint: Artifact, onnx_file: Artifact, engine: Artifact, with_figures: WithFigures
) -> None:
    artifacts = (checkpoint, onnx_file, engine, with_figures(engine, flavour="tensorrt"))
    names = [name for artifact in artifacts for name in runtimes_for(artifact)]
    assert sorted(names) == sorted(RUNTIMES)


def test_what_runs_has_no_reason_against_it(checkpoint: Artifact, onnx_file: Artifact) -> None:
    assert reason_unavailable(checkpoint, "torch") is None
    assert reason_unavailable(onnx_file, "openvino") is None
    assert reason_unavailable(onnx_file, "onnxruntime") is None


def test_a_missing_package_comes_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, onnx_file: Artifact
) -> None:
    monkeypatch.setattr(runner_module, "find_spec", lambda name: None)
    assert reason_unavailable(onnx_file, "onnxruntime") == "onnxruntime needs onnxruntime; pip install onnxruntime"
    with pytest.raises(MissingDependencyError, match="openvino needs openvino and onnx"):
        open_runner(onnx_file, "openvino")


def test_the_wrong_kind_is_refused_with_what_would_fit(checkpoint: Artifact, onnx_file: Artifact) -> None:
    with pytest.raises(ConfigError, match="torch runs artifacts of kind checkpoint") as e:
        open_runner(onnx_file, "torch")
    assert "openvino or openvino-bf16 or onnxruntime or" in e.value.hint
    reason = reason_unavailable(checkpoint, "onnxruntime")
    assert reason is not None
    assert "choose torch" in reason


def test_an_unknown_runtime_gets_the_nearest_known(checkpoint: Artifact) -> None:
    with pytest.raises(ConfigError, match="'onnxruntim'") as e:
        open_runner(checkpoint, "onnxruntim")
    assert "'onnxruntime'" in e.value.hint


@pytest.mark.parametrize(("gpus", "expected"), [(None, "has no NVIDIA driver"), (0, "finds none")])
def test_gpu_runtimes_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Artifact, engine: Artifact, gpus: int | None, expected: str
) -> None:
    monkeypatch.setattr(runner_module, "count_nvidia_gpus", lambda: gpus)
    monkeypatch.setattr(engine_fit, "count_nvidia_gpus", lambda: gpus)
    monkeypatch.setattr(engine_fit, "find_gpu", lambda: None)
    assert expected in str(reason_unavailable(checkpoint, "torch-cuda-fp16-graph"))
    reason = str(reason_unavailable(engine, "tensorrt-rtx"))
    assert reason.startswith("an engine for RTX 2080 Ti (SM75)")
    assert expected in reason
    with pytest.raises(DeblurDeployError, match=expected):
        open_runner(engine)


def test_an_engine_of_another_tensorrt_is_refused_with_the_command_that_builds_one(
    monkeypatch: pytest.MonkeyPatch, engine: Artifact
) -> None:
    monkeypatch.setattr(runner_module, "find_gpu", lambda: Gpu("RTX 2080 Ti", "7.5", "13.0"))
    with pytest.raises(ConfigError, match=r"tensorrt-no-graph cannot run .*: it was built by TensorRT-RTX") as e:
        open_runner(engine, "tensorrt-no-graph")
    assert "choose tensorrt-rtx or tensorrt-rtx-no-graph" in e.value.hint
    assert "export-trt --flavour tensorrt --target 'current' --res 640x360 --fp16" in e.value.hint


def test_what_is_measured_unasked_depends_on_the_driver(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Artifact, onnx_file: Artifact, engine: Artifact
) -> None:
    monkeypatch.setattr(runner_module, "count_nvidia_gpus", lambda: None)
    assert measurable_runtimes(checkpoint) == ("torch", "torch-channels-last")
    assert measurable_runtimes(onnx_file) == ("openvino", "openvino-bf16", "onnxruntime")
    assert measurable_runtimes(engine) == ("tensorrt-rtx", "tensorrt-rtx-no-graph")
    monkeypatch.setattr(runner_module, "count_nvidia_gpus", lambda: 1)
    assert {"torch-cuda", "torch-cuda-fp16-compile", "torch-cuda-bf16-graph"} < set(measurable_runtimes(checkpoint))
    assert "torch-compile" not in measurable_runtimes(checkpoint)
    assert set(measurable_runtimes(onnx_file)) == set(runtimes_for(onnx_file))


def test_the_machine_is_asked_about_every_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "count_nvidia_gpus", lambda: None)
    monkeypatch.setattr(runner_module, "find_spec", lambda name: None if name == "tensorrt" else object())
    states = runtime_states()
    assert list(states) == list(RUNTIMES)
    assert [states[name] for name in ("torch", "torch-bf16", "openvino", "onnxruntime")] == [None] * 4
    assert str(states["torch-cuda"]).startswith("torch-cuda needs an NVIDIA GPU, and this machine has no NVIDIA driver")
    assert str(states["tensorrt-rtx"]).startswith("tensorrt-rtx needs an NVIDIA GPU")
    assert states["tensorrt"] == "tensorrt needs tensorrt; pip install tensorrt cuda-python"


@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx"])
def test_an_onnxruntime_without_the_provider_is_named(
    monkeypatch: pytest.MonkeyPatch, onnx_file: Artifact, runtime: str
) -> None:
    monkeypatch.setattr(runner_module, "count_nvidia_gpus", lambda: 1)
    provider = RUNTIMES[runtime].provider
    if provider in onnxruntime.get_available_providers() or find_spec("onnxruntime_ep_nv_tensorrt_rtx"):
        pytest.skip(f"this onnxruntime has {provider}")
    with pytest.raises(MissingDependencyError, match=f"needs onnxruntime's {provider}, and the one installed") as e:
        open_runner(onnx_file, runtime)
    assert e.value.hint.startswith("pip ")
    assert "onnxruntime-" in e.value.hint


def test_bfloat16_in_pytorch_stays_close(checkpoint: Artifact, expected: Batch) -> None:
    with open_runner(checkpoint, "torch-bf16") as runner:
        restored = runner.infer(frame())
    assert restored.dtype == np.float32
    assert 0 < relative_error(restored, expected) < 0.05


@pytest.mark.slow
def test_a_compiled_network_agrees_with_the_eager_one() -> None:
    if reason := torch_unavailable("torch-compile"):
        pytest.skip(reason.message)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.ReLU()).eval()
    with TorchRunner(net, ImageSpec()) as eager, TorchRunner(net, ImageSpec(), "torch-compile") as compiled:
        np.testing.assert_allclose(compiled.infer(frame()), eager.infer(frame()), atol=1e-5)


def test_pytorch_without_cuda_is_told_from_no_gpu(monkeypatch: pytest.MonkeyPatch, checkpoint: Artifact) -> None:
    if torch.cuda.is_available():
        pytest.skip("this PyTorch has CUDA")
    monkeypatch.setattr(runner_module, "count_nvidia_gpus", lambda: 1)
    with pytest.raises(MissingDependencyError, match="torch-cuda needs PyTorch with CUDA"):
        open_runner(checkpoint, "torch-cuda")


def test_the_package_offers_its_functions_without_loading_anything() -> None:
    assert deblur_deploy.open_runner is open_runner
    assert deblur_deploy.load_artifact.__module__ == "deblur_deploy.core.artifact"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        deblur_deploy.nonsense  # noqa: B018
    code = "import sys, deblur_deploy; print(sorted({'torch', 'numpy', 'onnx', 'PIL'} & sys.modules.keys()))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_camera_frames_are_converted_for_a_network_of_floats(checkpoint: Artifact) -> None:
    frames = np.random.default_rng(6).integers(0, 256, (2, 20, 33, 3), dtype=np.uint8)
    with open_runner(checkpoint, "torch") as runner:
        restored = runner.infer(frames)
        exact = runner.infer(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)) / np.float32(255))
    assert restored.dtype == np.uint8
    assert restored.shape == frames.shape
    assert np.abs(restored - 255 * np.clip(exact, 0, 1).transpose(0, 2, 3, 1)).max() <= 0.51


@pytest.mark.parametrize(
    "frames",
    [np.zeros((1, 3, 36, 50), np.uint8), np.zeros((1, 36, 50, 4), np.uint8), np.zeros((1, 35, 50, 3), np.uint8)],
)
def test_malformed_frames_are_refused(onnx_file: Artifact, frames: NDArray[np.uint8]) -> None:
    with open_runner(onnx_file, "onnxruntime") as runner, pytest.raises(ConfigError):
        runner.infer(frames)
