"""ONNX files in OpenVINO, on the processor."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import onnx.checker
import openvino
from google.protobuf.message import DecodeError

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, DeblurDeployError
from deblur_deploy.graph.for_openvino import read_for_openvino
from deblur_deploy.runtime.runner import Pictures, check_batch, infer_in_form


class OpenVINORunner:
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

    def __init__(self, artifact: Artifact, name: str = "openvino", threads: int | None = None) -> None:
        self.name = name
        self.image = artifact.image
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if name == "openvino-bf16" else "f32",
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._request = self._compiled = None

    def infer(self, batch: Pictures) -> Pictures:
        """As :meth:`deblur_deploy.runtime.runner.Runner.infer`."""
        check_batch(batch, self.image)
        try:
            return infer_in_form(lambda taken: self._request.infer({0: taken})[0], batch, self.image)
        except RuntimeError as err:
            shape = "x".join(map(str, batch.shape))
            raise DeblurDeployError(
                f"{self.name} failed on a {shape} batch: {_reason(err)}", hint="try a smaller picture"
            ) from err

    def give_back_memory(self) -> None:
        """As :meth:`deblur_deploy.runtime.runner.KeepsMemory.give_back_memory`."""
        self._request = None
        self._compiled.release_memory()
        self._request = self._compiled.create_infer_request()


def computes_bf16() -> bool:
    """Whether OpenVINO finds bfloat16 arithmetic in this processor; where it does not, bf16 is emulated and slow."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _reason(err: BaseException) -> str:
    """The last line of OpenVINO's traces, which begin with file names of its sources."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[-1] if lines else type(err).__name__
