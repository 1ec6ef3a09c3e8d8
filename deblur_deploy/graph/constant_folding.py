"""Carry out what an exported graph computes from nothing but constants and the sizes of its values.

The exporter writes the borders of some paddings, and the sizes of some enlargements, as a dozen nodes that take the
shape of a value apart and put it together again. At a fixed size all of that is one constant. Until it is, shape
inference stops there, and so does every builder that needs to know its sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from deblur_deploy.graph.fold import remove_unused, set_nodes

_LARGEST = 64
"""Numbers in the largest constant that is worked with: sizes and borders, never weights."""

_KEPT = frozenset({"QuantizeLinear", "DequantizeLinear", "Constant"})
"""Operators that stay though all they read is constant: quantizers are what a quantized graph is about."""

Known = dict[str, NDArray[Any]]


def fold_constants(model: onnx.ModelProto) -> int:
    """Replace nodes whose results are known by initialisers, in place.

    Args:
        model: A graph of a fixed size without control flow, Constant nodes gathered by ``fold.share_constants``.

    Returns:
        Number of nodes carried out.
    """
    folded = 0
    while count := _fold_once(model):
        folded += count  # a size that has become known may be that of further values
    if folded:
        remove_unused(model)
    return folded


def _fold_once(model: onnx.ModelProto) -> int:
    """One pass from the graph's inputs to its outputs."""
    graph = model.graph
    shapes = _static_shapes(model)
    known = _small_constants(graph)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        results = _results(node, known, shapes, opsets)
        if results is None:
            kept.append(node)
            continue
        known |= results
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in results.items())
    count = len(graph.node) - len(kept)
    if count:
        set_nodes(graph, kept, {})
    return count


def _results(
    node: onnx.NodeProto, known: Known, shapes: Mapping[str, tuple[int, ...]], opsets: Mapping[str, int]
) -> Known | None:
    """What a node gives, by name, or None where that is not known or too large."""
    if node.domain or node.op_type in _KEPT or any(attribute.HasField("g") for attribute in node.attribute):
        return None
    if node.op_type == "Shape":
        if node.input[0] not in shapes:
            return None
        known = {node.input[0]: np.broadcast_to(np.float32(0), shapes[node.input[0]])}
    given = [name for name in node.input if name]
    if not given or any(name not in known for name in given):
        return None
    if any(math.prod(shapes.get(name, ())) > _LARGEST for name in node.output):
        return None
    values = ReferenceEvaluator(node, opsets=dict(opsets)).run(None, {name: known[name] for name in given})
    return dict(zip(node.output, values, strict=True))


def _static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the values whose sizes are all known."""
    found = {}
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            found[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    return found


def _small_constants(graph: onnx.GraphProto) -> Known:
    return {item.name: numpy_helper.to_array(item) for item in graph.initializer if math.prod(item.dims) <= _LARGEST}
