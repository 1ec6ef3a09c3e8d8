"""PyTorch's runner for GPUs, on a device that is the processor with a clock of its own."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.runtime.eager import TorchRunner, prepare_network, variant_of
from deblur_deploy.runtime.runner import RUNTIMES, Batch, open_runner, reason_unavailable
from deblur_deploy.runtime.runtimes import TorchVariant
from deblur_deploy.runtime.torch_cuda import TorchCudaRunner, TorchDevice

STEP_MS = 3.0
"""Time between two events on the stand-in's clock."""


class StandInEvent:
    def __init__(self, device: StandInDevice) -> None:
        self._device = device
        self.at: float | None = None

    def record(self) -> None:
        self._device.now += STEP_MS
        self.at = self._device.now

    def synchronize(self) -> None:
        assert self.at is not None, "an event was waited for that is on no stream"
        self._device.waits += 1

    def elapsed_time(self, end_event: StandInEvent) -> float:
        assert self.at is not None
        assert end_event.at is not None
        return end_event.at - self.at


class StandInDevice(TorchDevice):
    """The processor in the place of the GPU; every event is 3 ms after the one before."""

    name = "cpu"

    def __init__(self) -> None:
        super().__init__()
        self.now, self.waits, self.buffers = 0.0, 0, 0

    def new_event(self) -> StandInEvent:
        return StandInEvent(self)

    def new_host_buffer(self, shape: torch.Size) -> Tensor:
        self.buffers += 1
        return torch.full(shape, torch.nan)


