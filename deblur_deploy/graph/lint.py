"""Quantizers in places that keep a runtime from fusing layers, found before an engine is built.

An integer convolution is fast when its inputs arrive as integers and its output leaves as integers. Runtimes see that
from QuantizeLinear and DequantizeLinear alone: the nodes between them decide whether layers are joined, or whether the
values go to float and back through memory. The rules are those of TensorRT's guide to explicit quantization, which
OpenVINO and onnxruntime follow in the main.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx

from deblur_deploy.graph.operators import WEIGHTED

Rule = Literal["residual", "island", "empty pair", "cast"]

_HEAVY = WEIGHTED | {"Resize"}
"""Operators that a runtime can run in integers if the quantizers are in the right places."""


@dataclass(frozen=True)
class Finding:
    """A place where fusion breaks.

    Args:
        rule: Which rule it breaks.
        node: Name of the node.
        text: One sentence on what is wrong there.
    """

    rule: Rule
    node: str
    text: str


def lint(model: onnx.ModelProto) -> tuple[Finding, ...]:
    """Find where quantizers break fusion.

    Args:
        model: A network; one without quantizers has no findings.

    Returns:
        Findings in the order of the graph.
    """
    graph = _Graph(model.graph)
    found: list[Finding] = []
    for node in model.graph.node:
        found += _residual(graph, node)
        found += _island(graph, node)
        found += _empty_pair(graph, node)
        found += _cast(graph, node)
    return tuple(found)


class _Graph:
    """Who makes a value and who reads it, and which nodes are quantized."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._constants = {item.name for item in graph.initializer}

    def maker(self, name: str) -> onnx.NodeProto | None:
        return self._makers.get(name)

    def readers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [reader for name in node.output for reader in self._readers.get(name, [])]

    def sources(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Makers of a node's activations: its constants, and weights behind a DequantizeLinear, are left out."""
        makers = [self.maker(name) for name in node.input if name not in self._constants]
        return [maker for maker in makers if maker is not None and maker.input[0] not in self._constants]

    def is_dequantized(self, name: str) -> bool:
        """Whether a value comes out of a DequantizeLinear."""
        maker = self.maker(name)
        return maker is not None and maker.op_type == "DequantizeLinear"

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def is_integer_layer(self, node: onnx.NodeProto) -> bool:
        """Whether both operands of a layer with weights are dequantized, so that it computes in integers."""
        return node.op_type in WEIGHTED and all(self.is_dequantized(name) for name in node.input[:2])

    def follows_integers(self, node: onnx.NodeProto) -> bool:
        """Whether values reach the node from a quantizer or an integer layer, through no other layer."""
        seen, waiting = set[int](), self.sources(node)
        while waiting:
            source = waiting.pop()
            if id(source) in seen:
                continue
            seen.add(id(source))
            if source.op_type == "DequantizeLinear" or self.is_integer_layer(source):
                return True
            if source.op_type not in _HEAVY:
                waiting += self.sources(source)
        return False

    def leads_to_integers(self, node: onnx.NodeProto) -> bool:
        """Whether the node's values reach a quantizer through no other layer."""
        seen, waiting = set[int](), self.readers(node)
        while waiting:
            reader = waiting.pop()
            if id(reader) in seen:
                continue
            seen.add(id(reader))
            if reader.op_type == "QuantizeLinear":
                return True
            if reader.op_type not in _HEAVY:
                waiting += self.readers(reader)
        return False


def _residual(graph: _Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    """An addition is fused into the integer convolution before it only if the other operand is quantized."""
    if node.op_type != "Add" or any(graph.is_constant(name) for name in node.input):
        return
    layers = [maker for maker in map(graph.maker, node.input) if maker is not None and graph.is_integer_layer(maker)]
    floats = [name for name in node.input if not graph.is_dequantized(name)]
    if layers and len(floats) == len(node.input):
        others = [maker for maker in map(graph.maker, node.input) if maker is not None and maker is not layers[0]]
        other = f"the output of {_name(others[0])}" if others else "an input of the graph"
        text = f"it adds {other}, which is not quantized, to the integer layer {_name(layers[0])}: they do not fuse"
        yield Finding("residual", _name(node), text)


def _island(graph: _Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    """A float operator between integer ones sends its values to float and back."""
    if node.op_type not in _HEAVY or graph.is_integer_layer(node):
        return
    readers = graph.readers(node)
    if node.op_type == "Resize" and graph.is_dequantized(node.input[0]) and _all_quantize(readers):
        return  # a Resize between DequantizeLinear and QuantizeLinear moves integers
    if graph.follows_integers(node) and graph.leads_to_integers(node):
        text = f"this {node.op_type} runs in float between integer layers: values go to float and back around it"
        yield Finding("island", _name(node), text)


def _empty_pair(graph: _Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    """A DequantizeLinear straight into a QuantizeLinear only rounds a second time."""
    if node.op_type == "QuantizeLinear" and graph.is_dequantized(node.input[0]):
        before = _name(graph.maker(node.input[0]))
        yield Finding("empty pair", _name(node), f"it quantizes what {before} has just dequantized: nothing is between")


def _cast(graph: _Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    """A Cast hides the quantizer from the layer."""
    if node.op_type != "Cast":
        return
    layers = [reader for reader in graph.readers(node) if reader.op_type in WEIGHTED]
    maker = graph.maker(node.input[0])
    if maker is None:
        return
    if maker.op_type == "DequantizeLinear" and layers:
        text = f"it stands between {_name(maker)} and {_name(layers[0])}, which then does not run in integers"
        yield Finding("cast", _name(node), text)
    elif maker.op_type in WEIGHTED and any(reader.op_type == "QuantizeLinear" for reader in graph.readers(node)):
        text = f"it stands between {_name(maker)} and the quantizer of its output: they do not fuse"
        yield Finding("cast", _name(node), text)


def _all_quantize(readers: Sequence[onnx.NodeProto]) -> bool:
    return bool(readers) and all(reader.op_type == "QuantizeLinear" for reader in readers)


def _name(node: onnx.NodeProto | None) -> str:
    """A node's name, or its first output where it has none."""
    if node is None:
        return "the input"
    return node.name or f"{node.op_type} that makes {node.output[0]!r}"
