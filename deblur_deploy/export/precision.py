"""Typed float16: the precision of every tensor is written into the ONNX file.

TensorRT 11 and TensorRT-RTX have no FP16 flag: an engine runs in the types that its network is written in. This module
writes them. Convolutions and what lies between them become float16. What stays float32 (see ``float_nodes.py``):

- the *image path*: every tensor reached from the graph's inputs without passing a layer with weights. That is padding,
  pooling and resizing of the photograph, and the global residual, an addition with the photograph as one operand. Near
  1.0 a float16 step is an eighth of an 8-bit level, and errors here go straight into the picture;
- sampling positions. Local functions cast for themselves: the deformable convolution keeps its positions in float32;
- the conversion of camera frames;
- nodes that :class:`PrecisionConfig` names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deblur_deploy.config import ExportConfig, PrecisionConfig
from deblur_deploy.core.artifact import Artifact, Draft, new_step, write_artifact
from deblur_deploy.core.errors import ArtifactError, ExportError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.data.pairs import load_photos
from deblur_deploy.export.quality import measuring
from deblur_deploy.graph.check import check_graph, infer_shapes
from deblur_deploy.graph.facts import write_facts
from deblur_deploy.graph.float_nodes import float_nodes
from deblur_deploy.graph.fold import remove_unused, share_constants
from deblur_deploy.graph.node_costs import share_of_macs
from deblur_deploy.graph.padding import BATCH, HEIGHT, WIDTH
from deblur_deploy.graph.shrink import restore_float_weights
from deblur_deploy.graph.sizes import fix_sizes
from deblur_deploy.runtime.runner import reason_unavailable

FP16_MAX = float(np.finfo(np.float16).max)

HalfMaker = Callable[[TensorProto, str], TensorProto]
"""Makes a float16 initialiser of this name from a float32 one."""

_CHECKED_PHOTOS = 4


def lower_precision(source: Artifact, config: PrecisionConfig, out: Path) -> Artifact:
    """Write an ONNX artifact again with float16 types and without quantization.

    Args:
        source: An ONNX artifact, float32 or quantized.
        config: What stays float32.
        out: The new artifact's directory.

    Returns:
        An ONNX artifact with float32 inputs and outputs. Its figures gain ``precision``, the share of
        multiply-accumulates per type, and ``dropped_qdq_pairs``, how many quantizers were taken out.

    Raises:
        ArtifactError: ``source`` is no readable ONNX artifact, or ``out`` cannot be written.
        ConfigError: A name to keep fits no node.
        ExportError: The network cannot be written in float16, or an activation overflows.
    """
    model = load_model(source)
    floats, pairs = drop_quantization(model)
    typed = convert_to_fp16(floats, config.keep_fp32)
    image = source.image
    figures = {"precision": shares_of(typed, image), "dropped_qdq_pairs": pairs}
    if config.check_overflow:
        figures |= _check_overflow(source, floats, typed, config)
    write_facts(typed, source, image)

    def write(path: Path) -> None:
        path.write_bytes(typed.SerializeToString(deterministic=True))

    draft = Draft(
        kind="onnx",
        file_name="model.onnx",
        write=write,
        network=dataclasses.replace(source.network, quantization=None),
        image=image,
        step=new_step("to-fp16", config, source, figures),
        earlier=source.history,
        measure=measuring(config),
    )
    return write_artifact(out, draft)


def shares_of(typed: onnx.ModelProto, image: ImageSpec) -> dict[str, float]:
    """Share of the multiply-accumulates per type; of a network with free sizes, for one picture of the usual size."""
    sizes = {BATCH: 1, HEIGHT: image.height or ExportConfig.height, WIDTH: image.width or ExportConfig.width}
    return share_of_macs(fix_sizes(typed, sizes))


def _check_overflow(
    source: Artifact, floats: onnx.ModelProto, typed: onnx.ModelProto, config: PrecisionConfig
) -> dict[str, Any]:
    """Figures of the check, or ``overflow_unchecked`` with the reason."""
    if reason := reason_unavailable(source, "onnxruntime"):
        return {"overflow_unchecked": reason}
    from deblur_deploy.export.overflow import check_activations  # it needs onnxruntime, which need not be there

    folder = Path(config.calibration) if config.calibration else None
    photos = load_photos(folder)[:_CHECKED_PHOTOS]
    return check_activations(floats, typed, photos, source.image)


def half_of(tensor: TensorProto, name: str) -> TensorProto:
    """A float32 initialiser as float16.

    Raises:
        ExportError: A value lies outside float16.
    """
    array = numpy_helper.to_array(tensor)
    if not (np.abs(array) <= FP16_MAX).all():
        raise ExportError(
            f"weight {tensor.name!r} holds {array.flat[np.abs(array).argmax()]:g}, and float16 ends at {FP16_MAX:g}",
            hint="build a float network with --fp32, or keep one layer so in Python: PrecisionConfig(('/layer/*',))",
        )
    return numpy_helper.from_array(array.astype(np.float16), name)


def convert_to_fp16(
    model: onnx.ModelProto, keep_fp32: Sequence[str] = (), to_half: HalfMaker = half_of
) -> onnx.ModelProto:
    """Give a float32 network float16 types, with casts where the two meet.

    Args:
        model: A network without quantizers; opset 19 or later, no control flow. It is not changed.
        keep_fp32: Name patterns of nodes to leave in float32.
        to_half: Makes the float16 initialiser of a name from a float32 one.

    Returns:
        A new model with the same inputs and outputs, checked. Each tensor is cast at most once per type.

    Raises:
        ConfigError: A pattern fits no node.
        ExportError: A weight lies outside float16, or the network has something that cannot be retyped.
    """
    _check_convertible(model)
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    graph = typed.graph
    share_constants(typed)
    floats = _float_tensors(infer_shapes(typed).graph)
    kept = float_nodes(graph, keep_fp32)
    opsets = {entry.domain: entry.version for entry in typed.opset_import}
    functions = {(function.domain, function.name) for function in typed.functions}

    retyper = _Retyper(graph, floats, to_half)
    for index, node in enumerate(graph.node):
        if index in kept:
            retyper.add(node)
        elif (node.domain, node.op_type) in functions:
            retyper.add(node, range(len(node.input)), range(len(node.output)))
        else:
            retyper.add(node, *_retypable_slots(node, opsets, floats))
    _replace_nodes(typed, retyper.nodes)
    check_graph(typed, "the network cannot be written in float16", "keep the node in float32")
    return typed


def drop_quantization(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Take QuantizeLinear and DequantizeLinear out of a network and keep the weights it was fine-tuned to.

    Args:
        model: A network, quantized or not. It is not changed.

    Returns:
        The float network, in which integer weights are replaced by the float32 values they stand for, and the number of
        DequantizeLinear nodes removed: one for each quantized activation and each quantized weight.

    Raises:
        ExportError: Integers are used by something else than DequantizeLinear.
    """
    floats = onnx.ModelProto()
    floats.CopyFrom(model)
    restore_float_weights(floats)
    graph = floats.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    quantized: dict[str, str] = {}  # an activation's integers -> the floats they were made from
    weights: dict[tuple[str, ...], str] = {}  # integers, scale, zero point, axis -> the floats they stand for
    replaced: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    pairs = 0
    for node in graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = replaced.get(name, name)
        if node.op_type == "QuantizeLinear":
            quantized[node.output[0]] = node.input[0]
        elif node.op_type == "Concat" and quantized.keys() >= set(node.input):
            node.input[:] = [quantized[name] for name in node.input]
            integers, node.output[0] = node.output[0], f"{node.output[0]}.float"
            quantized[integers] = node.output[0]
            nodes.append(node)
        elif node.op_type != "DequantizeLinear":
            nodes.append(node)
        else:
            pairs += 1
            key = (*node.input, str(_axis(node)))
            if node.input[0] not in quantized and key not in weights:
                graph.initializer.append(_dequantized(node, initializers))
                weights[key] = node.output[0]
            replaced[node.output[0]] = quantized.get(node.input[0]) or weights[key]
    _check_no_integers_left(nodes, quantized.keys())
    nodes += [helper.make_node("Identity", [replaced[o.name]], [o.name]) for o in graph.output if o.name in replaced]
    _replace_nodes(floats, nodes)
    return floats, pairs


