"""Whether a graph is valid ONNX whose types and shapes fit together."""

from __future__ import annotations

import onnx
from onnx import shape_inference

from deblur_deploy.core.errors import ExportError


def check_graph(model: onnx.ModelProto, what: str, hint: str) -> None:
    """Run onnx's checker, in full, and strict inference of types and shapes.

    Args:
        model: The graph.
        what: Beginning of the message if it is not valid.
        hint: What to do then.

    Raises:
        ExportError: It is not valid.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as err:
        raise ExportError(f"{what}: {' '.join(str(err).split())}", hint=hint) from err
    infer_shapes(model)


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the types and shapes of its values.

    Raises:
        ExportError: They do not fit together.
    """
    try:
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as err:
        reason = " ".join(str(err).split())
        raise ExportError(f"the network's shapes do not fit together: {reason}", hint="export it again") from err
