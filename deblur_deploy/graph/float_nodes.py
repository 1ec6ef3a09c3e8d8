"""Which nodes of a network stay float32 when it is written in 16 bits, and why."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import onnx

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.graph.delicate import delicate_nodes, stops
from deblur_deploy.graph.frames import NODES as FRAME_NODES


def float_nodes(graph: onnx.GraphProto, types: Mapping[str, int], kind: int, patterns: Sequence[str]) -> set[int]:
    """Indices of the nodes that stay float32.

    They are the *image path*, what computes sampling positions, what converts camera frames, arithmetic that 16 bits do
    not serve (``delicate.py``), and what is asked for.

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
    """The nodes that sample at computed positions, and those that compute them from what a layer with weights gave.

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