def _check_no_integers_left(nodes: Iterable[onnx.NodeProto], integers: Collection[str]) -> None:
    for node in nodes:
        if misused := set(integers) & set(node.input):
            raise ExportError(
                f"node {node.name!r} ({node.op_type}) uses {min(misused)!r} as integers",
                hint="export the float checkpoint instead: `deblur-deploy export-onnx SOURCE`",
            )


class _Retyper:
    """Rewrites a graph node by node; casts each tensor at most once per type."""

    def __init__(self, graph: onnx.GraphProto, floats: set[str], to_half: HalfMaker) -> None:
        self._graph = graph
        self._to_half = to_half
        self._floats = floats  # tensors that are float32 in the original
        self._halves: set[str] = set()  # those of them that have become float16
        self._cast: dict[tuple[str, int], str] = {}  # a tensor and another type -> its name in that type
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {output.name for output in graph.output}
        self._names = {name for node in graph.node for name in (*node.input, *node.output)}
        self.nodes: list[onnx.NodeProto] = []

    def add(self, node: onnx.NodeProto, inputs: Iterable[int] = (), outputs: Iterable[int] = ()) -> None:
        """Append a node whose given inputs and outputs become float16; its other floats are float32."""
        halved = set(inputs)
        for slot, name in enumerate(node.input):
            if name in self._floats:
                node.input[slot] = self._typed(name, TensorProto.FLOAT16 if slot in halved else TensorProto.FLOAT)
        self.nodes.append(node)
        for slot in outputs:
            name = node.output[slot]
            if name not in self._floats:
                continue
            if name in self._outputs:
                # The caller sees float32 under this name.
                node.output[slot] = self._cast[name, TensorProto.FLOAT16] = self._unused(name)
                self._add_cast(node.output[slot], name, TensorProto.FLOAT)
            else:
                self._halves.add(name)

    def _typed(self, name: str, wanted: int) -> str:
        """The name of a float tensor in the wanted type, which is made on first use."""
        if wanted == (TensorProto.FLOAT16 if name in self._halves else TensorProto.FLOAT):
            return name
        if (name, wanted) not in self._cast:
            self._cast[name, wanted] = made = self._unused(name)
            if name in self._initializers:
                self._graph.initializer.append(self._to_half(self._initializers[name], made))
            else:
                self._add_cast(name, made, wanted)
        return self._cast[name, wanted]

    def _add_cast(self, source: str, made: str, wanted: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [made], name=f"cast/{made}", to=wanted))

    def _unused(self, name: str) -> str:
        """A new name for the same tensor in another type."""
        made = f"{name}_fp32" if name in self._halves else f"{name}_fp16"
        while made in self._names:
            made += "_"
        self._names.add(made)
        return made


