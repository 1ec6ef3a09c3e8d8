"""The precision that an engine really runs in, and for how much of its arithmetic.

The builder of TensorRT-RTX prints a list of the layers of a finished engine, with the type of every tensor and the ONNX
nodes behind each layer. It does so without a GPU, where the engine cannot be opened. The full TensorRT, which builds on
the GPU, is asked for the same through its engine inspector. Here that list is laid over the ONNX network: for each
convolution, deconvolution, deformable convolution and matrix product, the layer that holds its weights shows the type
that it computes in. What the list does not show counts as unproven; nothing is inferred from the request.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from deblur_deploy.config import PRECISIONS
from deblur_deploy.core.errors import BuildError
from deblur_deploy.graph.node_costs import ComputeNode

UNPROVEN = "unproven"
REQUIRED_SHARE = 0.9
"""An engine has the precision that was asked for if this share of its multiply-accumulates has."""

_FUSED_GLUE = "kgen"
"""Kind of the layers that the builder writes a kernel of its own for: they move, convert and add up."""

_LAYER = re.compile(r"Name: (.*), LayerType: (\w+), Inputs: \[(.*)")
_SECTION = re.compile(r", (Constants: \[|Outputs: \[|TacticName: )")
_TENSOR = re.compile(r"\{ Name: .*?, Dimensions: \[([-\d,]*)\].*?(?:, |/)Datatype: ([^,}]*)")
_WEIGHTS = re.compile(r", Weights: \{\s*\"?Type\"?: \"?(\w+)\"?, \"?Count\"?: (\d+)")
_NODE = re.compile(r"\[ONNX Layer: (.*)\]", re.DOTALL)
_BETWEEN_NODES = re.compile(r"(?<=\])[\x1e\x1f\s]*(?=\[ONNX Layer: )")
"""Full TensorRT joins the nodes of a layer with U+001E, releases of it and TensorRT-RTX with U+001F."""

_QUOTED = 60
"""How many characters of a list that is not understood are quoted."""


@dataclass(frozen=True)
class LayerTensor:
    """A tensor of a layer: its shape and its type, ``fp16``, ``fp32``, ``int8`` or what else the builder calls it."""

    shape: tuple[int, ...]
    type: str


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a finished engine.

    Args:
        name: The builder's name for it.
        kind: The builder's name for what it does, such as ``correlation``.
        inputs: Activations that it reads.
        constants: Weights that it holds, in the layout that it wants.
        nodes: Names of the ONNX nodes behind it.
    """

    name: str
    kind: str
    inputs: tuple[LayerTensor, ...]
    constants: tuple[LayerTensor, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class PrecisionProof:
    """In which type each compute node runs.

    Args:
        types: Node to type, or ``unproven``.
        macs: Node to multiply-accumulates.
        kinds: Node to its kind, as in :class:`ComputeNode`; a node that is left out is a convolution.
        reason: Why nodes are unproven; empty where none is.
    """

    types: Mapping[str, str]
    macs: Mapping[str, int]
    kinds: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""

    def shares(self, kind: str | None = None) -> dict[str, float]:
        """Share of the multiply-accumulates per type, largest first; they add up to 1.

        Args:
            kind: Count nodes of this kind only.
        """
        totals: Counter[str] = Counter()
        for node, type_name in self.types.items():
            if kind in (None, self.kind_of(node)):
                totals[type_name] += self.macs[node]
        return {name: total / totals.total() for name, total in totals.most_common()} or {UNPROVEN: 1.0}

    def kind_of(self, node: str) -> str:
        """The kind of a node."""
        return self.kinds.get(node, "convolution")

    def kinds_present(self) -> tuple[str, ...]:
        """The kinds of nodes that there are, in order of the network."""
        return tuple(dict.fromkeys(self.kind_of(node) for node in self.types))


def prove_from_list(text: str, nodes: Sequence[ComputeNode]) -> tuple[PrecisionProof, int]:
    """Find the type that each compute node runs in, from the output of the builder or the inspector.

    Args:
        text: As for :func:`parse_layers`; empty where neither said anything.
        nodes: Compute nodes of the network that the engine was built from.

    Returns:
        The proof, with the reason where nodes are unproven, and the number of layers that were read.
    """
    layers = parse_layers(text)
    proof = prove_precision(layers, nodes)
    return replace(proof, reason=_why_unproven(text, layers, proof)), len(layers)


def prove_precision(layers: Sequence[EngineLayer], nodes: Sequence[ComputeNode]) -> PrecisionProof:
    """Find out in which type each compute node runs.

    Args:
        layers: Layers of the finished engine.
        nodes: Compute nodes of the network that it was built from.
    """
    return PrecisionProof(
        {node.name: _type_of(node, layers) for node in nodes},
        {node.name: node.macs for node in nodes},
        {node.name: node.kind for node in nodes},
    )


def require_precision(proof: PrecisionProof, wanted: str, nodes: Sequence[ComputeNode] = ()) -> None:
    """Refuse an engine that mostly runs in another precision than was asked for.

    Args:
        proof: Of the finished engine. Where nothing at all is known, nothing is refused.
        wanted: A label of the table of precisions: one of float networks is asked of all nodes, one of quantized
            networks of the convolutions.
        nodes: Compute nodes of the file. Of a precision of float networks, those that the file keeps in float32 beside
            it, because they need that, do not count.

    Raises:
        BuildError: Less than 0.9 of the multiply-accumulates are proven to run in it; the message names the others.
    """
    # No deconvolution runs in 8 bits, and sampling positions need float32.
    kind = "convolution" if PRECISIONS[wanted].quantization else None
    shares = proof.shares(kind)
    share = shares.get(wanted, 0.0)
    if share >= REQUIRED_SHARE or proof.shares().keys() == {UNPROVEN}:
        return
    typed = {node.name for node in nodes if node.type == wanted} if kind is None else set()
    in_file = sum(proof.macs[name] for name in typed) / max(sum(proof.macs.values()), 1)
    if typed and share >= REQUIRED_SHARE * in_file:
        return
    counted = [node for node in proof.types if kind in (None, proof.kind_of(node))]
    others = sorted((node for node in counted if proof.types[node] != wanted), key=lambda node: -proof.macs[node])
    named = ", ".join(f"{node} ({proof.types[node]})" for node in others[:5])
    more = f" and {len(others) - 5} more" if len(others) > 5 else ""
    whose = " of the convolutions" if kind else ""
    raise BuildError(
        f"{wanted} was asked for, but only {share:.1%} of the multiply-accumulates{whose} run in it; "
        f"not so {named}{more}",
        hint=PRECISIONS[wanted].hint,
    )


def parse_layers(text: str) -> tuple[EngineLayer, ...]:
    """Read the layers of an engine.

    Args:
        text: A message of the builder's verbose log that starts with ``Layers:``, or what the engine inspector says as
            JSON; both of a build with detailed profiling verbosity.

    Returns:
        The layers in order of execution; none if the text has another form.
    """
    if text.lstrip().startswith("{"):
        return _parse_inspection(text)
    # Not splitlines(), which also breaks lines at the separators of nodes.
    return tuple(_parse_layer(match) for line in text.split("\n") if (match := _LAYER.match(line)))


def _why_unproven(text: str, layers: Sequence[EngineLayer], proof: PrecisionProof) -> str:
    """What the list of layers lacks, empty where every node is proven."""
    unproven = [node for node, kind in proof.types.items() if kind == UNPROVEN]
    if not proof.types:
        return "the network has no node with weights"
    if not unproven:
        return ""
    if not text.strip():
        return "the builder listed no layers, and there is no GPU whose inspector could be asked"
    if not layers:
        return f"there is a list of layers, and its format is not known; it starts with {_start_of(text)!r}"
    if len(unproven) == len(proof.types):
        return (
            f"a list of {len(layers)} layers was read, and none names a node of the network with its weights; "
            f"the first is {layers[0].name!r} ({layers[0].kind})"
        )
    more = f" and {len(unproven) - 3} more" if len(unproven) > 3 else ""
    return f"no listed layer has the weights of {', '.join(unproven[:3])}{more} in one type with its input"


def _start_of(text: str) -> str:
    """The first words of a list, after the heading that every list has."""
    return " ".join(text.strip().removeprefix("Layers:").split())[:_QUOTED]


def _type_of(node: ComputeNode, layers: Sequence[EngineLayer]) -> str:
    """The type of the layer that holds the node's weights; types joined by ``+`` where profiles differ.

    Layers before and after may name the node too, where they only convert its operands; they do not have its weights.
    """
    found = {layer: kind for layer in layers if node.name in layer.nodes and (kind := _type_on_weights(node, layer))}
    computing = [kind for layer, kind in found.items() if layer.kind != _FUSED_GLUE]
    types = dict.fromkeys(computing or found.values())
    return UNPROVEN if not types or UNPROVEN in types else "+".join(types)


def _type_on_weights(node: ComputeNode, layer: EngineLayer) -> str | None:
    """The type in which a layer computes with the node's weights, None where it does not have them.

    Weights that an earlier layer dequantized come as a second input.
    """
    held = [(tensor, layer.inputs) for tensor in layer.constants]
    held += [(tensor, layer.inputs[:at] + layer.inputs[at + 1 :]) for at, tensor in enumerate(layer.inputs) if at]
    for tensor, activations in held:
        if _holds(tensor, node.weight_shape):
            # Weights of another type than every activation would be converted inside the layer.
            return tensor.type if tensor.type in [activation.type for activation in activations] else UNPROVEN
    return None


def _holds(tensor: LayerTensor, weight_shape: tuple[int, ...]) -> bool:
    """Whether a tensor can hold these weights: channels are padded, and neighbouring convolutions joined.

    Of some layers the inspector gives the number of weights and not their shape.
    """
    if len(tensor.shape) == 1:
        return tensor.shape[0] >= math.prod(weight_shape)
    if len(tensor.shape) != len(weight_shape):
        # Products of matrices, as in attention, are computed with their leading axes joined, or with one more.
        return math.prod(tensor.shape) == math.prod(weight_shape)
    return all(have >= needed for have, needed in zip(tensor.shape, weight_shape, strict=True))


def _parse_inspection(text: str) -> tuple[EngineLayer, ...]:
    """Layers from the engine inspector's JSON."""
    try:
        listed = json.loads(text, strict=False).get("Layers", [])  # separators of nodes stand in it as they are
    except json.JSONDecodeError:
        return ()
    return tuple(_inspected_layer(layer) for layer in listed if isinstance(layer, dict))


def _inspected_layer(layer: dict[str, Any]) -> EngineLayer:
    constants = [_inspected_tensor(tensor) for tensor in layer.get("Constants", [])]
    weights = layer.get("Weights")
    if isinstance(weights, dict) and weights.get("Count"):
        constants.append(LayerTensor((int(weights["Count"]),), _type_named(str(weights.get("Type", "")))))
    name = str(layer.get("Name", ""))
    nodes = _node_names(str(layer.get("Metadata", ""))) or _nodes_in(name)
    inputs = tuple(_inspected_tensor(tensor) for tensor in layer.get("Inputs", []))
    return EngineLayer(name, str(layer.get("LayerType", "")), inputs, tuple(constants), nodes)


def _inspected_tensor(tensor: dict[str, Any]) -> LayerTensor:
    described = str(tensor.get("Datatype") or tensor.get("Format/Datatype", ""))
    return LayerTensor(tuple(int(size) for size in tensor.get("Dimensions", [])), _type_named(described))


def _parse_layer(match: re.Match[str]) -> EngineLayer:
    """One line of the list; what the builder leaves out stays empty."""
    name, kind, rest = match.groups()
    # Split into the inputs, then label and text of each section after them.
    inputs, *labelled = _SECTION.split(rest)
    sections = dict(zip(labelled[::2], labelled[1::2], strict=True))
    _, _, metadata = rest.partition(", Metadata: ")
    constants = _parse_tensors(sections.get("Constants: [", ""))
    if weights := _WEIGHTS.search(rest):
        constants += (LayerTensor((int(weights[2]),), _type_named(weights[1])),)
    nodes = _node_names(metadata) or _nodes_in(name)
    return EngineLayer(name, kind, _parse_tensors(inputs), constants, nodes)


def _node_names(metadata: str) -> tuple[str, ...]:
    items = _BETWEEN_NODES.split(metadata.strip())
    return tuple(found[1] for item in items if (found := _NODE.fullmatch(item)))


def _nodes_in(name: str) -> tuple[str, ...]:
    """Names of nodes in a layer's own name, where it has no metadata."""
    return tuple(name.split(" + "))


def _parse_tensors(text: str) -> tuple[LayerTensor, ...]:
    return tuple(
        LayerTensor(tuple(int(size) for size in shape.split(",") if size), _type_named(kind))
        for shape, kind in _TENSOR.findall(text)
    )


def _type_named(text: str) -> str:
    """Our name for a type, from TensorRT's own or from a description with that in it."""
    lowered = text.lower()
    words = [(word, label) for label, row in PRECISIONS.items() for word in row.words if word in lowered]
    return max(words, key=lambda found: len(found[0]), default=("", lowered))[1]
