"""Making an exported file small, apart from its integer weights, and counting where its bytes are.

In an unrolled network, names and attributes take as many bytes as a layer: each layer is in the graph three times, and
the exporter spells out its path in every value. Values get names of a letter or two. Nodes with weights keep their
path, which people and engine logs know them by; other nodes are numbered by kind.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, product

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
)

from deblur_deploy.graph.edit import MAX_ELEMENTS, remove_unused, rename_used, run_passes, set_nodes
from deblur_deploy.graph.float_nodes import largest_of
from deblur_deploy.graph.operators import WEIGHTED

_QUANTIZERS = {"QuantizeLinear": "Q", "DequantizeLinear": "DQ"}
_CODES = (TensorProto.INT8, TensorProto.FLOAT8E4M3FN)
_DEFAULTS: dict[str, Callable[[onnx.AttributeProto], bool]] = {
    "strides": lambda attribute: set(attribute.ints) == {1},
    "dilations": lambda attribute: set(attribute.ints) == {1},
    "pads": lambda attribute: set(attribute.ints) == {0},
    "group": lambda attribute: attribute.i == 1,
}
"""Attributes of a convolution, and when they say no more than their default (ONNX operator specification)."""


def merge_duplicates(model: onnx.ModelProto) -> None:
    """Merge equal initialisers, and nodes that compute the same from the same inputs, in place."""
    run_passes(
        model,
        DeduplicateInitializersPass(size_limit=MAX_ELEMENTS),
        CommonSubexpressionEliminationPass(),
        RemoveUnusedNodesPass(),
    )


def halve_float_weights(model: onnx.ModelProto) -> int:
    """Store the weights that stay in float as float16, with one Cast to float32 after each, in place.

    Biases stay float32: they are a hundredth of the bytes, and runtimes fuse an integer convolution only with a bias
    that is a plain constant.

    Returns:
        Number of weights. One with a value beyond float16 is left as it is.
    """
    graph = model.graph
    used = {node.input[1] for node in graph.node if node.op_type in WEIGHTED}
    casts = []
    for item in graph.initializer:
        if item.name not in used or item.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(item)
        if np.abs(values).max() <= largest_of(TensorProto.FLOAT16):
            name = f"{item.name}.half"
            casts.append(helper.make_node("Cast", [name], [item.name], name=name, to=TensorProto.FLOAT))
            item.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name))
    set_nodes(graph, [*casts, *graph.node], {})
    return len(casts)


def restore_float_weights(model: onnx.ModelProto) -> None:
    """Turn casts of float16 initialisers back into float32 initialisers, in place."""
    graph = model.graph
    stored = {item.name: item for item in graph.initializer if item.data_type == TensorProto.FLOAT16}
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in stored and node.attribute[0].i == TensorProto.FLOAT:
            values = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        else:
            kept.append(node)
    set_nodes(graph, kept, {})
    remove_unused(model)


def shorten(model: onnx.ModelProto) -> None:
    """Give values short names, number nodes without weights, and drop attributes that repeat a default, in place."""
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    taken = _short_names(fixed)
    names = {name: name for name in fixed} | {"": ""}
    numbers: dict[str, count[int]] = {}
    for item in graph.initializer:
        names[item.name] = item.name = next(taken)
    for node in graph.node:
        for name in (*node.input, *node.output):
            if name not in names:
                names[name] = next(taken)
        rename_used(node, names)
        node.output[:] = [names[name] for name in node.output]
        if node.op_type in WEIGHTED:
            used = [attribute for attribute in node.attribute if not _says_nothing(node, attribute)]
            attributes = [onnx.AttributeProto.FromString(attribute.SerializeToString()) for attribute in used]
            del node.attribute[:]
            node.attribute.extend(attributes)
        else:
            kind = _QUANTIZERS.get(node.op_type, node.op_type)
            node.name = f"{kind}_{next(numbers.setdefault(kind, count(1)))}"
    graph.name = "deblur"


def bytes_by_category(model: onnx.ModelProto) -> dict[str, int]:
    """Where the bytes of a file are, the largest category first; they add up to the file.

    Categories are ``quantized weights``, ``float16``, ``float32`` and ``other`` initialisers (each with its name and
    shape), ``nodes``, ``functions``, and ``frame``: inputs, outputs, versions and metadata.
    """
    kinds = dict.fromkeys(_CODES, "quantized weights")
    kinds |= {TensorProto.FLOAT16: "float16", TensorProto.FLOAT: "float32"}
    sizes: Counter[str] = Counter()
    for item in model.graph.initializer:
        sizes[kinds.get(item.data_type, "other")] += item.ByteSize()
    sizes["nodes"] = sum(node.ByteSize() for node in model.graph.node)
    sizes["functions"] = sum(function.ByteSize() for function in model.functions)
    sizes["frame"] = model.ByteSize() - sizes.total()
    return dict(sizes.most_common())


def _says_nothing(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> bool:
    """Whether an attribute repeats its default. Attributes of local functions have none, and are all needed."""
    return not node.domain and attribute.name in _DEFAULTS and _DEFAULTS[attribute.name](attribute)


def _short_names(fixed: set[str]) -> Iterator[str]:
    """a, b, …, z, A, …, Z, aa, ab, …, without those that are taken."""
    for length in count(1):
        for letters in product(string.ascii_letters, repeat=length):
            name = "".join(letters)
            if name not in fixed:
                yield name
