"""CUDA and an engine in the processor's memory: what the engine runner calls, so that its own logic can be tested.

Streams are queues whose work is done only when somebody waits, so a result that was not waited for is not there. The
"network" inverts the picture. A clock stands still but for the work done: 1 ms for an upload, 5 for the network, 2 for
a download.
"""

from __future__ import annotations

import ctypes
import itertools
from collections import defaultdict
from collections.abc import Callable
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

from deblur_deploy.errors import DeblurDeployError

ALIGNMENT = 256
UPLOAD_MS, COMPUTE_MS, DOWNLOAD_MS = 1.0, 5.0, 2.0
_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}


class StandInCuda:
    """As :class:`deblur_deploy.runtime.cuda.Cuda`, with a record of what is in use and of what was done."""

    def __init__(self, memory_bytes: int = 1 << 24) -> None:
        self.live: dict[str, set[int]] = defaultdict(set)
        self.log: list[str] = []
        self._memory: dict[int, Any] = {}
        self._sizes: dict[int, int] = {}
        self._left = memory_bytes
        self._handles = itertools.count(1000)
        self._queues: dict[int, list[Callable[[], None]]] = defaultdict(list)
        self._times: dict[int, float] = {}
        self._blocking: dict[int, bool] = {}
        self.host_waits: list[str] = []
        self._pending_on: dict[int, int] = {}
        self._captures: dict[int, list[Callable[[], None]]] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._now = 0.0

    def allocate(self, size: int) -> int:
        return self._new_memory("device", size)

    def free(self, address: int) -> None:
        self._drop_memory("device", address)

    def allocate_host(self, size: int) -> int:
        return self._new_memory("host", size)

    def free_host(self, address: int) -> None:
        self._drop_memory("host", address)

    def upload(self, device: int, host: int, size: int, stream: int) -> None:
        self._copy((device, host), size, stream, ("upload", UPLOAD_MS))

    def download(self, host: int, device: int, size: int, stream: int) -> None:
        self._copy((host, device), size, stream, ("download", DOWNLOAD_MS))

    def create_stream(self) -> int:
        return self._new("stream")

    def destroy_stream(self, stream: int) -> None:
        assert not self._queues[stream], "a stream was destroyed with work on it"
        self._drop("stream", stream)

    def synchronize(self, stream: int) -> None:
        queue = self._queues[stream]
        while queue:
            queue.pop(0)()

    def create_event(self, *, blocking: bool = False) -> int:
        event = self._new("event")
        self._blocking[event] = blocking
        return event

    def destroy_event(self, event: int) -> None:
        self._drop("event", event)

    def record(self, event: int, stream: int) -> None:
        def mark() -> None:
            self._times[event] = self._now
            self._pending_on.pop(event, None)

        self._pending_on[event] = stream
        self.enqueue(stream, mark)

    def synchronize_event(self, event: int) -> None:
        self.host_waits.append("asleep" if self._blocking[event] else "awake")
        while event in self._pending_on:
            self._queues[self._pending_on[event]].pop(0)()

    def wait_for(self, event: int, stream: int) -> None:
        other = self._pending_on.get(event)
        if other not in (None, stream):
            self.log.append(f"wait for {other}")

        def wait() -> None:
            if other is not None and event in self._pending_on:
                self.synchronize(other)

        self.enqueue(stream, wait)

    def elapsed_ms(self, start: int, end: int) -> float:
        assert not {start, end} & self._pending_on.keys(), "the time of an event was asked before it came"
        return self._times[end] - self._times[start]

    def begin_capture(self, stream: int) -> None:
        self._captures[stream] = []

    def end_capture(self, stream: int) -> int:
        graph = self._new("graph")
        self._graphs[graph] = self._captures.pop(stream)
        self.log.append("capture")
        return graph

    def abandon_capture(self, stream: int) -> None:
        del self._captures[stream]

    def launch_graph(self, graph: int, stream: int) -> None:
        assert graph in self.live["graph"]
        self.log.append("graph")
        for work in self._graphs[graph]:
            self.enqueue(stream, work)

    def destroy_graph(self, graph: int) -> None:
        self._drop("graph", graph)

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Put work on a stream, or into the graph that is being captured from it."""
        (self._captures[stream] if stream in self._captures else self._queues[stream]).append(work)

    def take(self, milliseconds: float) -> None:
        self._now += milliseconds

    @property
    def leaks(self) -> dict[str, set[int]]:
        return {kind: handles for kind, handles in self.live.items() if handles}

    def _copy(self, addresses: tuple[int, int], size: int, stream: int, work: tuple[str, float]) -> None:
        (to, from_), (name, milliseconds) = addresses, work
        assert size <= min(self._sizes[to], self._sizes[from_])

        def copy() -> None:
            ctypes.memmove(to, from_, size)
            self.take(milliseconds)

        self.log.append(name)
        self.enqueue(stream, copy)

    def _new(self, kind: str) -> int:
        handle = next(self._handles)
        self.live[kind].add(handle)
        return handle

    def _drop(self, kind: str, handle: int) -> None:
        self.live[kind].remove(handle)

    def _new_memory(self, kind: str, size: int) -> int:
        if kind == "device" and size > self._left:
            raise DeblurDeployError("the GPU has no memory left", hint="try a smaller picture")
        self._left -= size if kind == "device" else 0
        memory = (ctypes.c_uint8 * (size + ALIGNMENT))()
        address = -(-ctypes.addressof(memory) // ALIGNMENT) * ALIGNMENT
        self._memory[address], self._sizes[address] = memory, size
        self.live[kind].add(address)
        return address

    def _drop_memory(self, kind: str, address: int) -> None:
        self.live[kind].remove(address)
        self._left += self._sizes.pop(address) if kind == "device" else 0
        self._memory.pop(address)


class Named(Enum):
    """Members of TensorRT's enumerations; the runner asks for their names."""

    INPUT = 1
    OUTPUT = 2
    LINEAR = 3
    DEVICE = 4
    FLOAT = 5
    HALF = 6
    UINT8 = 7
    HWC8 = 8