class Brighter(nn.Module):
    """Adds a tenth, and remembers what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        self.given = x.clone()
        return x + x.new_tensor(0.1)


def picture(*shape: int) -> Batch:
    return np.random.default_rng(len(shape)).random(shape or (1, 3, 4, 6), dtype=np.float32)


def test_results_are_those_of_the_processor(checkpoint: Artifact) -> None:
    x = picture(1, 3, 20, 24)
    with TorchRunner(load_network(checkpoint), ImageSpec()) as plain:
        expected = plain.infer(x)
    with TorchCudaRunner(load_network(checkpoint), ImageSpec(), "torch-cuda", StandInDevice()) as runner:
        np.testing.assert_allclose(runner.infer(x), expected, atol=1e-6)


@pytest.mark.parametrize(("name", "dtype"), [("torch-cuda", torch.float32), ("torch-cuda-bf16", torch.bfloat16)])
def test_the_network_gets_the_type_and_layout_of_the_variant(name: str, dtype: torch.dtype) -> None:
    net = Brighter()
    with TorchCudaRunner(net, ImageSpec(), name, StandInDevice()) as runner:
        restored = runner.infer(picture())
    assert net.given.dtype == dtype
    assert net.given.is_contiguous(memory_format=torch.channels_last) is variant_of(name).channels_last
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, picture() + 0.1, atol=0.01)


def test_phases_are_between_the_device_s_events() -> None:
    device = StandInDevice()
    with TorchCudaRunner(Brighter(), ImageSpec(), "torch-cuda", device) as runner:
        restored, timings = runner.infer_timed(picture())
    np.testing.assert_array_equal(restored, picture() + np.float32(0.1))
    assert (timings.h2d, timings.compute, timings.d2h) == ((3, 6), (6, 9), (9, 12))
    assert timings.latency_ms == 9
    assert timings.enqueue is not None
    assert 0 < timings.enqueue[0] < timings.enqueue[1]
    assert device.waits == 1


def test_without_transfers_the_network_runs_on_the_same_picture_again() -> None:
    net, device = Brighter(), StandInDevice()
    with TorchCudaRunner(net, ImageSpec(), "torch-cuda", device) as runner:
        runner.infer(picture())
        for _ in range(2):
            timings = runner.compute_again()
            np.testing.assert_array_equal(net.given.numpy(), picture())
        assert timings.h2d[0] == timings.h2d[1] == timings.compute[0]
        assert timings.d2h[0] == timings.d2h[1] == timings.compute[1]
        assert timings.latency_ms == STEP_MS
    assert device.waits == 3
    assert device.buffers == 2


def test_the_result_is_the_callers_own_and_sizes_may_change() -> None:
    with TorchCudaRunner(Brighter(), ImageSpec(), "torch-cuda", StandInDevice()) as runner:
        first = runner.infer(picture())
        kept = first.copy()
        assert runner.infer(picture(2, 3, 5, 7)).shape == (2, 3, 5, 7)
        runner.infer(np.zeros_like(first))
        np.testing.assert_array_equal(first, kept)


def test_a_failure_without_transfers_is_one_clear_error() -> None:
    net = Brighter()
    with TorchCudaRunner(net, ImageSpec(), "torch-cuda", StandInDevice()) as runner:
        runner.infer(picture())
        net.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("CUDA error\nmore")))
        with pytest.raises(DeblurDeployError, match="torch-cuda failed on a 1x3x4x6 batch: CUDA error\nHint"):
            runner.compute_again()


@pytest.mark.parametrize("spin_wait", [True, False])
def test_events_keep_time_and_wait_as_they_are_told(monkeypatch: pytest.MonkeyPatch, spin_wait: bool) -> None:
    signature = inspect.signature(torch.cuda.Event.__new__)
    made: list[dict[str, Any]] = []

    class Recorder:
        def __init__(self, **options: Any) -> None:
            signature.bind(type(self), **options)  # an option that PyTorch does not know is an error
            made.append(options)

    assert {"record", "synchronize", "elapsed_time"} <= set(dir(torch.cuda.Event))
    monkeypatch.setattr(torch.cuda, "Event", Recorder)
    TorchDevice(spin_wait=spin_wait).new_event()
    assert made == [{"enable_timing": True, "blocking": not spin_wait}]


@pytest.mark.parametrize("name", [name for name, known in RUNTIMES.items() if known.torch])
def test_settings_say_whether_a_graph_is_replayed(name: str) -> None:
    variant = RUNTIMES[name].torch
    assert variant is not None
    assert RUNTIMES[name].can_keep_pictures is (variant.device == "cuda")
    if variant.device == "cuda" and variant.mode != "compile":
        with TorchCudaRunner(Brighter(), ImageSpec(), name, StandInDevice()) as runner:
            assert runner.settings == {"cuda_graph": variant.mode == "graph", "spin_wait": True}


def test_weights_are_brought_to_the_variant_s_type() -> None:
    net = prepare_network(nn.Conv2d(3, 3, 3), TorchVariant(dtype="float16"))
    assert next(net.parameters()).dtype == torch.float16


@pytest.mark.gpu
@pytest.mark.parametrize("spin_wait", [True, False])
@pytest.mark.parametrize("name", ["torch-cuda", "torch-cuda-fp16-graph"])
def test_phases_on_the_gpu(checkpoint: Artifact, name: str, spin_wait: bool) -> None:
    if reason := reason_unavailable(checkpoint, name):
        pytest.skip(reason)
    with open_runner(checkpoint, name, spin_wait=spin_wait) as runner:
        assert isinstance(runner, TorchCudaRunner)
        expected, timings = runner.infer_timed(picture(1, 3, 64, 96))
        assert (
            timings.h2d[0]
            < timings.h2d[1]
            <= timings.compute[0]
            < timings.compute[1]
            <= timings.d2h[0]
            < timings.d2h[1]
        )
        assert runner.compute_again().latency_ms > 0
        np.testing.assert_allclose(runner.infer(picture(1, 3, 64, 96)), expected, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name.startswith("torch-cuda")])
def test_every_way_of_pytorch_on_the_gpu_agrees(checkpoint: Artifact, runtime: str) -> None:
    """Float32 convolutions may run in TF32, with ten bits after the point."""
    if reason := reason_unavailable(checkpoint, runtime):
        pytest.skip(reason)
    x = picture(1, 3, 36, 50)
    with open_runner(checkpoint, "torch") as reference:
        expected = reference.infer(x)
    with open_runner(checkpoint, runtime) as runner:
        for _ in range(2):
            error = np.linalg.norm(runner.infer(x) - expected) / np.linalg.norm(expected)
            assert error < (0.05 if "16" in runtime else 5e-3)
        assert runner.infer(picture(1, 3, 20, 24)).shape == (1, 3, 20, 24)
