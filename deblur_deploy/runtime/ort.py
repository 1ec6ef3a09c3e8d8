"""ONNX files in onnxruntime, on the processor or on an NVIDIA GPU."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as native

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.denormals import flushed_denormals
from deblur_deploy.core.errors import ArtifactError, first_line
from deblur_deploy.core.processor import adds_int8_exactly
from deblur_deploy.core.threads import default_threads, waits_passively
from deblur_deploy.runtime.ort_providers import open_session
from deblur_deploy.runtime.runner import Runner, fixed_size, infer_in_form
from deblur_deploy.runtime.runtimes import CPU_PROVIDER, RUNTIMES, OpenOptions

# onnxruntime's exceptions have no base of their own.
_FAILURES = (
    native.EPFail,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoModel,
    native.NoSuchFile,
    native.NotImplemented,
    native.RuntimeException,
)

_SHRINK = "memory.enable_memory_arena_shrinkage"
"""Setting of one run: after it, the memory that no tensor uses goes back to the system (onnxruntime's run options)."""

_SMALL_SIDE = 64
"""Pixels of the picture for such a run: large enough for networks that halve it several times or mirror its border."""

_ENTRIES = {
    "session.set_denormal_as_zero": "1",
}
_SPIN = "session.intra_op.allow_spinning"
_KEEP_QDQ = "session.disable_quant_qdq"
"""Convolutions between quantizers are computed in float32. ``session.x64quantprecision``, which is there to put uint8
for int8 weights on such processors, ends in an error where two layers share a weight (onnxruntime 1.31)."""


class OnnxruntimeRunner(Runner):
    """An ONNX file in onnxruntime.

    The file runs as it was written: onnxruntime expands ``deblur::DeformConv2d`` by the local function that the file
    carries. The standard operator DeformConv in its place takes the same time (within 3 % of a 640x360 frame).

    Args:
        artifact: An ONNX artifact.
        threads: Threads within an operator, or None for one per usable core.
        name: ``onnxruntime`` for the processor, or one of the runtimes that add a provider to this name.

    Raises:
        ArtifactError: onnxruntime cannot read the file.
        DeblurDeployError: The provider cannot be loaded, or leaves computation to the processor.
    """

    failures: ClassVar = _FAILURES

    def __init__(self, artifact: Artifact, threads: int | None = None, name: str = "onnxruntime") -> None:
        super().__init__(name, artifact.image)
        options = session_options(threads)
        if (artifact.network.quantization or {}).get("format") == "fp8":
            # Higher levels take float8 quantizers for integer ones: they put integer convolutions behind them, which
            # then refuse the file, and drop the Relu before a quantizer whose zero point is 0.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            with flushed_denormals():
                session = open_session(artifact, options, name)
        except _FAILURES as err:
            raise ArtifactError(
                f"{name} cannot read {artifact.path}: {first_line(err)}", hint="export it again"
            ) from err
        self._session: Any = session
        self._input = session.get_inputs()[0].name

    def close(self) -> None:
        """As :meth:`Runner.close`."""
        self._session = None

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        with flushed_denormals():
            restored: NDArray[Any] = self._session.run(None, {self._input: batch})[0]
        return restored

    def run_step(self, tensors: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """As :meth:`deblur_deploy.runtime.film_runner.RunsSteps.run_step`."""
        with flushed_denormals():
            restored, state = self._session.run(None, tensors)
        return restored, state

    def give_back_memory(self) -> None:
        """As :meth:`deblur_deploy.runtime.abilities.KeepsMemory.give_back_memory`; on the processor, at any size.

        onnxruntime gives back only after a run. A network that refuses the small picture for it keeps its memory.
        """
        if RUNTIMES[self.name].provider != CPU_PROVIDER or fixed_size(self.image) is not None:
            return
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(_SHRINK, "cpu:0")
        side = -(-_SMALL_SIDE // self.image.multiple_of) * self.image.multiple_of
        small = np.zeros((1, 3, side, side), np.float32)
        with contextlib.suppress(*_FAILURES):
            infer_in_form(lambda taken: self._session.run(None, {self._input: taken}, options)[0], small, self.image)


def open_onnxruntime(artifact: Artifact, name: str, options: OpenOptions) -> OnnxruntimeRunner:
    """Load an ONNX file for one of onnxruntime's runtimes; see :class:`OnnxruntimeRunner`."""
    return OnnxruntimeRunner(artifact, options.threads, name)


def session_options(threads: int | None = None) -> Any:
    """Onnxruntime's ``SessionOptions`` for one picture at a time.

    Args:
        threads: Threads within an operator, or None for one per usable core; onnxruntime itself would take one for each
            core of the machine, and pin it there.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; warnings are about nodes that were folded
    for key, value in _ENTRIES.items():
        options.add_session_config_entry(key, value)
    if waits_passively():
        options.add_session_config_entry(_SPIN, "0")
    if not adds_int8_exactly():
        options.add_session_config_entry(_KEEP_QDQ, "1")
    return options