class StandInContext:
    """TensorRT's IExecutionContext."""

    def __init__(self, engine: StandInEngine, config: Any) -> None:
        self._engine, self.config_ = engine, config
        self._shape = engine.shape if -1 not in engine.shape else None
        self._addresses: dict[str, int] = {}
        self._profile = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.profiles[self._profile]
        fits = all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        self._shape = shape if fits else None
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self._shape is not None
        return self._shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory % ALIGNMENT == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self._engine
        if engine.refuses():
            engine.logger.log(SimpleNamespace(name="ERROR"), "enqueue   failed")
            return False
        assert self._shape is not None
        count = int(np.prod(self._shape))
        source, target = self._addresses["input"], self._addresses["output"]

        def invert() -> None:
            dtype = np.dtype(_NUMPY[engine.dtype.name])
            x, y = (_values(address, count, dtype) for address in (source, target))
            y[...] = (255 if dtype == np.uint8 else 1) - x
            engine.cuda.take(COMPUTE_MS)

        engine.cuda.log.append("execute")
        engine.cuda.enqueue(stream_handle, invert)
        return True


class StandInEngine:
    """TensorRT's ICudaEngine, with one profile for each of ``profiles``: smallest, best and largest shape."""

    def __init__(
        self, cuda: StandInCuda, shape: tuple[int, ...], dtype: Named = Named.FLOAT, profiles: tuple[Any, ...] = ()
    ) -> None:
        self.cuda, self.shape, self.dtype = cuda, shape, dtype
        self.profiles = profiles or ((shape, shape, shape),)
        self.tensors = {"input": Named.INPUT, "output": Named.OUTPUT}
        self.format = Named.LINEAR
        self.refuses: Callable[[], bool] = lambda: False
        self.logger: Any = None
        self.configs: list[StandInRuntimeConfig] = []
        self.has_memory, self.has_code = True, False

    num_io_tensors = property(lambda self: len(self.tensors))
    num_optimization_profiles = property(lambda self: len(self.profiles))

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Named:
        return self.tensors[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def get_tensor_dtype(self, name: str) -> Named:
        return self.dtype

    def get_tensor_format(self, name: str) -> Named:
        return self.format

    def get_tensor_location(self, name: str) -> Named:
        return Named.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return list(self.profiles[profile_index])

    def create_runtime_config(self) -> StandInRuntimeConfig:
        self.configs.append(StandInRuntimeConfig())
        return self.configs[-1]

    def create_execution_context(self, runtime_config: Any = None) -> StandInContext | None:
        return StandInContext(self, runtime_config) if self.has_memory else None


class StandInRuntimeCache:
    """TensorRT-RTX's IRuntimeCache: takes what begins with the name of this card."""

    def __init__(self) -> None:
        self.content = b"card A: compiled"

    def serialize(self) -> bytes:
        return self.content

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"card A"):
            return False
        self.content = blob
        return True


