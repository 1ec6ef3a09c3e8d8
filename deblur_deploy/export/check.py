"""Whether a graph that was written is valid ONNX whose types and shapes fit together."""

from __future__ import annotations

import onnx
from onnx import shape_inference

from deblur_deploy.errors import ExportError


def check_graph(model: onnx.ModelProto, what: str, hint: str) -> None:
    """Run onnx's checker, in full, and strict inference of types and shapes.

    Args:
        model: The graph.
        what: What it is, at the beginning of the message.
        hint: What to do if it is not valid.

    Raises:
        ExportError: It is not valid.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        infer_shapes(model)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as err:
        raise ExportError(f"{what}: {' '.join(str(err).split())}", hint=hint) from err


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the types and shapes of its values.

    Raises:
        onnx.shape_inference.InferenceError: They do not fit together.
    """
    return shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
