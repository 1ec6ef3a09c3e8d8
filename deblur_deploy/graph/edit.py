"""Changing a model in place: onnx_ir passes, nodes, and the names of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir
from onnx import helper
from onnx_ir.passes.common import (
    DeduplicateInitializersPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)

MAX_ELEMENTS = 2**40
"""For passes that skip larger tensors: more elements than any tensor has."""


def run_passes(model: onnx.ModelProto, *passes: ir.passes.PassBase) -> bool:
    """Run passes one after the other.

    Args:
        model: It is changed. Types and shapes of values between nodes are dropped: they follow from the rest.
        passes: What to do.

    Returns:
        Whether any of them changed anything.
    """
    result = ir.passes.Sequential(*passes)(ir.serde.deserialize_model(model))
    changed = ir.serde.serialize_model(result.model)
    # Part by part, so that references to `model.graph` stay valid.
    model.graph.CopyFrom(changed.graph)
    del model.graph.value_info[:], model.functions[:], model.opset_import[:]
    model.functions.extend(changed.functions)
    model.opset_import.extend(changed.opset_import)
    return bool(result.modified)


def share_constants(model: onnx.ModelProto) -> None:
    """Turn Constant nodes into initialisers, equal ones into one, and drop aliases of initialisers, in place."""
    lift = LiftConstantsToInitializersPass(size_limit=0)
    run_passes(model, lift, DeduplicateInitializersPass(size_limit=MAX_ELEMENTS))
    graph = model.graph
    names = {item.name for item in graph.initializer}
    aliases: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:  # onnx_ir's own elimination would take the outputs of branches with them
        if node.op_type == "Identity" and node.input[0] in names:
            aliases[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if aliases:
        set_nodes(graph, kept, aliases)


def drop_opset(model: onnx.ModelProto, domain: str) -> None:
    """Remove a domain from the model's imported operator sets, in place."""
    kept = [helper.make_opsetid(entry.domain, entry.version) for entry in model.opset_import if entry.domain != domain]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def remove_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and initialisers that the outputs do not need, in place."""
    run_passes(model, RemoveUnusedNodesPass())


def set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], renamed: dict[str, str]) -> None:
    """Make these the graph's nodes, with some of their inputs renamed."""
    # Clearing the list frees its nodes, so those that stay are copied first.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    for node in copies:
        rename_used(node, renamed)
    del graph.node[:]
    graph.node.extend(copies)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches or the body of control flow."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def names_used(node: onnx.NodeProto) -> set[str]:
    """Values of the graph around it that a node reads: its inputs, and what its subgraphs capture."""
    names = set(node.input)
    for graph in subgraphs(node):
        inside = {value.name for value in (*graph.input, *graph.initializer)}
        inside |= {name for each in graph.node for name in each.output}
        used = {value.name for value in graph.output}.union(*map(names_used, graph.node))
        names |= used - inside
    return names


def rename_used(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Rename values of the graph around it that a node reads, in place."""
    for index, name in enumerate(node.input):
        node.input[index] = renamed.get(name, name)
    for graph in subgraphs(node):
        inside = {value.name for value in (*graph.input, *graph.initializer)}
        inside |= {name for each in graph.node for name in each.output}
        captured = {old: new for old, new in renamed.items() if old not in inside}
        for each in graph.node:
            rename_used(each, captured)
        for value in graph.output:
            value.name = captured.get(value.name, value.name)


def replace_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Make these the model's nodes, and drop the initialisers and shapes that went with others, in place."""
    set_nodes(model.graph, list(nodes), {})
    del model.graph.value_info[:]
    remove_unused(model)
