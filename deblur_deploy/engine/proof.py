"""What precision an engine really runs in, and how much of its arithmetic.

The builder prints a list of the layers of a finished engine, with the type of every tensor and the ONNX nodes behind
each layer. It does so without a GPU, where the engine cannot be opened. Here that list is read and laid over the ONNX
network: for each convolution, transposed convolution and matrix product, the layer that holds its weights says in which
type it computes. What the list does not show counts as unproven; nothing is inferred from what was asked for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deblur_deploy.errors import BuildError
from deblur_deploy.network.onnx_cost import ComputeNode

UNPROVEN = "unproven"
REQUIRED_SHARE = 0.9
"""An engine has the precision that was asked for if this share of its multiply-accumulates has."""

_HINTS = {
    "fp16": "an engine has the types of its ONNX file: `deblur-deploy export-trt --fp16` writes float16 into it first",
    "fp32": "an engine has the types of its ONNX file: start from one that `deblur-deploy export-onnx` wrote",
}
_TYPES = {"Half": "fp16", "Float": "fp32", "Int8": "int8", "BFloat16": "bf16", "FP8": "fp8"}
_LAYER = re.compile(r"Name: (.*), LayerType: (\w+), Inputs: \[(.*)")
_SECTION = re.compile(r", (Constants: \[|Outputs: \[|TacticName: )")
_TENSOR = re.compile(r"\{ Name: .*?, Dimensions: \[([-\d,]*)\].*?, Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*)\]")
_NODE_SEPARATOR = "\x1f"


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
class Proof:
    """In which type each compute node runs.

    Args:
        types: Node to type, or ``unproven``.
        macs: Node to multiply-accumulates.
    """

    types: Mapping[str, str]
    macs: Mapping[str, int]

    def shares(self) -> dict[str, float]:
        """Share of the multiply-accumulates per type, largest first; they add up to 1."""
        totals: Counter[str] = Counter()
        for node, kind in self.types.items():
            totals[kind] += self.macs[node]
        return {kind: total / totals.total() for kind, total in totals.most_common()} or {UNPROVEN: 1.0}


def prove_precision(layers: Sequence[EngineLayer], nodes: Sequence[ComputeNode]) -> Proof:
    """Find out in which type each compute node runs.

    Args:
        layers: Layers of the finished engine.
        nodes: Compute nodes of the network that it was built from.
    """
    return Proof({node.name: _type_of(node, layers) for node in nodes}, {node.name: node.macs for node in nodes})


def require_precision(proof: Proof, wanted: str) -> None:
    """Refuse an engine that mostly runs in another precision than was asked for.

    Args:
        proof: Of the finished engine. Where nothing at all is known, nothing is refused.
        wanted: ``fp16`` or ``fp32``.

    Raises:
        BuildError: Less than 0.9 of the multiply-accumulates are proven to run in it; the message names the others.
    """
    shares = proof.shares()
    share = shares.get(wanted, 0.0)
    if share >= REQUIRED_SHARE or shares.keys() == {UNPROVEN}:
        return
    others = sorted((node for node, kind in proof.types.items() if kind != wanted), key=lambda node: -proof.macs[node])
    named = ", ".join(f"{node} ({proof.types[node]})" for node in others[:5])
    more = f" and {len(others) - 5} more" if len(others) > 5 else ""
    raise BuildError(
        f"{wanted} was asked for, but only {share:.1%} of the multiply-accumulates run in it; not so {named}{more}",
        hint=_HINTS[wanted],
    )


def parse_layers(text: str) -> tuple[EngineLayer, ...]:
    """Read the list of layers that the builder prints.

    Args:
        text: A message of the verbose log that starts with ``Layers:``, from a build with detailed profiling verbosity.

    Returns:
        The layers in order of execution; none if the text has another form.
    """
    return tuple(_parse_layer(match) for line in text.splitlines() if (match := _LAYER.match(line)))


def _type_of(node: ComputeNode, layers: Sequence[EngineLayer]) -> str:
    """The type of the layer that holds the node's weights.

    Layers before and after may name the node too, where they only convert its operands; they do not have its weights. A
    layer may hold more than the node's weights: channels are padded, and neighbouring convolutions joined.
    """
    for layer in layers:
        if node.name in layer.nodes:
            for constant in layer.constants:
                if len(constant.shape) == len(node.weight_shape) and all(
                    have >= needed for have, needed in zip(constant.shape, node.weight_shape, strict=True)
                ):
                    # Weights of another type than every activation would be converted inside the layer.
                    same = constant.type in (tensor.type for tensor in layer.inputs)
                    return constant.type if same else UNPROVEN
    return UNPROVEN


def _parse_layer(match: re.Match[str]) -> EngineLayer:
    """One line of the list; what the builder leaves out stays empty."""
    name, kind, rest = match.groups()
    # Split into the inputs, then label and text of each section after them.
    inputs, *labelled = _SECTION.split(rest)
    sections = dict(zip(labelled[::2], labelled[1::2], strict=True))
    _, _, metadata = rest.partition(", Metadata: ")
    return EngineLayer(
        name,
        kind,
        _parse_tensors(inputs),
        _parse_tensors(sections.get("Constants: [", "")),
        tuple(found[1] for item in metadata.split(_NODE_SEPARATOR) if (found := _NODE.fullmatch(item.strip()))),
    )


def _parse_tensors(text: str) -> tuple[LayerTensor, ...]:
    return tuple(
        LayerTensor(tuple(int(size) for size in shape.split(",") if size), _TYPES.get(kind, kind.lower()))
        for shape, kind in _TENSOR.findall(text)
    )
