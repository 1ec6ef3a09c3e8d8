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

from deblur_deploy.graph.fold import remove_unused, rename_used, set_nodes, share_constants, subgraphs

_LARGEST = 64
"""Numbers in the largest constant that is worked with: sizes and borders, never weights."""

_KEPT = frozenset({"QuantizeLinear", "DequantizeLinear", "Constant"})
"""Operators that stay though all they read is constant: quantizers are what a quantized graph is about."""

Known = dict[str, NDArray[Any]]


def fold_constants(model: onnx.ModelProto) -> int:
    """Replace nodes whose results are known by initialisers, in place.

    Args:
        model: A graph, Constant nodes gathered by ``fold.share_constants``.

    Returns:
        Number of nodes carried out.
    """
    folded = 0
    while count := _fold_once(model):
        share_constants(model)  # what branches brought
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
    folded = 0
    kept: list[onnx.NodeProto] = []
    partial = _Sides(model)
    for node in graph.node:
        if (branch := _taken_branch(node, known)) is not None:
            kept += _spliced(graph, node, branch)
            folded += 1
            continue
        results = _results(node, known, shapes, opsets)
        if results is None:
            results = partial.picked(node, known)
        if results is None:
            kept.append(node)
            continue
        folded += 1
        known |= results
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in results.items())
    if folded:
        set_nodes(graph, kept, {})
    return folded


def _taken_branch(node: onnx.NodeProto, known: Mapping[str, NDArray[Any]]) -> onnx.GraphProto | None:
    """The branch of an If whose condition is known, else None."""
    if node.op_type != "If" or node.input[0] not in known:
        return None
    wanted = "then_branch" if bool(known[node.input[0]]) else "else_branch"
    branches: dict[str, onnx.GraphProto] = {attribute.name: attribute.g for attribute in node.attribute}
    return branches[wanted]


def _spliced(graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto) -> list[onnx.NodeProto]:
    """A branch's nodes in place of the If, under names of their own."""
    own = {name: f"{node.output[0]}/{name}" for each in branch.node for name in each.output}
    own |= {item.name: f"{node.output[0]}/{item.name}" for item in branch.initializer}
    for item in branch.initializer:
        renamed = graph.initializer.add()
        renamed.CopyFrom(item)
        renamed.name = own[item.name]
    nodes = []
    for each in branch.node:
        copy = onnx.NodeProto.FromString(each.SerializeToString())
        rename_used(copy, own)
        copy.output[:] = [own[name] for name in copy.output]
        nodes.append(copy)
    for given, wanted in zip(branch.output, node.output, strict=True):
        nodes.append(onnx.helper.make_node("Identity", [own.get(given.name, given.name)], [wanted]))
    return nodes


class _Sides:
    """Single sides of values whose shapes are known in part: ``Gather(Shape(x), 1)`` is known where the side is."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._dims: dict[str, list[int | None]] = {}
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            kind = value.type.tensor_type
            if kind.HasField("shape"):
                dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
                self._dims[value.name] = dims
        self._measured: dict[str, list[int | None]] = {}

    def picked(self, node: onnx.NodeProto, known: Mapping[str, NDArray[Any]]) -> Known | None:
        """What a Gather from a shape gives, or None."""
        if node.op_type == "Shape" and node.input[0] in self._dims:
            bounds = {attribute.name: attribute.i for attribute in node.attribute}
            self._measured[node.output[0]] = self._dims[node.input[0]][bounds.get("start", 0) : bounds.get("end")]
        if node.op_type != "Gather" or node.input[0] not in self._measured or node.input[1] not in known:
            return None
        sides, index = self._measured[node.input[0]], known[node.input[1]]
        taken = [sides[int(place)] for place in index.reshape(-1)]
        if any(side is None for side in taken):
            return None
        return {node.output[0]: np.array(taken, np.int64).reshape(index.shape)}


def _results(
    node: onnx.NodeProto, known: Known, shapes: Mapping[str, tuple[int, ...]], opsets: Mapping[str, int]
) -> Known | None:
    """What a node gives, by name, or None where that is not known or too large."""
    if node.domain or node.op_type in _KEPT or any(subgraphs(node)):
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
