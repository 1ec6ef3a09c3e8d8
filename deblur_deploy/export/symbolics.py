"""ONNX for operators that torch's exporter does not support, or not for every size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from onnx import TensorProto
from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic

from deblur_deploy.graph.deform_op import OPSET
from deblur_deploy.graph.operators import DOMAIN, OP_TYPE


@contextlib.contextmanager
def own_symbolics() -> Iterator[None]:
    """While open, the exporter writes operators that it has no ONNX for itself.

    ``deblur::deform_conv2d`` becomes a ``deblur::DeformConv2d`` node; the others are spelled out.
    """
    symbolics: dict[str, Callable[..., Any]] = {
        "deblur::deform_conv2d": _write_deform_conv,
        "aten::rms_norm": _write_rms_norm,
        "aten::adaptive_avg_pool2d": _write_adaptive_pool,
        "aten::channel_shuffle": _write_channel_shuffle,
    }
    for name, write in symbolics.items():
        register_custom_op_symbolic(name, write, OPSET)
    try:
        yield
    finally:
        for name in symbolics:
            unregister_custom_op_symbolic(name, OPSET)


def _write_rms_norm(graph: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    """Root mean square normalisation over the last axes (Zhang and Sennrich, arXiv:1910.07467)."""
    axes = list(range(-len(_constant_ints(shape.node())), 0))
    two = _constant(graph, 2.0)
    mean = graph.op("ReduceMean", graph.op("Pow", x, two), _constant(graph, axes))
    given = None if eps.node().mustBeNone() else eps.node().t("value")
    smallest = torch.finfo(torch.float32).eps if given is None else float(given)
    steady = graph.op("Add", mean, _constant(graph, smallest))
    normed = graph.op("Div", x, graph.op("Sqrt", steady))
    return normed if weight.node().mustBeNone() else graph.op("Mul", normed, weight)


def _write_adaptive_pool(graph: Any, x: Any, size: Any) -> Any:
    """Means over a grid, which need not divide the picture: one product with a matrix of weights along each axis."""
    rows, columns = _constant_ints(size.node())
    if (rows, columns) == (1, 1):
        return graph.op("GlobalAveragePool", x)
    across = graph.op("MatMul", x, graph.op("Transpose", _shares(graph, x, 3, columns), perm_i=[1, 0]))
    pooled = graph.op("MatMul", _shares(graph, x, 2, rows), across)
    return pooled.setType(graph.original_node.output().type())


def _shares(graph: Any, x: Any, axis: int, cells: int) -> Any:
    """The share that each entry of an axis has in each of so many cells: (cells, size of the axis) float32.

    Cell i reaches from floor(i n / cells) to ceil((i + 1) n / cells), so neighbours may share an entry.
    """
    numbers, count = torch.arange(cells)[:, None], _constant(graph, [[cells]])
    length = graph.op("Gather", graph.op("Shape", x), _constant(graph, axis), axis_i=0)
    starts = graph.op("Div", graph.op("Mul", _constant(graph, numbers.tolist()), length), count)
    reached = graph.op("Mul", _constant(graph, (numbers + 1).tolist()), length)
    ends = graph.op("Div", graph.op("Add", reached, _constant(graph, [[cells - 1]])), count)
    places = graph.op("Range", _constant(graph, 0), length, _constant(graph, 1))
    inside = graph.op("And", graph.op("GreaterOrEqual", places, starts), graph.op("Less", places, ends))
    weights = (graph.op("Cast", value, to_i=TensorProto.FLOAT) for value in (inside, graph.op("Sub", ends, starts)))
    return graph.op("Div", *weights)


def _write_channel_shuffle(graph: Any, x: Any, groups: Any) -> Any:
    """Channels by groups become channels by their place in the group."""
    count, channels = int(groups.node().t("value")), x.type().varyingSizes()[1]

    apart = graph.op("Reshape", x, _constant(graph, [0, count, channels // count, -1]))
    swapped = graph.op("Transpose", apart, perm_i=[0, 2, 1, 3])
    return graph.op("Reshape", swapped, graph.op("Shape", x)).setType(graph.original_node.output().type())


def _write_deform_conv(graph: Any, x: Any, offset: Any, weight: Any, *geometry: Any) -> Any:
    """Symbolic of the operator; attributes and input order as ONNX ``DeformConv``."""
    stride, padding, dilation, groups, offset_groups = (value.node() for value in geometry)
    pads = _constant_ints(padding)
    node = graph.op(
        f"{DOMAIN}::{OP_TYPE}",
        x,
        weight,
        offset,
        strides_i=_constant_ints(stride),
        pads_i=pads * 2,
        dilations_i=_constant_ints(dilation),
        kernel_shape_i=weight.type().sizes()[2:],
        group_i=groups.t("value").item(),
        offset_group_i=offset_groups.t("value").item(),
    )
    return node.setType(graph.original_node.output().type())


def _constant(graph: Any, values: Any) -> Any:
    """A constant tensor of a number or of nested lists."""
    return graph.op("Constant", value_t=torch.tensor(values))


def _constant_ints(node: Any) -> list[int]:
    """The value of a constant list: a tensor constant, or a list of scalar constants."""
    if node.kind() == "onnx::Constant":
        return [int(item) for item in node.t("value").reshape(-1)]
    return [int(value.node().t("value").item()) for value in node.inputs()]
