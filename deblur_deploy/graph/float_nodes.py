"""Which nodes of a network stay float32 when it is written in 16 bits, and why.

Delicate arithmetic is found by the network's structure and its constants.

What layers with weights give is known to fit 16 bits well. What is computed *from* many values at once, or steeply,
is not: sums over a picture and squares pass 65504, variances are small differences of large numbers, and an epsilon of
1e-8 is 0 in float16, where a flat area then gives 0/0. Names do not help: one exporter writes a LayerNorm as one
operator, another as ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt and Div. So the values are followed: from a
reduction, a square, a root, an exponential or a constant that 16 bits do not hold, through all that is computed from
it, up to where the value is an ordinary activation again: a division or a product that normalises, a bounded
function, or a layer with weights. The list of operators is that of PyTorch's automatic mixed precision (torch.amp,
"ops that autocast to float32") in ONNX's terms.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.graph.frames import NODES as FRAME_NODES
from deblur_deploy.graph.operators import WEIGHTED

_MEASURES = frozenset({"Shape", "Size"})

_SUMS = frozenset(
    {
        *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
        *("ReduceProd", "GlobalAveragePool", "GlobalLpPool", "LpPool", "CumSum"),
    }
)
_STEEP = frozenset({"Exp", "Log", "Pow", "Sqrt", "Reciprocal"})
_NORMALISATIONS = frozenset(
    {
        *("InstanceNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization", "LpNormalization"),
        *("MeanVarianceNormalization", "Softmax", "LogSoftmax", "LRN"),
    }
)
_BOUNDED = frozenset({"Tanh", "Sigmoid", "HardSigmoid", "Erf", "Sign", "Sin", "Cos", "Softsign"})

NUMPY_TYPES: dict[int, Any] = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}


def stops(node: onnx.NodeProto) -> bool:
    """Whether values end at a node: a layer with weights, a local function, or an operator that only reads a shape."""
    return node.domain not in ("", "ai.onnx") or node.op_type in WEIGHTED | _MEASURES | {"Einsum"}


def delicate_nodes(graph: onnx.GraphProto, types: Mapping[str, int], kind: int) -> set[int]:
    """Indices of the nodes whose arithmetic needs more than a 16-bit type.

    Args:
        graph: A graph of float32, Constant nodes gathered into initialisers.
        types: ONNX's numbers of the types of its tensors.
        kind: The 16-bit type as ONNX's number of it.
    """
    return _Follower(graph, types, kind).nodes()


class _Follower:
    """Follows values through a graph from where arithmetic is delicate to where it is not."""

    def __init__(self, graph: onnx.GraphProto, types: Mapping[str, int], kind: int) -> None:
        self._nodes = list(graph.node)
        self._kind = kind
        self._types = types
        floats = {name for name, of in types.items() if of == TensorProto.FLOAT}
        items = [item for item in graph.initializer if item.name in floats]
        self._constants = {item.name: numpy_helper.to_array(item) for item in items}
        self._computed = floats - self._constants.keys()
        self._inverse = set[str]()  # tensors that are one divided by something

    def nodes(self) -> set[int]:
        """Indices of the delicate nodes."""
        found, delicate = set[int](), set[str]()
        for index, node in enumerate(self._nodes):
            loses = self._loses_constant(node)
            if stops(node):
                if loses:
                    found.add(index)  # weights that vanish; what they give is what the network is made for
                continue
            if not (loses or self._begins(node) or delicate.intersection(node.input)):
                continue
            found.add(index)
            if self._is_ordinary_again(node, loses):
                continue
            results = self._computed.intersection(node.output)
            delicate |= results
            if self._inverts(node) or (self._inverse.intersection(node.input) and node.op_type != "Mul"):
                self._inverse |= results
        return found | self._averages_before(found)

    def _begins(self, node: onnx.NodeProto) -> bool:
        """Whether a node is delicate by its own operation."""
        if node.op_type == "Cast":  # counts of pixels, and positions
            return self._types.get(node.input[0]) in (TensorProto.INT32, TensorProto.INT64)
        values = [name for name in node.input if name in self._computed]
        if not values:
            return False
        if node.op_type in _SUMS | _STEEP | _NORMALISATIONS:
            return True
        if node.op_type == "Mul":
            return len(values) == 2 and values[0] == values[1]  # a square
        return node.op_type == "Div" and node.input[1] in self._computed

    def _is_ordinary_again(self, node: onnx.NodeProto, loses_constant: bool) -> bool:
        """Whether a node's output is an ordinary activation again, whatever it was computed from."""
        if node.op_type in _NORMALISATIONS | _BOUNDED:
            return True
        if node.op_type == "Clip":
            return len(node.input) == 3 and all(node.input) and not loses_constant
        both = len(node.input) == 2 and all(name in self._computed for name in node.input)
        if node.op_type == "Div":
            return both
        return node.op_type == "Mul" and both and bool(self._inverse.intersection(node.input))

    def _inverts(self, node: onnx.NodeProto) -> bool:
        """Whether a node gives one divided by a power of its input."""
        if node.op_type == "Pow":
            exponent = self._constants.get(node.input[1])
            return exponent is not None and bool((exponent < 0).all())
        return node.op_type == "Reciprocal" or (node.op_type == "Div" and node.input[0] not in self._computed)

    def _averages_before(self, delicate: set[int]) -> set[int]:
        """Averages that delicate values are computed from, and the nodes between: ``E[x²] - E[x]²`` cancels digits."""
        averaged, between = set[str](), set[int]()
        for index, node in enumerate(self._nodes):
            passes = index not in delicate and not stops(node) and averaged.intersection(node.input)
            if node.op_type == "AveragePool" or passes:
                between.add(index)
                averaged |= self._computed.intersection(node.output)
        needed, found = set[str](), set[int]()
        for index in reversed(range(len(self._nodes))):
            node = self._nodes[index]
            if index in delicate and not stops(node):
                needed.update(averaged.intersection(node.input))
            elif index in between and needed.intersection(node.output):
                found.add(index)
                needed.update(averaged.intersection(node.input))
        return found

    def _loses_constant(self, node: onnx.NodeProto) -> bool:
        """Whether a node reads a constant that the type cannot hold: all of it vanishes, or some is too large."""
        return any(is_lost(self._constants[name], self._kind) for name in node.input if name in self._constants)


