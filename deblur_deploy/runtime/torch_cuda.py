"""Networks in PyTorch on an NVIDIA GPU, with CUDA events between the parts of an inference."""

from __future__ import annotations

import time
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.runtime.device_timings import DeviceTimings, Span, spans_between
from deblur_deploy.runtime.eager import TorchRunner, network_to_run
from deblur_deploy.runtime.runner import Batch, Pictures
from deblur_deploy.runtime.runtimes import OpenOptions


class Event(Protocol):
    """The part of ``torch.cuda.Event`` that is used here."""

    def record(self) -> None:
        """Put the event on the current stream."""

    def synchronize(self) -> None:
        """Wait until the device has come to it."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds on the device from this event to another."""


class TorchDevice:
    """The GPU, as PyTorch gives it.

    Args:
        spin_wait: Whether the host waits for it awake, which takes a core, or asleep.
    """

    name = "cuda"

    def __init__(self, *, spin_wait: bool = True) -> None:
        self.spin_wait = spin_wait

    def new_event(self) -> Event:
        """An event that keeps the time at which the device comes to it."""
        event: Event = torch.cuda.Event(enable_timing=True, blocking=not self.spin_wait)  # type: ignore[no-untyped-call]
        return event

    def new_host_buffer(self, shape: torch.Size) -> Tensor:
        """Float32 values in host memory that is never paged out, which copies run at full speed from and to."""
        return torch.empty(shape, pin_memory=True)


class TorchCudaRunner(TorchRunner):
    """A network in PyTorch on the GPU, which tells when its copies and the network itself began and ended.

    Attributes:
        settings: How it is run: ``cuda_graph``, and ``spin_wait`` for the host's way of waiting.

    Args:
        net: As for :class:`TorchRunner`; it lies on the device.
        image: What it takes.
        name: The runtime; it says how the network is run.
        device: The GPU.
    """

    def __init__(self, net: nn.Module, image: ImageSpec, name: str, device: TorchDevice | None = None) -> None:
        super().__init__(net, image, name)
        self._device = device or TorchDevice()
        self.settings = {"cuda_graph": self._variant.mode == "graph", "spin_wait": self._device.spin_wait}
        self._opened, *self._marks = (self._device.new_event() for _ in range(5))
        self._host_in: Tensor | None = None
        self._host_out: Tensor | None = None
        self._picture: Tensor | None = None
        self._enqueued: Span = (0.0, 0.0)
        self._opened.record()
        self._clock_start = time.perf_counter()

    def close(self) -> None:
        """As :meth:`deblur_deploy.runtime.runner.Runner.close`."""
        self._host_in = self._host_out = self._picture = None
        super().close()

    def infer_timed(self, batch: Pictures) -> tuple[Pictures, DeviceTimings]:
        """As :meth:`infer`, and where the time went."""
        restored = self.infer(batch)
        return restored, DeviceTimings(self._enqueued, *spans_between(_elapsed_ms, self._opened, self._marks))

    def compute_again(self) -> DeviceTimings:
        """Run the network once more on what :meth:`infer` put on the device last, with no copies; waits for the end.

        Raises:
            DeblurDeployError: PyTorch failed.
        """
        assert self._picture is not None, "no batch was there before"
        start, end = self._marks[1:3]
        with self._failures_named(tuple(self._picture.shape)), torch.inference_mode():
            start.record()
            self._compute(self._picture)
            end.record()
            end.synchronize()
        (compute,) = spans_between(_elapsed_ms, self._opened, (start, end))
        return DeviceTimings.of_compute(self._enqueued, compute)

    def _run(self, batch: Batch) -> Batch:
        uploading, uploaded, computed, downloaded = self._marks
        with torch.inference_mode():
            given = torch.from_numpy(batch)
            self._host_in = self._buffer(self._host_in, given.shape).copy_(given)
            uploading.record()
            self._picture = self._host_in.to(self._device.name, non_blocking=True, copy=True)
            uploaded.record()
            restored = self._compute(self._picture)
            self._host_out = self._buffer(self._host_out, restored.shape)
            computed.record()
            self._host_out.copy_(restored, non_blocking=True)
            downloaded.record()
            downloaded.synchronize()
            return cast(Batch, self._host_out.numpy().copy())

    def _compute(self, picture: Tensor) -> Tensor:
        """From float32 to float32 on the device, what the variant's type and layout cost included."""
        assert self._net is not None, "the runner was closed"
        before = time.perf_counter()
        typed = picture.to(getattr(torch, self._variant.dtype))
        restored = self._net(typed.contiguous(memory_format=self._format)).float().contiguous()
        after = time.perf_counter()
        self._enqueued = ((before - self._clock_start) * 1000, (after - self._clock_start) * 1000)
        return restored

    def _buffer(self, buffer: Tensor | None, shape: torch.Size) -> Tensor:
        """The buffer, if it has this shape, else a new one."""
        return buffer if buffer is not None and buffer.shape == shape else self._device.new_host_buffer(shape)


def _elapsed_ms(start: Event, end: Event) -> float:
    return start.elapsed_time(end)


def open_torch_cuda(artifact: Artifact, name: str, options: OpenOptions) -> TorchCudaRunner:
    """Load a checkpoint for one of the PyTorch runtimes on a GPU.

    Raises:
        ArtifactError: Weights and manifest do not belong together.
        MissingDependencyError: The network is quantized and ModelOpt is not installed.
    """
    net = network_to_run(artifact, name, options)
    return TorchCudaRunner(net, artifact.image, name, TorchDevice(spin_wait=options.spin_wait))
