"""An ONNX network with free sizes, looked at for one size: what it costs depends on the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from deblur_deploy.core.errors import ConfigError, ExportError

_SIZING = frozenset({"Add", "Concat", "Div", "Max", "Mul", "Sub"})
"""Operators that compute sizes from sizes."""


def free_dimensions(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the free dimensions of the inputs, in order; a dimension without a name is called ``?``."""
    dims = [dim for value in model.graph.input for dim in value.type.tensor_type.shape.dim]
    return tuple(dict.fromkeys(dim.dim_param or "?" for dim in dims if not dim.dim_value))


def fix_sizes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> onnx.ModelProto:
    """A copy whose free dimensions have values, and in which the sizes that follow from them are constants.

    Args:
        model: A network; one without free dimensions is copied as it is.
        sizes: A value for every name that :func:`free_dimensions` finds.

    Raises:
        ExportError: A free dimension has no value.
    """
    missing = [name for name in free_dimensions(model) if name not in sizes]
    if missing:
        raise ExportError(
            f"the input's dimension {missing[0]!r} is not fixed, and only {', '.join(sizes)} were given",
            hint="free dimensions are called batch, height and width: export the file again",
        )
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    graph = fixed.graph
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    del graph.value_info[:]
    _fold_sizes(graph, _shapes(fixed))
    return fixed


def fix_to_shape(model: onnx.ModelProto, input_name: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    """A copy of a network with its free sizes fixed.

    Args:
        model: The network, local functions inlined.
        input_name: The input that has free sizes.
        shape: The shape that it gets.

    Raises:
        ConfigError: Two sizes have one name in the network, and were to be different.
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    sizes: dict[str, int] = {}
    (source,) = (value for value in named.graph.input if value.name == input_name)
    for axis, (dim, size) in enumerate(zip(source.type.tensor_type.shape.dim, shape, strict=True)):
        if not dim.dim_value:
            dim.dim_param = dim.dim_param or f"axis_{axis}"
            if sizes.setdefault(dim.dim_param, size) != size:
                message = f"sizes {sizes[dim.dim_param]} and {size} of {input_name!r} are one, {dim.dim_param!r}"
                raise ConfigError(message, hint="give it the same value on both axes")
    for value in named.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param not in sizes:
                dim.ClearField("dim_param")  # a name of the output's own; its value follows from the input's
    return fix_sizes(named, sizes)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the values that are known in full."""
    graph = shape_inference.infer_shapes(model).graph
    shapes = {}
    for value in (*graph.input, *graph.value_info):
        dims = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if all(dims):
            shapes[value.name] = dims
    return shapes


def _fold_sizes(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Turn what computes sizes from known shapes into constants, in place."""
    known: dict[str, NDArray[Any]] = {
        item.name: numpy_helper.to_array(item) for item in graph.initializer if item.data_type == onnx.TensorProto.INT64
    }
    kept = []
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes:
            bounds = {attribute.name: attribute.i for attribute in node.attribute}
            dims = shapes[node.input[0]][bounds.get("start", 0) : bounds.get("end")]
            found = numpy_helper.from_array(np.array(dims, np.int64), node.output[0])
        elif node.op_type in _SIZING and all(name in known for name in node.input):
            values: list[NDArray[Any]] = ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input})  # type: ignore[assignment]
            found = numpy_helper.from_array(values[0], node.output[0])
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        known[found.name] = numpy_helper.to_array(found)
        graph.initializer.append(found)
    del graph.node[:]
    graph.node.extend(kept)
