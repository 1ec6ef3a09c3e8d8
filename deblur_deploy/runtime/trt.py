"""Engines of TensorRT and TensorRT-RTX on the GPU.

TensorRT-RTX compiles an engine's kernels for the card at hand when the engine is first run. Its runtime cache, a file
beside the engine, keeps them for the next process. It checks by itself whether a cache fits the card, the driver and
its own version.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError, DeblurDeployError
from deblur_deploy.core.files import whole_file
from deblur_deploy.runtime.cuda import Cuda, stream_handle
from deblur_deploy.runtime.device_array import DeviceArray, as_device_array
from deblur_deploy.runtime.device_timings import DeviceTimings
from deblur_deploy.runtime.engine_fit import flavour_of, import_tensorrt
from deblur_deploy.runtime.engine_io import describe_io
from deblur_deploy.runtime.engine_load import load_engine
from deblur_deploy.runtime.engine_stream import EngineStream, StreamOptions
from deblur_deploy.runtime.runner import Pictures, Runner
from deblur_deploy.runtime.runtimes import RUNTIMES

SUFFIX = ".runtime_cache"


class ContextMaker:
    """Makes execution contexts of one engine, all with the same settings.

    Args:
        trt: Module of the TensorRT that runs the engine.
        engine: Its ``ICudaEngine``.
        path: The engine's file.
        cuda_graph: Whether TensorRT-RTX should run the engine as a CUDA graph; the full TensorRT leaves that to others.
    """

    def __init__(self, trt: Any, engine: Any, path: Path, *, cuda_graph: bool) -> None:
        self._engine = engine
        self._config: Any = None
        self._cache: Any = None
        self._path = path.with_name(path.name + SUFFIX)
        self._saved = b""
        self.captures_itself = hasattr(trt, "CudaGraphStrategy")
        """Whether TensorRT makes the CUDA graph by itself."""
        if not self.captures_itself:
            return
        strategy = trt.CudaGraphStrategy
        self._config = engine.create_runtime_config()
        self._config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if cuda_graph else strategy.DISABLED
        self._cache = self._config.create_runtime_cache()
        with suppress(OSError):  # there is none yet, or it cannot be read: make a new one
            self._saved = self._path.read_bytes()
        if self._saved and not self._cache.deserialize(self._saved):
            self._saved = b""  # of another card, driver or version
        self._config.set_runtime_cache(self._cache)

    def create(self) -> Any:
        """A new execution context.

        Raises:
            DeblurDeployError: There is no memory for it.
        """
        if self._config is None:
            context = self._engine.create_execution_context()
        else:
            context = self._engine.create_execution_context(self._config)
        if context is None:
            raise DeblurDeployError(
                "TensorRT cannot make an execution context: the GPU has no memory left",
                hint="end other programs on the GPU, or build the engine for a smaller picture",
            )
        return context

    def save(self) -> None:
        """Write newly compiled kernels; a folder that cannot be written to gets none."""
        if self._cache is None:
            return
        data = self._cache.serialize()
        data = b"" if data is None else bytes(memoryview(data))
        if not data or data == self._saved:
            return
        with suppress(ArtifactError):
            with whole_file(self._path) as partial:
                partial.write_bytes(data)
            self._saved = data


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is run.

    Args:
        cuda_graph: Run it as a CUDA graph, which takes the host a few microseconds for all layers together.
        streams: How many batches may be in flight in :meth:`EngineRunner.infer_all`.
        spin_wait: Wait for the device awake, which takes a processor core; else asleep, which takes a little longer.
        batch: How many pictures at a time the engine will be given, where that is known: one that takes another number
            alone is refused when it is opened, and not at the first picture.
    """

    cuda_graph: bool = True
    streams: int = 1
    spin_wait: bool = True
    batch: int | None = None

    def __post_init__(self) -> None:
        for name, number in (("streams", self.streams), ("batch", self.batch)):
            if number is not None and number < 1:
                raise ConfigError(f"{name} is {number}", hint="give 1 or more")


@dataclass(frozen=True)
class Libraries:
    """The runner of an engine.

    Args:
        trt: Module of the TensorRT that built it.
        cuda: CUDA.
    """

    trt: Any
    cuda: Cuda