class StandInRuntimeConfig:
    """TensorRT-RTX's IRuntimeConfig."""

    def __init__(self) -> None:
        self.cuda_graph_strategy: Any = None
        self.cache: StandInRuntimeCache | None = None

    def create_runtime_cache(self) -> StandInRuntimeCache:
        return StandInRuntimeCache()

    def set_runtime_cache(self, cache: StandInRuntimeCache) -> bool:
        self.cache = cache
        return True


class _Logger:
    def log(self, severity: Any, message: str) -> None: ...


class StandInTensorRT:
    """The module ``tensorrt``: an engine's file is its name, looked up among ``engines``."""

    __version__ = "11.4.0.106"
    ILogger = _Logger

    def __init__(self, engines: dict[bytes, StandInEngine]) -> None:
        self.engines = engines
        self.libraries: list[str] = []

    def Runtime(self, logger: Any) -> Any:
        registry = SimpleNamespace(load_library=lambda path: self.libraries.append(path) or object())
        runtime = SimpleNamespace(engine_host_code_allowed=False, get_plugin_registry=lambda: registry)
        runtime.deserialize_cuda_engine = lambda data: self._deserialize(data, logger, runtime)
        return runtime

    def _deserialize(self, data: bytes, logger: Any, runtime: Any) -> StandInEngine | None:
        engine = self.engines.get(data)
        if engine is not None and engine.has_code and not runtime.engine_host_code_allowed:
            logger.log(SimpleNamespace(name="ERROR"), "host code is not allowed")
            return None
        if engine is None:
            logger.log(SimpleNamespace(name="INTERNAL_ERROR"), "the magic  tag does not match")
            return None
        engine.logger = logger
        return engine


class StandInTensorRTRTX(StandInTensorRT):
    """The module ``tensorrt_rtx``."""

    __version__ = "1.7.1.116"

    class CudaGraphStrategy(Enum):
        DISABLED = 0
        WHOLE_GRAPH_CAPTURE = 1

    class EngineValidity(Enum):
        VALID = 0
        INVALID = 2

    class EngineInvalidityDiagnostics(IntEnum):
        VERSION_MISMATCH = 1
        UNSUPPORTED_CC = 2
        OLD_CUDA_DRIVER = 4
        MALFORMED_ENGINE = 32

    validity = (EngineValidity.VALID, 0)

    def Runtime(self, logger: Any) -> Any:
        runtime = super().Runtime(logger)
        runtime.get_engine_validity = lambda data: self.validity
        return runtime


def _values(address: int, count: int, dtype: np.dtype[Any]) -> Any:
    memory = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(address)
    return np.frombuffer(memory, dtype)
