"""Write batch normalisation as the scale and the shift that it is once training is over.

Behind a float convolution the exporter folds it into the weights. Behind a quantized one it stays, and half precision
leaves it with a picture and statistics of two types, which OpenVINO does not read. A multiplication and an addition
are read, and fused, by all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from deblur_deploy.graph.fold import remove_unused, set_nodes

_EPSILON = 1e-5
"""What ONNX adds to the variance where the node does not say."""


def replace_batch_norms(model: onnx.ModelProto) -> int:
    """Replace every BatchNormalization with constant statistics by Mul and Add, in place.

    ``y = g (x - mean) / sqrt(var + eps) + b`` is ``s x + (b - s mean)`` with ``s = g / sqrt(var + eps)`` (ONNX operator
    specification, BatchNormalization).

    Args:
        model: A graph of pictures (N, C, H, W), Constant nodes gathered by ``fold.share_constants``.

    Returns:
        How many were replaced.
    """
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    replaced = 0
    for node in graph.node:
        if node.op_type != "BatchNormalization" or any(name not in constants for name in node.input[1:]):
            nodes.append(node)
            continue
        weight, bias, mean, variance = (_per_channel(constants[name]) for name in node.input[1:])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), _EPSILON)
        scale = weight / np.sqrt(variance + epsilon)
        output = node.output[0]
        for name, values in ((f"{output}.scale", scale), (f"{output}.shift", bias - scale * mean)):
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        nodes.append(helper.make_node("Mul", [node.input[0], f"{output}.scale"], [f"{output}.scaled"], name=node.name))
        nodes.append(
            helper.make_node("Add", [f"{output}.scaled", f"{output}.shift"], [output], name=f"{node.name}/shift")
        )
        replaced += 1
    if replaced:
        set_nodes(graph, nodes, {})
        remove_unused(model)
    return replaced


def _per_channel(item: onnx.TensorProto) -> NDArray[Any]:
    """(C,) as (1, C, 1, 1) float64."""
    return numpy_helper.to_array(item).astype(np.float64).reshape(1, -1, 1, 1)
