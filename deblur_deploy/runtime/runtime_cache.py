"""Execution contexts, and the kernels that TensorRT-RTX compiles for them, kept in a file beside the engine.

TensorRT-RTX compiles an engine's kernels for the card at hand when the engine is first run. Its runtime cache keeps
them for the next process. It checks by itself whether a cache fits the card, the driver and its own version.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from deblur_deploy.core.errors import ArtifactError, DeblurDeployError
from deblur_deploy.core.files import whole_file

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
        with suppress(OSError):  # there is none yet, or it cannot be read: it is made again
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
        """Write what was compiled, if it is new; a folder that cannot be written to goes without."""
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