def is_lost(values: NDArray[Any], kind: int) -> bool:
    """Whether float32 values lie outside the normal numbers of a 16-bit type.

    Single elements of weights may vanish; a constant whose largest element does is an epsilon or a small scale.

    Args:
        values: Of any shape.
        kind: The type as ONNX's number of it.
    """
    magnitudes = np.abs(values[np.isfinite(values)])
    if not magnitudes.size:
        return False
    largest = float(magnitudes.max())
    return 0 < largest < float(_limits(kind).smallest_normal) or largest > largest_of(kind)


def largest_of(kind: int) -> float:
    """The largest finite value of a 16-bit type."""
    return float(_limits(kind).max)


def _limits(kind: int) -> Any:
    return ml_dtypes.finfo(NUMPY_TYPES[kind])  # type: ignore[no-untyped-call]


def float_nodes(graph: onnx.GraphProto, types: Mapping[str, int], kind: int, patterns: Sequence[str]) -> set[int]:
    """Indices of the nodes that stay float32.

    They are the *image path*, the computation of sampling positions, the conversion of camera frames, arithmetic that
    needs more than 16 bits, and what the user asks for.

    Args:
        graph: The graph, Constant nodes gathered into initialisers.
        types: ONNX's numbers of the types of its tensors.
        kind: The 16-bit type as ONNX's number of it.
        patterns: Name patterns of nodes to leave in float32.

    Raises:
        ConfigError: A pattern fits no node.
    """
    frames = {index for index, node in enumerate(graph.node) if node.name.startswith(FRAME_NODES)}
    structure = _image_path(graph) | _sampling(graph) | delicate_nodes(graph, types, kind)
    return frames | structure | _matching_nodes(graph, patterns)


def _image_path(graph: onnx.GraphProto) -> set[int]:
    """The nodes that the photograph reaches without passing a layer with weights."""
    reached = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    nodes = set()
    for index, node in enumerate(graph.node):
        if not stops(node) and reached.intersection(node.input):
            nodes.add(index)
            reached.update(node.output)
    return nodes


def _sampling(graph: onnx.GraphProto) -> set[int]:
    """The nodes that sample at computed positions, and those that compute the positions from a layer with weights.

    Near 640 a float16 position is good to half a pixel. DeformConv has one type for its picture and its positions.
    """
    nodes: set[int] = set()
    needed: set[str] = set()
    for index, node in reversed(list(enumerate(graph.node))):
        samples = node.op_type in ("GridSample", "DeformConv") and not node.domain
        if samples:
            nodes.add(index)
            needed.add(node.input[1 if node.op_type == "GridSample" else 2])
        elif not stops(node) and needed.intersection(node.output):
            nodes.add(index)
            needed.update(node.input)
    return nodes


def _matching_nodes(graph: onnx.GraphProto, patterns: Sequence[str]) -> set[int]:
    """The nodes that any pattern names."""
    found: set[int] = set()
    for pattern in patterns:
        matches = {index for index, node in enumerate(graph.node) if fnmatch.fnmatchcase(node.name, pattern)}
        if not matches:
            raise ConfigError(
                f"keep_fp32 names {pattern!r}, which fits no node", hint="name nodes as `/head/*` or `*/Conv`"
            )
        found |= matches
    return found
