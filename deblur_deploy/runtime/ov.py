"""ONNX files in OpenVINO, on the processor."""

from __future__ import annotations

from typing import Any, ClassVar

import onnx.checker
import openvino
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, DeblurDeployError
from deblur_deploy.graph.for_openvino import read_for_openvino
from deblur_deploy.runtime.runner import Runner
from deblur_deploy.runtime.runtimes import OpenOptions, find_runtime


class OpenVINORunner(Runner):
    """An ONNX file in OpenVINO's CPU plugin, tuned for latency.

    Convolutions between QuantizeLinear and DequantizeLinear run in INT8 with either precision; the precision is that
    of everything else.

    Args:
        artifact: An ONNX artifact.
        name: ``openvino`` for float32, ``openvino-bf16`` for bfloat16.
        threads: Inference threads, or None for one per core.

    Raises:
        ArtifactError: OpenVINO cannot read the file.
    """

    failures: ClassVar = (RuntimeError,)

    def __init__(self, artifact: Artifact, name: str = "openvino", threads: int | None = None) -> None:
        super().__init__(name, artifact.image)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if find_runtime(name).precision == "bf16" else "f32",
        }
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            compiled = core.compile_model(read_for_openvino(core, artifact.path), "CPU", settings)
        except (RuntimeError, OSError, DecodeError, onnx.checker.ValidationError) as err:
            raise ArtifactError(
                f"OpenVINO cannot read {artifact.path}: {_reason(err)}", hint="export it again"
            ) from err
        self._compiled: Any = compiled
        self._request: Any = compiled.create_infer_request()

    def close(self) -> None:
        """As :meth:`Runner.close`."""
        self._request = self._compiled = None

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        restored: NDArray[Any] = self._request.infer({0: batch})[0]
        return restored

    def _reason(self, err: Exception) -> str:
        return _reason(err)

    def give_back_memory(self) -> None:
        """As :meth:`deblur_deploy.runtime.runner.KeepsMemory.give_back_memory`."""
        self._request = None
        self._compiled.release_memory()
        self._request = self._compiled.create_infer_request()


def open_openvino(artifact: Artifact, name: str, options: OpenOptions) -> OpenVINORunner:
    """Load an ONNX file for one of OpenVINO's runtimes; see :class:`OpenVINORunner`."""
    return OpenVINORunner(artifact, name, options.threads)


def bf16_unavailable(name: str) -> DeblurDeployError | None:
    """The error where this processor would only emulate bfloat16, else None."""
    if computes_bf16():
        return None
    return DeblurDeployError(
        "this processor has no bfloat16 arithmetic (AVX512-BF16 or AMX)",
        hint=f"use a runtime of float32 in the place of {name}, such as openvino",
    )


def computes_bf16() -> bool:
    """Whether OpenVINO finds bfloat16 arithmetic in this processor; where it does not, bf16 is emulated and slow."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _reason(err: BaseException) -> str:
    """The last line of OpenVINO's traces, which begin with file names of its sources."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[-1] if lines else type(err).__name__
