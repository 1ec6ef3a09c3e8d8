"""Engines of temporal networks on the GPU: five tensors in, two out, all of one size.

The buffers are laid out once. Result and state come back to the host for every frame, since the motion is found there;
at 640x360 that is 6 MB in and 3 MB out.
"""

from __future__ import annotations

import ctypes
import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, DeblurDeployError
from deblur_deploy.network.steps import STEP_INPUTS, STEP_OUTPUTS
from deblur_deploy.runtime.cuda import Cuda
from deblur_deploy.runtime.engine_fit import flavour_of, import_tensorrt
from deblur_deploy.runtime.engine_io import tensor_dtype
from deblur_deploy.runtime.engine_load import load_engine
from deblur_deploy.runtime.runner import Runner
from deblur_deploy.runtime.runtimes import RUNTIMES, OpenOptions
from deblur_deploy.runtime.trt import ContextMaker, EngineOptions, EngineRunner, Libraries, engine_runtime


@dataclass(frozen=True)
class _Tensor:
    """A float32 tensor with its buffers on both sides."""

    shape: tuple[int, ...]
    host: int
    device: int

    @property
    def bytes(self) -> int:
        return 4 * math.prod(self.shape)

    @property
    def values(self) -> NDArray[np.float32]:
        """What the host's buffer holds."""
        memory = (ctypes.c_float * math.prod(self.shape)).from_address(self.host)
        values: NDArray[np.float32] = np.ctypeslib.as_array(memory).reshape(self.shape)
        return values


class EngineStepRunner(Runner):
    """An engine of a temporal network, for :class:`~deblur_deploy.runtime.film_runner.TemporalRunner`.

    Args:
        artifact: The engine.
        options: How to run it; one stream, and a CUDA graph where TensorRT-RTX makes it by itself.
        libraries: TensorRT and CUDA; by default those that are installed.

    Raises:
        MissingDependencyError: TensorRT or cuda-python is not installed.
        ArtifactError: The file is damaged, or does not take and give the tensors of a temporal network.
        BuildError: It was built for another version or another card.
        DeblurDeployError: The GPU cannot be used, or has no memory left.
    """

    def __init__(
        self, artifact: Artifact, options: EngineOptions | None = None, libraries: Libraries | None = None
    ) -> None:
        options = options or EngineOptions()
        flavour = flavour_of(artifact)
        libraries = libraries or Libraries(import_tensorrt(flavour), Cuda())
        super().__init__(engine_runtime(flavour, cuda_graph=options.cuda_graph), artifact.image)
        self._cuda, self._loaded = libraries.cuda, load_engine(artifact, libraries.trt)
        engine: Any = self._loaded.engine
        shapes = _shapes(engine, artifact)
        maker = ContextMaker(libraries.trt, engine, artifact.path, cuda_graph=options.cuda_graph)
        with ExitStack() as stack:
            self._stream = self._cuda.create_stream()
            stack.callback(self._cuda.destroy_stream, self._stream)
            self._context: Any = maker.create()
            self._tensors = {name: self._laid_out(shape, stack) for name, shape in shapes.items()}
            for name, tensor in self._tensors.items():
                self._require(self._context.set_tensor_address(name, tensor.device), f"the address of {name!r}")
            stack.callback(maker.save)
            self._cleanup = stack.pop_all()

    def close(self) -> None:
        """As :meth:`Runner.close`."""
        self._cuda.synchronize(self._stream)
        self._context = None
        self._cleanup.close()

    def run_step(self, tensors: dict[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As :meth:`deblur_deploy.runtime.film_runner.RunsSteps.run_step`.

        Raises:
            DeblurDeployError: TensorRT or CUDA failed.
        """
        for name in STEP_INPUTS:
            tensor = self._tensors[name]
            tensor.values[...] = tensors[name]
            self._cuda.upload(tensor.device, tensor.host, tensor.bytes, self._stream)
        self._require(self._context.execute_async_v3(self._stream), "a run")
        results = [self._tensors[name] for name in STEP_OUTPUTS]
        for tensor in results:
            self._cuda.download(tensor.host, tensor.device, tensor.bytes, self._stream)
        self._cuda.synchronize(self._stream)
        restored, state = (tensor.values.copy() for tensor in results)
        return restored, state

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        raise AssertionError("a temporal engine runs by `run_step` alone")

    def _laid_out(self, shape: tuple[int, ...], stack: ExitStack) -> _Tensor:
        size = 4 * math.prod(shape)
        host = self._cuda.allocate_host(size)
        stack.callback(self._cuda.free_host, host)
        device = self._cuda.allocate(size)
        stack.callback(self._cuda.free, device)
        return _Tensor(shape, host, device)

    def _require(self, succeeded: bool, what: str) -> None:
        if not succeeded:
            raise DeblurDeployError(
                f"{what} is refused: {self._loaded.logger.last_error}",
                hint="build the engine again, or for smaller frames",
            )


def open_engine(artifact: Artifact, name: str, options: OpenOptions) -> Runner:
    """Load an engine for one of TensorRT's runtimes; see :class:`EngineRunner` and :class:`EngineStepRunner`."""
    how = EngineOptions(cuda_graph=RUNTIMES[name].cuda_graph, spin_wait=options.spin_wait, batch=options.batch)
    return EngineRunner(artifact, how) if artifact.image.state is None else EngineStepRunner(artifact, how)


def _shapes(engine: Any, artifact: Artifact) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of an engine, if they are those of a temporal network.

    Raises:
        ArtifactError: They are not.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    if set(names) != {*STEP_INPUTS, *STEP_OUTPUTS}:
        raise ArtifactError(
            f"{artifact.path} has the tensors {', '.join(names)}, which are not those of a temporal network",
            hint="build it with `deblur-deploy export-trt --temporal`",
        )
    for name in names:
        if (dtype := tensor_dtype(engine, name)) != "float32":
            raise ArtifactError(
                f"the tensor {name!r} of {artifact.path} is {dtype}, not float32", hint="build the engine again"
            )
    return {name: tuple(engine.get_tensor_shape(name)) for name in names}