def _retypable_slots(node: onnx.NodeProto, opsets: dict[str, int], floats: set[str]) -> tuple[list[int], list[int]]:
    """Inputs and outputs of a standard operator that must have one type and may all be float16, as its schema says.

    Resize, for example, takes its picture in float16 but its scales always in float32.
    """
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 0), node.domain)
    except onnx.defs.SchemaError as err:
        raise ExportError(
            f"node {node.name!r} is {node.domain}::{node.op_type}, whose types are not known",
            hint="only standard ONNX operators and local functions can be retyped",
        ) from err
    halves = {c.type_param_str for c in schema.type_constraints if "tensor(float16)" in c.allowed_type_strs}

    def float_slots(names: Sequence[str], formal: Sequence[Any]) -> dict[int, str]:
        """Slot to type variable; a variadic last parameter stands for all slots after it."""
        kinds = {slot: formal[min(slot, len(formal) - 1)].type_str for slot, name in enumerate(names) if name in floats}
        return {slot: kind for slot, kind in kinds.items() if kind in halves}

    inputs, outputs = float_slots(node.input, schema.inputs), float_slots(node.output, schema.outputs)
    shared = set(inputs.values()) & set(outputs.values())
    return [s for s, kind in inputs.items() if kind in shared], [s for s, kind in outputs.items() if kind in shared]


def _check_convertible(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise ExportError(f"node {node.name!r} is a quantizer", hint="take them out with drop_quantization first")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ExportError(
                f"node {node.name!r} ({node.op_type}) is control flow, which cannot be retyped",
                hint="export the network with a fixed number of steps",
            )


def _dequantized(node: onnx.NodeProto, initializers: dict[str, TensorProto]) -> TensorProto:
    """The float32 weights behind a DequantizeLinear with constant inputs (ONNX operator specification, opset 19)."""
    missing = [name for name in node.input if name and name not in initializers]
    if missing:
        raise ExportError(
            f"node {node.name!r} dequantizes {missing[0]!r}, which is neither a weight nor a quantized activation",
            hint="export the float checkpoint instead: `deblur-deploy export-onnx SOURCE`",
        )
    arrays: list[NDArray[Any]] = [numpy_helper.to_array(initializers[name]) for name in node.input if name]
    integers, scale = arrays[0].astype(np.float32), arrays[1].astype(np.float32)
    zero_point = arrays[2].astype(np.float32) if len(arrays) == 3 else np.float32(0)
    if scale.size > 1:
        shape = [1] * integers.ndim
        shape[_axis(node)] = scale.size
        scale, zero_point = scale.reshape(shape), np.broadcast_to(zero_point, scale.shape).reshape(shape)
    values: NDArray[np.float32] = (integers - zero_point) * scale
    return numpy_helper.from_array(values.astype(np.float32), node.output[0])


def _axis(node: onnx.NodeProto) -> int:
    """The axis of a DequantizeLinear's scales, 1 if it does not say (ONNX operator specification)."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


def _replace_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Make these the model's nodes, and drop the initialisers and shapes that went with others."""
    # Clearing the list frees its nodes, so they are copied first.
    fresh = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(fresh)
    remove_unused(model)


def _float_tensors(graph: onnx.GraphProto) -> set[str]:
    """Names of all float32 tensors of a graph whose shapes are inferred."""
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            floats.add(value.name)
    return floats


def load_model(source: Artifact) -> onnx.ModelProto:
    """Read the network of an ONNX artifact.

    Raises:
        ArtifactError: It is no ONNX artifact, or cannot be read.
    """
    if source.kind != "onnx":
        raise ArtifactError(
            f"{source.directory} is a {source.kind}, and float16 types are written into an ONNX file",
            hint="export it first: `deblur-deploy export-onnx`",
        )
    try:
        return onnx.load(source.path)
    except DecodeError as err:
        raise ArtifactError(f"{source.path} is not an ONNX file: {err}", hint="export it again") from err
