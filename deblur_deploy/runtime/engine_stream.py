"""One CUDA stream with its own execution context and buffers, which one frame in flight needs."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.runtime.cuda import Cuda
from deblur_deploy.runtime.device_timings import DeviceTimings, Span, spans_between
from deblur_deploy.runtime.engine_io import EngineIO, Shape

_ALIGNMENT = 256
"""What TensorRT asks of the address of a tensor (``IExecutionContext::setTensorAddress``)."""


@dataclass(frozen=True)
class StreamOptions:
    """How a stream works.

    Args:
        capture: Whether to capture a CUDA graph once the same input shape and buffers come a second time in a row.
        spin_wait: Whether the host polls the device until it is done, or sleeps until it is notified.
    """

    capture: bool
    spin_wait: bool = True


class EngineStream:
    """A stream, its execution context, and its buffers on both sides.

    Args:
        cuda: CUDA.
        context: TensorRT's ``IExecutionContext``.
        io: What the engine takes and gives.
        logger: Where TensorRT's complaints are.
        options: How it works.
    """

    def __init__(self, cuda: Cuda, context: Any, io: EngineIO, logger: Any, options: StreamOptions) -> None:
        self._cuda, self._context, self._io, self._logger = cuda, context, io, logger
        self._capture = options.capture
        self._shape: Shape | None = None
        self._resident: Shape | None = None  # shape of the picture that lies in the stream's own buffer
        self._profile = 0
        self._bound: tuple[int, int] = (0, 0)
        self._last_key: tuple[Any, ...] | None = None
        self._graph: int | None = None
        self._pending: np.dtype[Any] | None = None
        self._enqueued: Span = (0.0, 0.0)
        self._used_on = 0
        with ExitStack() as stack:
            self.stream = cuda.create_stream()
            stack.callback(cuda.destroy_stream, self.stream)
            self._opened, self._used, *self._marks = (_new_event(cuda, stack, options) for _ in range(6))
            pinned, device = (cuda.allocate_host, cuda.free_host), (cuda.allocate, cuda.free)
            self._host_in, self._host_out, self._device_in, self._device_out = (
                stack.enter_context(_Buffer(*calls)) for calls in (pinned, pinned, device, device)
            )
            stack.callback(self._drop_graph)
            cuda.record(self._opened, self.stream)
            self._clock_start = time.perf_counter()
            self._cleanup = stack.pop_all()

    def close(self) -> None:
        """Wait for the work on the stream, and release everything."""
        if self._context is None:
            return
        try:
            self._cuda.wait_for(self._used, self.stream)
            self._cuda.synchronize(self.stream)
        finally:
            self._context = None
            self._cleanup.close()

    def start(self, batch: NDArray[Any]) -> None:
        """Put a batch on the stream: copy it, run the network, copy the result back; returns at once.

        Raises:
            ConfigError: The batch is outside of the engine's profiles.
            DeblurDeployError: TensorRT or CUDA refuses.
        """
        assert self._pending is None, "the stream still has a batch to finish"
        cuda = self._cuda
        self._set_shape(self._io.shape_of(batch))
        in_bytes, out_bytes = self._reserve()
        self._io.write(batch, self._host_in.view(in_bytes))
        self._bind(self._device_in.address, self._device_out.address)
        cuda.record(self._marks[0], self.stream)
        cuda.upload(self._device_in.address, self._host_in.address, in_bytes, self.stream)
        cuda.record(self._marks[1], self.stream)
        self._resident = self._shape
        self._enqueue(self.stream)
        cuda.record(self._marks[2], self.stream)
        cuda.download(self._host_out.address, self._device_out.address, out_bytes, self.stream)
        cuda.record(self._marks[3], self.stream)
        self._pending = batch.dtype

    def finish(self) -> NDArray[Any]:
        """Wait for the batch that was started; its result, as :meth:`EngineIO.read` gives it."""
        assert self._pending is not None, "no batch was started"
        like, self._pending = self._pending, None
        self._cuda.synchronize_event(self._marks[3])
        shape = self.output_shape
        assert self._shape is not None
        _, out_bytes = self._io.bytes_of(self._shape, shape)
        return self._io.read(self._host_out.view(out_bytes), shape, like)

    def timings(self) -> DeviceTimings:
        """Where the time of the batch went that was finished last."""
        h2d, compute, d2h = spans_between(self._cuda.elapsed_ms, self._opened, self._marks)
        return DeviceTimings(self._enqueued, h2d, compute, d2h)

    def compute_again(self) -> DeviceTimings:
        """Run the network once more on the picture that was uploaded last, with no copies; waits for the end.

        Raises:
            DeblurDeployError: None was, or its place was needed for something larger.
        """
        if self._resident is None:
            raise DeblurDeployError("no picture lies on the device", hint="call infer with it first")
        self._set_shape(self._resident)
        self._bind(self._device_in.address, self._device_out.address)  # the last run may have been on other buffers
        start, end = self._marks[1:3]
        self._cuda.record(start, self.stream)
        self._enqueue(self.stream)
        self._cuda.record(end, self.stream)
        self._cuda.synchronize_event(end)
        (compute,) = spans_between(self._cuda.elapsed_ms, self._opened, (start, end))
        return DeviceTimings.of_compute(self._enqueued, compute)

    def run_in_place(self, shape: Shape, addresses: tuple[int, int] | int, stream: int) -> int:
        """Put the network on a stream, on buffers that lie on the device.

        Args:
            shape: Shape of the input tensor.
            addresses: Of input and output; of the input alone where the stream's own output buffer is to be used.
            stream: The stream to run on; nothing is waited for.

        Returns:
            Address of the output.

        Raises:
            ConfigError: The shape is outside of the engine's profiles.
            DeblurDeployError: An address is not aligned, or TensorRT or CUDA refuses.
        """
        self._set_shape(shape)
        if isinstance(addresses, int):
            self._reserve()
            addresses = (addresses, self._device_out.address)
        if odd := [address for address in addresses if address % _ALIGNMENT]:
            raise DeblurDeployError(
                f"an array starts at {odd[0]:#x}, and TensorRT takes only starts that {_ALIGNMENT} divides",
                hint="give a copy of it, such as tensor.clone()",
            )
        self._bind(*addresses)
        self._enqueue(stream)
        return addresses[1]

    def device_of(self, address: int) -> int | None:
        """Number of the GPU that an address lies on, or None where it lies on none."""
        return self._cuda.device_of(address)

    def wait_for(self, stream: int, *, on: int) -> None:
        """Make later work on the stream ``on`` wait for everything that is on ``stream`` now."""
        self._cuda.record(self._marks[0], stream)
        self._cuda.wait_for(self._marks[0], on)

    def synchronize(self) -> None:
        """Wait until the network has run for the last time, on whatever stream that was."""
        self._cuda.synchronize_event(self._used)

    @property
    def output_shape(self) -> Shape:
        """Shape of the output for the input's shape that is set."""
        return tuple(self._context.get_tensor_shape(self._io.output_name))

    def _set_shape(self, shape: Shape) -> None:
        if shape == self._shape:
            return
        profile = self._io.choose_profile(shape)
        self._drop_graph()
        self._last_key = None  # whatever comes next, it runs once with this shape before a graph is captured
        if profile != self._profile:
            self._cuda.wait_for(self._used, self.stream)  # the last run may still be on its caller's stream
            done = self._context.set_optimization_profile_async(profile, self.stream)
            self._require(done, f"optimization profile {profile} cannot be used")
            self._cuda.synchronize(self.stream)
            self._profile = profile
        self._shape = None  # until TensorRT has agreed
        self._require(self._context.set_input_shape(self._io.input_name, shape), f"the input shape {shape} is refused")
        self._shape = shape

    def _reserve(self) -> tuple[int, int]:
        """Buffers of the size that the shapes need, on both sides; their sizes in bytes."""
        assert self._shape is not None
        in_bytes, out_bytes = self._io.bytes_of(self._shape, self.output_shape)
        for buffer, size in (
            (self._host_in, in_bytes),
            (self._device_in, in_bytes),
            (self._host_out, out_bytes),
            (self._device_out, out_bytes),
        ):
            before = buffer.address
            buffer.reserve(size)
            if buffer is self._device_in and buffer.address != before:
                self._resident = None
        return in_bytes, out_bytes

    def _bind(self, *addresses: int) -> None:
        """Tell TensorRT where input and output lie."""
        names = (self._io.input_name, self._io.output_name)
        for name, address, before in zip(names, addresses, self._bound, strict=True):
            if address != before:
                self._require(self._context.set_tensor_address(name, address), f"the address of {name!r} is refused")
        self._bound = (addresses[0], addresses[1])

    def _enqueue(self, stream: int) -> None:
        """Put the network on a stream: as a graph where the same shape and buffers were there the last time, too.

        A graph must not outlive a change of its context, and capturing needs a run with the new shape before it.
        """
        if stream != self._used_on:  # one context never runs twice at a time
            self._cuda.wait_for(self._used, stream)
        key = (self._shape, *self._bound)
        before = time.perf_counter()
        if not self._capture or key != self._last_key:
            self._drop_graph()
            self._execute(stream)
        else:
            if self._graph is None:
                self._graph = self._captured()
            self._cuda.launch_graph(self._graph, stream)
        after = time.perf_counter()
        self._enqueued = ((before - self._clock_start) * 1000, (after - self._clock_start) * 1000)
        self._cuda.record(self._used, stream)
        self._used_on, self._last_key = stream, key

    def _execute(self, stream: int) -> None:
        self._require(self._context.execute_async_v3(stream), "the network cannot be run")

    def _captured(self) -> int:
        """An executable graph of one run."""
        self._cuda.begin_capture(self.stream)
        try:
            self._execute(self.stream)
        except DeblurDeployError as err:
            self._cuda.abandon_capture(self.stream)
            raise DeblurDeployError(
                f"no CUDA graph of the engine can be captured: {err.message}",
                hint="use the runtime of the same name that ends in -no-graph",
            ) from err
        return self._cuda.end_capture(self.stream)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._cuda.destroy_graph(graph)

    def _require(self, succeeded: bool, failure: str) -> None:
        if not succeeded:
            raise DeblurDeployError(
                f"{failure}: {self._logger.last_error}", hint="build the engine again, or try a smaller picture"
            )


def _new_event(cuda: Cuda, stack: ExitStack, options: StreamOptions) -> int:
    event = cuda.create_event(blocking=not options.spin_wait)
    stack.callback(cuda.destroy_event, event)
    return event


class _Buffer:
    """Memory that grows when more is asked for; empty until then.

    Args:
        allocate: From a size in bytes to an address.
        free: Gives it back.
    """

    def __init__(self, allocate: Callable[[int], int], free: Callable[[int], None]) -> None:
        self._allocate, self._free = allocate, free
        self.address = 0
        self._size = 0

    def __enter__(self) -> _Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def reserve(self, size: int) -> None:
        """Have room for ``size`` bytes; what was in a smaller buffer is lost."""
        if size > self._size:
            self._release()
            self.address = self._allocate(size)
            self._size = size

    def view(self, size: int) -> NDArray[np.uint8]:
        """The first ``size`` bytes of a buffer on the host."""
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.address))

    def _release(self) -> None:
        if self.address:
            address, self.address, self._size = self.address, 0, 0
            self._free(address)
