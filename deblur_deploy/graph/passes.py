"""Passes of onnx_ir and onnxscript on a model, in place."""

from __future__ import annotations

import onnx
import onnx_ir as ir

MAX_ELEMENTS = 2**40
"""For passes that leave larger tensors alone: more than any has."""


def run_passes(model: onnx.ModelProto, *passes: ir.passes.PassBase) -> bool:
    """Run passes one after the other.

    Args:
        model: It is changed. Types and shapes of values between nodes are dropped: they follow from the rest.
        passes: What to do.

    Returns:
        Whether any of them changed anything.
    """
    result = ir.passes.Sequential(*passes)(ir.serde.deserialize_model(model))
    changed = ir.serde.serialize_model(result.model)
    # Part by part, so that whoever holds `model.graph` still holds the model's graph.
    model.graph.CopyFrom(changed.graph)
    del model.graph.value_info[:], model.functions[:], model.opset_import[:]
    model.functions.extend(changed.functions)
    model.opset_import.extend(changed.opset_import)
    return bool(result.modified)
