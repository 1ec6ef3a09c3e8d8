"""Typed bfloat16: the float16 network of ``precision.py`` with the other 16-bit type in its place.

bfloat16 has float32's range and 8 bits of precision where float16 has 11: it serves networks whose activations float16
cannot hold. What stays float32 there stays so here, and deconvolutions too: TensorRT-RTX 1.7 has none in bfloat16.
Local functions are inlined, for the plugin of the deformable convolution has no bfloat16 either. ONNX has convolutions
of this type from opset 22 on. onnxruntime runs none on a processor, so the file's quality cannot be measured there.
"""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, inliner, numpy_helper, version_converter

from deblur_deploy.config import PrecisionConfig
from deblur_deploy.core.artifact import Artifact, Draft, new_step, write_artifact
from deblur_deploy.core.errors import ExportError
from deblur_deploy.export.precision import convert_to_fp16, drop_quantization, load_model, shares_of
from deblur_deploy.graph.facts import write_facts

OPSET = 22


def lower_to_bf16(source: Artifact, config: PrecisionConfig, out: Path) -> Artifact:
    """Write an ONNX artifact again with bfloat16 types and without quantization.

    Args:
        source: An ONNX artifact, float32 or quantized.
        config: What stays float32; nothing is measured.
        out: The new artifact's directory.

    Returns:
        An ONNX artifact with float32 inputs and outputs, and figures as :func:`lower_precision` gives them.

    Raises:
        ArtifactError: ``source`` is no readable ONNX artifact, or ``out`` cannot be written.
        ConfigError: A name to keep fits no node.
        ExportError: The network cannot be written in bfloat16.
    """
    floats, pairs = drop_quantization(load_model(source))
    typed = convert_to_bf16(floats, config.keep_fp32)
    figures = {"precision": shares_of(typed, source.image), "dropped_qdq_pairs": pairs}
    write_facts(typed, source, source.image)

    def write(path: Path) -> None:
        path.write_bytes(typed.SerializeToString(deterministic=True))

    network = dataclasses.replace(source.network, quantization=None)
    step = new_step("to-bf16", config, source, figures)
    return write_artifact(out, Draft("onnx", "model.onnx", write, network, source.image, step, source.history))


def convert_to_bf16(model: onnx.ModelProto, keep_fp32: Sequence[str] = ()) -> onnx.ModelProto:
    """Give a float32 network bfloat16 types, with casts where the two meet.

    Args:
        model: As for :func:`convert_to_fp16`. It is not changed.
        keep_fp32: Name patterns of nodes to leave in float32.

    Returns:
        A new model with the same inputs and outputs, checked.

    Raises:
        ConfigError: A pattern fits no node.
        ExportError: The network has something that cannot be retyped, or that opset 22 does not have.
    """
    weights: dict[str, NDArray[np.float32]] = {}

    def keep_values(tensor: TensorProto, name: str) -> TensorProto:
        """A float16 tensor that stands in for one of values that float16 may not hold."""
        weights[name] = numpy_helper.to_array(tensor)
        return numpy_helper.from_array(np.zeros(weights[name].shape, np.float16), name)

    deconvolutions = [glob.escape(node.name) for node in model.graph.node if node.op_type == "ConvTranspose"]
    typed = inliner.inline_local_functions(convert_to_fp16(model, (*keep_fp32, *deconvolutions), keep_values))
    for tensor in typed.graph.initializer:
        if tensor.name in weights:
            values = weights[tensor.name].astype(ml_dtypes.bfloat16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in typed.graph.node:
        for attribute in node.attribute:
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", TensorProto.FLOAT16):
                attribute.i = TensorProto.BFLOAT16
    del typed.graph.value_info[:]
    return _at_opset(typed)


def _at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model written in the first opset that has bfloat16 convolutions, checked."""
    try:
        converted = version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(converted, full_check=True)
    except (RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        reason = " ".join(str(err).split())
        raise ExportError(f"the network cannot be written in bfloat16: {reason}", hint="use float16: --fp16") from err
    return converted
