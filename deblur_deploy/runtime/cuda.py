"""The few calls of the CUDA runtime that an engine needs, through cuda-python: memory, streams, events, graphs.

Pointers and handles are plain integers, so that users of this class can be tested without a GPU.
"""

from __future__ import annotations

from typing import Any

from deblur_deploy.core.errors import DeblurDeployError, MissingDependencyError
from deblur_deploy.runtime.nvidia import cuda_version

INSTALL = "pip install cuda-python"

LEGACY_STREAM = 1
"""Handle of the default stream that waits for all streams made without the non-blocking flag."""


def stream_handle(stream: int) -> int:
    """A stream's handle that says which one it is.

    Zero is "the default stream". DLPack and the CUDA array interface forbid it, for it is another stream in programs
    that are compiled for a default stream per thread. PyTorch's 0 is the legacy stream, and so it is taken here.
    """
    return stream or LEGACY_STREAM


class Cuda:
    """CUDA on its first device; the environment variable CUDA_VISIBLE_DEVICES says which one that is.

    Raises:
        MissingDependencyError: cuda-python is not installed, or its libraries cannot be loaded.
        DeblurDeployError: The driver is too old, or there is no such device.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except (ImportError, OSError) as err:
            raise MissingDependencyError(f"engines need cuda-python: {err}", hint=INSTALL) from err
        self._runtime: Any = runtime
        self._call("cudaSetDevice", 0)

    def allocate(self, size: int) -> int:
        """Device memory of ``size`` bytes; its address."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Give back what :meth:`allocate` gave."""
        self._call("cudaFree", address)

    def allocate_host(self, size: int) -> int:
        """Host memory that is never paged out, which copies run at full speed from and to; its address."""
        return int(self._call("cudaMallocHost", size))

    def free_host(self, address: int) -> None:
        """Give back what :meth:`allocate_host` gave."""
        self._call("cudaFreeHost", address)

    def device_of(self, address: int) -> int | None:
        """Number of the GPU that an address lies on, or None where it lies on none."""
        found = self._call("cudaPointerGetAttributes", address)
        kinds = self._runtime.cudaMemoryType
        on_gpu = found.type in (kinds.cudaMemoryTypeDevice, kinds.cudaMemoryTypeManaged)
        return int(found.device) if on_gpu else None

    def upload(self, device: int, host: int, size: int, stream: int) -> None:
        """Put a copy of ``size`` bytes from the host's memory on a stream."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, host, size, kind, stream)

    def download(self, host: int, device: int, size: int, stream: int) -> None:
        """Put a copy of ``size`` bytes to the host's memory on a stream."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", host, device, size, kind, stream)

    def create_stream(self) -> int:
        """A stream that does not wait for the default stream."""
        return int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until everything on a stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def create_event(self, *, blocking: bool = False) -> int:
        """An event that keeps the time at which the device comes to it.

        Args:
            blocking: Whether the host sleeps while it waits for the event; else it asks without end, which ends the
                wait sooner and keeps a core busy.
        """
        flags = self._runtime.cudaEventBlockingSync if blocking else self._runtime.cudaEventDefault
        return int(self._call("cudaEventCreateWithFlags", flags))

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        self._call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """Put an event on a stream."""
        self._call("cudaEventRecord", event, stream)

    def synchronize_event(self, event: int) -> None:
        """Wait until the device has come to an event, in the way that the event was created for."""
        self._call("cudaEventSynchronize", event)

    def wait_for(self, event: int, stream: int) -> None:
        """Make later work on a stream wait for an event."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds on the device between two events that are done, to half a microsecond."""
        return float(self._call("cudaEventElapsedTime", start, end))

    def begin_capture(self, stream: int) -> None:
        """Start a capture: work put on the stream from here on becomes a graph and does not run."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        """End a capture; an executable graph of what was put on the stream."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return int(self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def abandon_capture(self, stream: int) -> None:
        """Leave a capture in which something failed, so that the stream can be used again; the failure is known."""
        self._runtime.cudaStreamEndCapture(stream)

    def launch_graph(self, graph: int, stream: int) -> None:
        """Put a graph on a stream."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give an executable graph back."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime; its one value, if it has any."""
        status, *values = getattr(self._runtime, function)(*arguments)
        if int(status) != 0:
            raise self._error(function, status)
        return values[0] if values else None

    def _error(self, function: str, status: Any) -> DeblurDeployError:
        """The hint for a failed call."""
        names = self._runtime.cudaError_t
        if status == names.cudaErrorMemoryAllocation:
            return DeblurDeployError("the GPU has no memory left", hint="try a smaller picture, or end other programs")
        if status == names.cudaErrorInsufficientDriver:
            return self._driver_error()
        if status in (names.cudaErrorNoDevice, names.cudaErrorInvalidDevice):
            return DeblurDeployError("CUDA finds no GPU", hint="check nvidia-smi, and CUDA_VISIBLE_DEVICES")
        reason = self._runtime.cudaGetErrorString(status)[1].decode()
        return DeblurDeployError(f"CUDA's {function} failed: {reason}", hint="check nvidia-smi, then try again")

    def _driver_error(self) -> DeblurDeployError:
        """CUDA gives the same error for an old driver and for none; the version tells them apart."""
        driver, needed = (
            int(getattr(self._runtime, name)()[1]) for name in ("cudaDriverGetVersion", "cudaRuntimeGetVersion")
        )
        if driver == 0:
            return DeblurDeployError(
                "this machine has no NVIDIA driver", hint="install it, or use a machine with an NVIDIA GPU"
            )
        return DeblurDeployError(
            f"the NVIDIA driver knows CUDA {cuda_version(driver)}, and CUDA {cuda_version(needed)} is installed",
            hint=f"update the driver, or install cuda-python for it: pip install 'cuda-python<{driver // 1000 + 1}'",
        )
