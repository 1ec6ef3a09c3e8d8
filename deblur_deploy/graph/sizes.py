"""Fixing the free sizes of an ONNX network, since its cost depends on the size of the picture."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from deblur_deploy.core.errors import ConfigError, ExportError
from deblur_deploy.graph.constant_folding import fold_constants

_SIZING = frozenset({"Add", "Concat", "Div", "Max", "Mul", "Shape", "Sub"})
"""Operators that compute sizes from other sizes."""


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
    if free_dimensions(model):
        fold_constants(fixed, _SIZING)
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