class EngineRunner(Runner):
    """An engine on the GPU.

    ``image`` has the largest size of which it takes one picture, whatever other sizes it takes.

    Attributes:
        settings: How it is run: ``cuda_graph``, and ``spin_wait`` for the host's way of waiting.

    Args:
        artifact: The engine. TensorRT-RTX keeps the kernels that it compiles in a file beside it.
        options: How to run it.
        libraries: TensorRT and CUDA; by default those that are installed.

    Raises:
        MissingDependencyError: TensorRT or cuda-python is not installed.
        ArtifactError: The file is damaged, or is not a deblurring engine.
        BuildError: It was built for another version or another card.
        ConfigError: It does not take the number of pictures that it will be given.
        DeblurDeployError: The GPU cannot be used, or has no memory left.
    """

    def __init__(
        self, artifact: Artifact, options: EngineOptions | None = None, libraries: Libraries | None = None
    ) -> None:
        options = options or EngineOptions()
        flavour = flavour_of(artifact)
        libraries = libraries or Libraries(import_tensorrt(flavour), Cuda())
        super().__init__(engine_runtime(flavour, cuda_graph=options.cuda_graph), artifact.image)
        self.settings = {"cuda_graph": options.cuda_graph, "spin_wait": options.spin_wait}
        loaded = load_engine(artifact, libraries.trt)
        self._loaded: Any = loaded
        self._io = describe_io(loaded.engine, artifact.image)
        if options.batch is not None:
            self._io.check_number(options.batch)
        self.image = self._io.image_for_one(artifact.image)
        maker = ContextMaker(libraries.trt, loaded.engine, artifact.path, cuda_graph=options.cuda_graph)
        how = StreamOptions(options.cuda_graph and not maker.captures_itself, options.spin_wait)
        self._streams: list[EngineStream] = []
        with ExitStack() as stack:
            for _ in range(options.streams):
                stream = EngineStream(libraries.cuda, maker.create(), self._io, loaded.logger, how)
                stack.callback(stream.close)
                self._streams.append(stream)
            stack.callback(maker.save)
            self._cleanup = stack.pop_all()

    def close(self) -> None:
        """As :meth:`Runner.close`."""
        self._cleanup.close()
        self._streams.clear()
        self._loaded = None

    def infer(self, batch: Pictures) -> Pictures:
        """As :meth:`deblur_deploy.runtime.runner.Runner.infer`.

        Camera frames, (N, H, W, 3) uint8, come out as such; they are converted where the engine takes floats.
        """
        self._first()
        self._io.check(batch, self.image)
        return cast(Pictures, self._run(batch))

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        stream = self._first()
        stream.start(batch)
        return stream.finish()

    def infer_timed(self, batch: Pictures) -> tuple[Pictures, DeviceTimings]:
        """The same, and where the time went."""
        restored = self.infer(batch)
        return restored, self._first().timings()

    def compute_again(self) -> DeviceTimings:
        """Run the network once more on what :meth:`infer` put on the device last, with no copies."""
        return self._first().compute_again()

    def infer_all(self, batches: Iterable[Pictures]) -> Iterator[Pictures]:
        """Restore many batches, as many at a time as there are streams.

        Args:
            batches: Each as for :meth:`infer`.

        Yields:
            The results, in order.

        Raises:
            ConfigError: A batch has a shape that the engine does not take.
            DeblurDeployError: TensorRT or CUDA failed.
        """
        self._first()
        free, busy = deque(self._streams), deque[EngineStream]()
        try:
            for batch in batches:
                if not free:
                    done = busy.popleft()
                    free.append(done)
                    yield cast(Pictures, done.finish())
                self._io.check(batch, self.image)
                stream = free.popleft()
                stream.start(batch)
                busy.append(stream)
            while busy:
                yield cast(Pictures, busy.popleft().finish())
        finally:
            while busy:  # left early: the streams have to be free for what comes next
                busy.popleft().finish()

    def infer_device(self, array: Any, out: Any = None, *, stream: int | None = None) -> DeviceArray:
        """Restore pictures that lie on the GPU, without copying them.

        Args:
            array: In the engine's own type and layout: a tensor of PyTorch or JAX, an array of CuPy, PyCUDA or Numba,
                or a :class:`DeviceArray`.
            out: Where the result is to lie, an array of the same kinds; by default a buffer of the runner, which is
                used again at the next call.
            stream: Handle of the CUDA stream to run on, such as ``torch.cuda.current_stream().cuda_stream``: nothing is
                waited for, and the result is there for what comes after it on that stream. By default the runner's own
                stream, and the result is finished on return.

        Returns:
            The result; ``torch.as_tensor(result, device="cuda")`` and ``cupy.asarray(result)`` take it without a copy.

        Raises:
            ConfigError: An array does not lie on the GPU, has gaps, or has another type or shape.
            DeblurDeployError: TensorRT or CUDA failed.
        """
        lane = self._first()
        on = lane.stream if stream is None else stream_handle(stream)
        source = self._ready(lane, array, on, self._io.input_dtype)
        if out is None:
            address = lane.run_in_place(source.shape, source.address, on)
        else:
            target = self._ready(lane, out, on, self._io.output_dtype)
            if target.shape != source.shape:
                raise ConfigError(f"out has shape {target.shape}", hint=f"give {source.shape}, as the input has")
            address = lane.run_in_place(source.shape, (source.address, target.address), on)
        if stream is None:
            lane.synchronize()
        made_on = None if stream is None else on
        return DeviceArray(address, lane.output_shape, self._io.output_dtype, made_on, 0, (self, array, out))

    def _ready(self, lane: EngineStream, array: Any, on: int, dtype: str) -> DeviceArray:
        """Where an array lies, after the stream was told to wait for what makes it."""
        found = as_device_array(array, on)
        if found.dtype != dtype:
            raise ConfigError(
                f"the array is {found.dtype}, and the engine takes {dtype}", hint=f"convert it to {dtype} on the GPU"
            )
        device = lane.device_of(found.address) if found.device is None else found.device
        if device is None:
            raise ConfigError(
                f"the {type(array).__name__} names an address that is not on a GPU",
                hint="move it there, or give a NumPy array to `infer`",
            )
        if device != 0:
            raise ConfigError(
                f"the array lies on GPU {device}, and the engine on GPU 0",
                hint="move it, or start with CUDA_VISIBLE_DEVICES set to the other GPU",
            )
        if found.stream is not None and found.stream != on:
            lane.wait_for(found.stream, on=on)
        return found

    def _first(self) -> EngineStream:
        assert self._streams, "the runner was closed"
        return self._streams[0]


def engine_runtime(flavour: str, *, cuda_graph: bool) -> str:
    """Name of the runtime for engines of a TensorRT: ``tensorrt-rtx``, ``tensorrt-no-graph``."""
    return next(
        name
        for name, row in RUNTIMES.items()
        if row.kind == "engine" and (row.flavour, row.cuda_graph) == (flavour, cuda_graph)
    )
