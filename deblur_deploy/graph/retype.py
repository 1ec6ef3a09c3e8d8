"""Sixteen-bit types, written into an ONNX file: TensorRT 11 and TensorRT-RTX run a network in the types of its file.

Convolutions and what lies between them get the type. What stays float32 (see ``float_nodes.py``):

- the *image path*: every tensor reached from the graph's inputs without passing a layer with weights. That is padding,
  pooling and resizing of the photograph, and the global residual, an addition with the photograph as one operand. Near
  1.0 a float16 step is an eighth of an 8-bit level, and errors here go straight into the picture;
- sampling positions. Local functions cast for themselves: the deformable convolution keeps its positions in float32;
- the conversion of camera frames;
- normalisations, and other arithmetic that needs more than 16 bits;
- nodes that are named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter

from deblur_deploy.core.errors import ExportError
from deblur_deploy.graph.check import check_graph, infer_shapes
from deblur_deploy.graph.edit import replace_nodes, share_constants
from deblur_deploy.graph.float_nodes import NUMPY_TYPES, float_nodes
from deblur_deploy.graph.operators import WEIGHTED

BF16_OPSET = 22
"""The first opset that has convolutions in bfloat16."""

TYPE_TITLES: dict[int, str] = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
_SUFFIXES: dict[int, str] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


def convert_types(
    model: onnx.ModelProto, kind: int, keep_fp32: Sequence[str] = (), kept: Collection[str] = ()
) -> onnx.ModelProto:
    """Give a float32 network a 16-bit type, with casts where the two meet.

    Args:
        model: A network without quantizers; opset 19 or later, no control flow. It is not changed.
        kind: The type, ``TensorProto.FLOAT16`` or ``TensorProto.BFLOAT16``.
        keep_fp32: Name patterns of nodes to leave in float32.
        kept: Further nodes to leave in float32, by the names of their outputs.

    Returns:
        A new model with the same inputs and outputs, checked. Each tensor is cast at most once per type.

    Raises:
        ConfigError: A pattern fits no node.
        ExportError: A weight is NaN or infinite, or the network has something that cannot be retyped.
    """
    _check_convertible(model)
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    graph = typed.graph
    share_constants(typed)
    types = tensor_types(typed)
    floats = {name for name, of in types.items() if of == TensorProto.FLOAT}
    in_float32 = float_nodes(graph, types, kind, keep_fp32)
    opsets = {entry.domain: entry.version for entry in typed.opset_import}
    functions = {(function.domain, function.name) for function in typed.functions}

    retyper = _Retyper(graph, floats, kind)
    for index, node in enumerate(graph.node):
        if index in in_float32 or not set(kept).isdisjoint(node.output):
            retyper.add(node)
        elif (node.domain, node.op_type) in functions:
            retyper.add(node, range(len(node.input)), range(len(node.output)))
        else:
            retyper.add(node, *_retypable_slots(node, opsets, floats, kind))
    replace_nodes(typed, retyper.nodes)
    check_graph(typed, f"the network cannot be written in {TYPE_TITLES[kind]}", "keep the node in float32")
    return typed


def convert_to_fp16(
    model: onnx.ModelProto, keep_fp32: Sequence[str] = (), kept: Collection[str] = ()
) -> onnx.ModelProto:
    """As :func:`convert_types`, to float16."""
    return convert_types(model, TensorProto.FLOAT16, keep_fp32, kept)


def convert_to_bf16(
    model: onnx.ModelProto, keep_fp32: Sequence[str] = (), kept: Collection[str] = ()
) -> onnx.ModelProto:
    """As :func:`convert_types`, to bfloat16, which has float32's range and 8 bits of precision where float16 has 11.

    Deconvolutions stay float32 too: TensorRT-RTX 1.7 has none in bfloat16. Local functions are inlined, because the
    plugin of the deformable convolution has no bfloat16 either.
    """
    inlined = inliner.inline_local_functions(model)
    try:
        newer = version_converter.convert_version(inlined, BF16_OPSET)
    except RuntimeError as err:
        reason = " ".join(str(err).split())
        raise ExportError(f"the network cannot be written in bfloat16: {reason}", hint="use float16: --fp16") from err
    deconvolutions = [name for node in newer.graph.node if node.op_type == "ConvTranspose" for name in node.output]
    return convert_types(newer, TensorProto.BFLOAT16, keep_fp32, {*kept, *deconvolutions})


def as_exported(model: onnx.ModelProto, keep_fp32: Sequence[str] = (), kept: Collection[str] = ()) -> onnx.ModelProto:
    """The network in the types that it was exported in: float32, or 8 bits between quantizers."""
    del keep_fp32, kept
    return model


def in_type(tensor: TensorProto, name: str, kind: int) -> TensorProto:
    """A float32 initialiser in a 16-bit type; what underflows is 0."""
    array = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore", under="ignore"):
        return numpy_helper.from_array(array.astype(NUMPY_TYPES[kind]), name)


class _Retyper:
    """Rewrites a graph node by node; casts each tensor at most once per type."""

    def __init__(self, graph: onnx.GraphProto, floats: set[str], kind: int) -> None:
        self._graph = graph
        self._kind = kind
        self._floats = floats  # tensors that are float32 in the original
        self._halves: set[str] = set()  # those of them that have 16 bits now
        self._cast: dict[tuple[str, int], str] = {}  # a tensor and another type -> its name in that type
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {output.name for output in graph.output}
        self._names = {name for node in graph.node for name in (*node.input, *node.output)}
        self.nodes: list[onnx.NodeProto] = []

    def add(self, node: onnx.NodeProto, inputs: Iterable[int] = (), outputs: Iterable[int] = ()) -> None:
        """Append a node whose given inputs and outputs get 16 bits; its other floats are float32."""
        halved = set(inputs)
        for slot, name in enumerate(node.input):
            if name in self._floats:
                node.input[slot] = self._typed(name, self._kind if slot in halved else TensorProto.FLOAT)
        self.nodes.append(node)
        for slot in outputs:
            name = node.output[slot]
            if name not in self._floats:
                continue
            if name in self._outputs:
                # The caller sees float32 under this name.
                node.output[slot] = self._cast[name, self._kind] = self._unused(name)
                self._add_cast(node.output[slot], name, TensorProto.FLOAT)
            else:
                self._halves.add(name)

    def _typed(self, name: str, wanted: int) -> str:
        """The name of a float tensor in the wanted type, which is made on first use."""
        if wanted == (self._kind if name in self._halves else TensorProto.FLOAT):
            return name
        if (name, wanted) not in self._cast:
            self._cast[name, wanted] = made = self._unused(name)
            if name in self._initializers:
                self._graph.initializer.append(in_type(self._initializers[name], made, self._kind))
            else:
                self._add_cast(name, made, wanted)
        return self._cast[name, wanted]

    def _add_cast(self, source: str, made: str, wanted: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [made], name=f"cast/{made}", to=wanted))

    def _unused(self, name: str) -> str:
        """A new name for the same tensor in another type."""
        made = f"{name}_fp32" if name in self._halves else f"{name}_{_SUFFIXES[self._kind]}"
        while made in self._names:
            made += "_"
        self._names.add(made)
        return made


def _retypable_slots(
    node: onnx.NodeProto, opsets: dict[str, int], floats: set[str], kind: int
) -> tuple[list[int], list[int]]:
    """Inputs and outputs of a standard operator that must have one type and may all have 16 bits, as its schema says.

    Resize, for example, takes its picture in float16 but its scales always in float32.
    """
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 0), node.domain)
    except onnx.defs.SchemaError as err:
        raise ExportError(
            f"node {node.name!r} is {node.domain}::{node.op_type}, whose types are not known",
            hint="only standard ONNX operators and local functions can be retyped",
        ) from err
    wanted = f"tensor({TYPE_TITLES[kind]})"
    halves = {c.type_param_str for c in schema.type_constraints if wanted in c.allowed_type_strs}

    def float_slots(names: Sequence[str], formal: Sequence[Any]) -> dict[int, str]:
        """Slot to type variable; a variadic last parameter stands for all slots after it."""
        kinds = {slot: formal[min(slot, len(formal) - 1)].type_str for slot, name in enumerate(names) if name in floats}
        return {slot: kind for slot, kind in kinds.items() if kind in halves}

    inputs, outputs = float_slots(node.input, schema.inputs), float_slots(node.output, schema.outputs)
    shared = set(inputs.values()) & set(outputs.values())
    return [s for s, kind in inputs.items() if kind in shared], [s for s, kind in outputs.items() if kind in shared]


def _check_convertible(model: onnx.ModelProto) -> None:
    weights = {name for node in model.graph.node if node.op_type in WEIGHTED for name in node.input[1:]}
    for tensor in model.graph.initializer:
        is_float = tensor.name in weights and tensor.data_type == TensorProto.FLOAT
        if is_float and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise ExportError(f"weight {tensor.name!r} holds NaN or infinite values", hint="take an earlier checkpoint")
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise ExportError(f"node {node.name!r} is a quantizer", hint="take them out with drop_quantization first")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ExportError(
                f"node {node.name!r} ({node.op_type}) is control flow, which cannot be retyped",
                hint="export the network with a fixed number of steps",
            )


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """ONNX's numbers of the types of a network's tensors, as far as they can be inferred."""
    graph = infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}
