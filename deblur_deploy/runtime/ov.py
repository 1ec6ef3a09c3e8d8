"""ONNX files in OpenVINO, on the processor."""

from __future__ import annotations

import functools
import os
from typing import Any, ClassVar

import numpy as np
import onnx.checker
import openvino
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from openvino import opset8

from deblur_deploy.config import REDUCED_CODE
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.denormals import flushed_denormals
from deblur_deploy.core.errors import ArtifactError, DeblurDeployError
from deblur_deploy.core.threads import default_threads
from deblur_deploy.graph.for_openvino import read_for_openvino
from deblur_deploy.runtime.runner import Runner
from deblur_deploy.runtime.runtimes import OpenOptions, find_runtime

_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")

_WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"})
"""Instruction sets without bfloat16, as oneDNN calls them."""


class OpenVINORunner(Runner):
    """An ONNX file in OpenVINO's CPU plugin, tuned for latency.

    Convolutions between QuantizeLinear and DequantizeLinear run in INT8 with either precision; the precision is that of
    everything else. Where the processor adds products in 16 bits, a file whose weights need more is computed in
    float32. Nothing is left to OpenVINO's defaults that would give another picture on another processor.

    Args:
        artifact: An ONNX artifact.
        name: ``openvino`` for float32, ``openvino-bf16`` for bfloat16.
        threads: Inference threads, or None for one per usable core.

    Raises:
        ArtifactError: OpenVINO cannot read the file.
    """

    failures: ClassVar = (RuntimeError,)

    def __init__(self, artifact: Artifact, name: str = "openvino", threads: int | None = None) -> None:
        super().__init__(name, artifact.image)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if find_runtime(name).precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": threads or default_threads(),
            "CPU_DENORMALS_OPTIMIZATION": True,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        try:
            core = openvino.Core()
            model = read_for_openvino(core, artifact.path)
            if not multiplies_int8_exactly() and not _adds_within_16_bits(model):
                settings["LP_TRANSFORMS_MODE"] = False  # what is quantized is computed in float32
            with flushed_denormals():  # which compiling would set and leave
                compiled = core.compile_model(model, "CPU", settings)
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
        with flushed_denormals():
            restored: NDArray[Any] = self._request.infer({0: batch})[0]
        return restored

    def run_step(self, tensors: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """As :meth:`deblur_deploy.runtime.film_runner.RunsSteps.run_step`."""
        with flushed_denormals():
            found = self._request.infer(tensors)
        return found[0], found[1]

    def _reason(self, err: Exception) -> str:
        return _reason(err)

    def give_back_memory(self) -> None:
        """As :meth:`deblur_deploy.runtime.abilities.KeepsMemory.give_back_memory`."""
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
    """Whether OpenVINO finds bfloat16 arithmetic in this processor; where it does not, bf16 is emulated and slow.

    ``ONEDNN_MAX_CPU_ISA`` is taken into account: OpenVINO itself asks only the processor.
    """
    limit = next((os.environ[name].upper() for name in _LIMITS if os.environ.get(name)), "")
    return limit not in _WITHOUT_BF16 and "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@functools.cache
def multiplies_int8_exactly() -> bool:
    """Whether OpenVINO's INT8 convolutions are exact on this processor, found by one with the largest numbers.

    Without VNNI or AMX, oneDNN adds pairs of products in 16 bits, which the sum of two large ones does not fit into: it
    is cut off silently. Source: oneDNN's developer guide, *Nuances of int8 Computations*.
    """
    channels, side, largest = 16, 8, 127
    picture = opset8.parameter([1, channels, side, side], np.float32)
    rounded = opset8.fake_quantize(picture, *map(np.float32, (-128, largest, -128, largest)), 256)
    shape = (channels, channels, 3, 3)
    kernel = opset8.convert(opset8.constant(np.full(shape, largest, np.int8)), np.float32)
    scaled = opset8.multiply(kernel, np.ones((channels, 1, 1, 1), np.float32))
    convolved = opset8.convolution(rounded, scaled, [1, 1], [0, 0], [0, 0], [1, 1])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(openvino.Model([convolved], [picture]), "CPU", settings)
    found = compiled(np.full((1, channels, side, side), largest, np.float32))[0]
    return bool(np.all(found == largest * largest * channels * 9))


def _adds_within_16_bits(model: openvino.Model) -> bool:
    """Whether no sum of two products of an 8-bit weight and an 8-bit activation leaves 16 bits (``reduce_range``)."""
    kinds = (openvino.Type.i8, openvino.Type.u8)
    constants = (op for op in model.get_ops() if op.get_type_name() == "Constant" and op.get_element_type() in kinds)
    return all(np.abs(op.data.astype(np.int16)).max(initial=0) <= REDUCED_CODE for op in constants)


def _reason(err: BaseException) -> str:
    """The last line of OpenVINO's traces, which begin with file names of its sources."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[-1] if lines else type(err).__name__
