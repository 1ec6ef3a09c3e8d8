"""TensorRT and its engines on the stand-in for CUDA; the "network" inverts the picture."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from cuda_stand_in import ALIGNMENT, COMPUTE_MS, StandInCuda
from onnx import helper

_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}


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
        self._in_flight = 0
        self._has_run_with_shape = False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        def switch() -> None:
            assert not self._in_flight, "the profile was switched while the network still runs on another stream"

        self._engine.cuda.enqueue(stream_handle, switch)
        self._profile = profile_index
        self._has_run_with_shape = False
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._has_run_with_shape = False
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
        for address in (source, target):
            assert engine.cuda.device_of(address) == 0, "the network is to run on what is no memory of its device"
        capturing = engine.cuda.is_capturing(stream_handle)
        assert self._has_run_with_shape or not capturing, "a graph is captured before the network ran with this shape"
        self._has_run_with_shape = True
        self._in_flight += not capturing

        def invert() -> None:
            assert not engine.lacks, "an engine was run without its weights"
            dtype = np.dtype(_NUMPY[engine.dtype.name])
            x, y = (_values(address, count, dtype) for address in (source, target))
            y[...] = (255 if dtype == np.uint8 else 1) - x
            engine.cuda.take(COMPUTE_MS)
            self._in_flight = max(0, self._in_flight - 1)

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
        self.lacks: set[str] = set()

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


class StandInRefitter:
    """TensorRT's IRefitter: weights that were given are in the engine when it says so."""

    def __init__(self, engine: StandInEngine, logger: Any) -> None:
        self._engine, self._logger = engine, logger
        self._given: set[str] = set()

    def get_all_weights(self) -> list[str]:
        return sorted(self._engine.lacks)

    def get_missing_weights(self) -> list[str]:
        return sorted(self._engine.lacks - self._given)

    def set_named_weights(self, name: str, weights: Any) -> bool:
        self._given.add(name)
        return name in self._engine.lacks

    def refit_cuda_engine(self) -> bool:
        if not self._engine.has_memory:
            self._logger.log(SimpleNamespace(name="ERROR"), "out of memory")
            return False
        self._engine.lacks -= self._given
        return True


class StandInOnnxParserRefitter:
    """TensorRT's IParserRefitter: takes the initializers and constants of the main graph, by name, as the real one."""

    def __init__(self, refitter: StandInRefitter) -> None:
        self._refitter = refitter
        self._errors: list[str] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: self._errors[index])

    def refit_from_bytes(self, model: bytes) -> bool:
        graph = onnx.load_from_string(model).graph
        named = {value.name: value for value in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                named[node.output[0]] = helper.get_attribute_value(node.attribute[0])
        wanted = [name for name in self._refitter.get_all_weights() if name in named]
        taken = [self._refitter.set_named_weights(name, named[name]) for name in wanted]
        if self._refitter.get_missing_weights():
            self._errors.append("Failed to refit\nall the weights.")
            return False
        return all(taken)


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

    def Refitter(self, engine: StandInEngine, logger: Any) -> StandInRefitter:
        return StandInRefitter(engine, logger)

    def OnnxParserRefitter(self, refitter: StandInRefitter, logger: Any) -> StandInOnnxParserRefitter:
        return StandInOnnxParserRefitter(refitter)


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
