"""Where the arithmetic of an ONNX network is: its nodes with weights, and the multiply-accumulates of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, inliner, shape_inference

from deblur_deploy.config import precision_of_type
from deblur_deploy.core.errors import ExportError
from deblur_deploy.graph.constant_folding import fold_constants
from deblur_deploy.graph.edit import names_used, share_constants
from deblur_deploy.graph.operators import OP_TYPE, WEIGHTED
from deblur_deploy.graph.sizes import fix_sizes

_KINDS = {
    "Conv": "convolution",
    "ConvTranspose": "deconvolution",
    "DeformConv": "deformable",
    OP_TYPE: "deformable",
}

_Tensor = tuple[int, tuple[int, ...]]
"""Type and shape."""


@dataclass(frozen=True)
class ComputeNode:
    """An ONNX node that multiplies by weights.

    Args:
        name: Its name in the network.
        weight_shape: Shape of its second input.
        macs: Multiply-accumulates for one run of the network.
        type: Type that it computes in: ``int8`` behind dequantized inputs, else that of its weights: ``fp32``,
            ``fp16``, or ONNX's own name in lower case.
        kind: ``convolution``, ``deconvolution``, ``deformable`` or ``gemm``.
    """

    name: str
    weight_shape: tuple[int, ...]
    macs: int
    type: str = "fp32"
    kind: str = "convolution"


def compute_nodes(model: onnx.ModelProto) -> tuple[ComputeNode, ...]:
    """Find the nodes that multiply by weights, and count their multiply-accumulates.

    Args:
        model: A network with fixed sizes, local functions inlined; that of ``deblur::DeformConv2d`` may stay.

    Raises:
        ExportError: The sizes of such a node are not fixed.
    """
    tensors, nodes = _tensors_and_nodes(model)
    if not all(_are_sized(_tensors_of(node, tensors)) for node in nodes if node.op_type in WEIGHTED):
        folded = onnx.ModelProto()
        folded.CopyFrom(model)
        share_constants(folded)
        fold_constants(folded)  # shape inference only then knows sizes that are computed
        tensors, nodes = _tensors_and_nodes(folded)
    dequantized = {
        node.output[0]: tensors.get(node.input[0], (0, ()))[0] for node in nodes if node.op_type == "DequantizeLinear"
    }
    found = []
    for node in nodes:
        if node.op_type in WEIGHTED:
            known = _tensors_of(node, tensors)
            shapes = [shape for _, shape in known]
            if not _are_sized(known):
                raise ExportError(
                    f"the sizes of node {node.name!r} ({node.op_type}) are not fixed",
                    hint="export the network for one size: `deblur-deploy export-onnx --res 640x360`",
                )
            quantized = all(name in dequantized for name in node.input[:2])
            written_type = dequantized[node.input[1]] if quantized else known[1][0]
            macs, kind = _macs(node, *shapes), _type_name(written_type)
            found.append(ComputeNode(node.name, shapes[1], macs, kind, _kind(node)))
    return tuple(found)


def _tensors_and_nodes(model: onnx.ModelProto) -> tuple[dict[str, _Tensor], list[onnx.NodeProto]]:
    """Types and shapes of a model's values, as far as they can be inferred, and the nodes that its outputs need."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    tensors: dict[str, _Tensor] = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        tensors[value.name] = (kind.elem_type, tuple(dim.dim_value for dim in kind.shape.dim))
    needed, nodes = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed |= names_used(node)
            nodes.append(node)
    return tensors, nodes[::-1]


def _tensors_of(node: onnx.NodeProto, tensors: Mapping[str, _Tensor]) -> list[_Tensor]:
    """Input, weight and output of a layer with weights: what its cost depends on."""
    return [tensors.get(name, (0, ())) for name in (node.input[0], node.input[1], node.output[0])]


def _are_sized(tensors: list[_Tensor]) -> bool:
    """Whether all sizes are known."""
    return all(shape and 0 not in shape for _, shape in tensors)


def precision_shares(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, float] | None:
    """As :func:`share_of_macs`, at values for the free dimensions; None where the arithmetic cannot be counted."""
    try:
        return share_of_macs(fix_sizes(model, sizes))
    except ExportError:
        return None


def share_of_macs(model: onnx.ModelProto) -> dict[str, float]:
    """Share of the multiply-accumulates in each type, local functions included.

    Raises:
        ExportError: The sizes of a node are not fixed.
    """
    macs: Counter[str] = Counter()
    for node in compute_nodes(inliner.inline_local_functions(model)):
        macs[node.type] += node.macs
    return {kind: count / macs.total() for kind, count in macs.items()}


def _macs(node: onnx.NodeProto, source: tuple[int, ...], weight: tuple[int, ...], result: tuple[int, ...]) -> int:
    """Multiply-accumulates of one compute node."""
    if node.op_type in ("Conv", "DeformConv", OP_TYPE):  # every output element is a sum over one filter
        return math.prod(result) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":  # every input element is spread over one filter
        return math.prod(source) * math.prod(weight[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(result) * source[0 if transposed else -1]


def _kind(node: onnx.NodeProto) -> str:
    """The kind of a compute node. The convolution in an inlined deformable one has all of its multiply-accumulates."""
    operator = OP_TYPE if node.name.startswith(OP_TYPE) else node.op_type
    return _KINDS.get(operator, "gemm")


def _type_name(data_type: int) -> str:
    return precision_of_type(TensorProto.DataType.Name(data_type))
