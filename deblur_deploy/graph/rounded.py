"""A network of 16-bit types in a form that a processor computes: in float32, with every value rounded to its type.

onnxruntime has few 16-bit kernels for processors. Where it has none it computes several operators in float32 in a row
and drops the casts between them, so that a square of 300 passes through a float16 tensor unharmed. A GPU computes an
operator with float32 sums and rounds what it gives. This pass writes that, with two casts after every value of the
type, which onnxruntime keeps.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper

from deblur_deploy.graph.edit import replace_nodes
from deblur_deploy.graph.float_nodes import NUMPY_TYPES
from deblur_deploy.graph.retype import tensor_types

ROUNDED = frozenset(NUMPY_TYPES)
"""ONNX's numbers of the types that are rounded to."""


def round_in_float32(typed: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Write a network of 16-bit types in float32, every value rounded to its type.

    Args:
        typed: As ``retype.convert_types`` makes it. It is not changed.

    Returns:
        The network with the same inputs, outputs and names of values, and the names of its rounded values that nodes
        compute, in order. Values of the type are float32 in it, and infinite where the type's would be.
    """
    types = tensor_types(typed)
    model = inliner.inline_local_functions(typed)
    if typed.functions:
        types = tensor_types(model)
    for item in model.graph.initializer:
        if item.data_type in ROUNDED:
            values = numpy_helper.to_array(item).astype(np.float32)
            item.CopyFrom(numpy_helper.from_array(values, item.name))
    nodes: list[onnx.NodeProto] = []
    rounded: list[str] = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Cast" and node.attribute[0].i in ROUNDED:
            node.attribute[0].i = TensorProto.FLOAT
        for slot, name in enumerate(node.output):
            if (kind := types.get(name)) in ROUNDED:
                exact, short = f"{name}/exact", f"{name}/short"
                node.output[slot] = exact
                nodes.append(helper.make_node("Cast", [exact], [short], to=kind))
                nodes.append(helper.make_node("Cast", [short], [name], to=TensorProto.FLOAT))
                rounded.append(name)
    replace_nodes(model, nodes)
    return model, tuple(rounded)
