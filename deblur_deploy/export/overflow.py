"""Whether what flows through a network fits float16, found by running photographs through it.

A float16 ends at 65504; beyond it is infinity, and the picture is lost. Weights are looked at where they are converted.
Activations are known only when there are some, so the float32 network runs, with the largest magnitude of every tensor
that is to become float16 as an output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from deblur_deploy.core.errors import ExportError
from deblur_deploy.core.images import ImageSpec, to_batch
from deblur_deploy.data.pairs import Image8
from deblur_deploy.graph.check import infer_shapes

LIMIT = 6e4
"""What an activation may reach: a little below where float16 ends, for other photographs than these."""

_NAMED = 3
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "DeformConv", "DeformConv2d", "Gemm", "MatMul"})


def check_activations(
    model: onnx.ModelProto, typed: onnx.ModelProto, photos: Iterable[Image8], image: ImageSpec
) -> dict[str, Any]:
    """Refuse a conversion to float16 in which an activation overflows.

    Args:
        model: The network in float32.
        typed: The same network with float16 types, as ``convert_to_fp16`` makes it.
        photos: Calibration photographs, (H, W, 3) uint8; repeated and cropped to the network's size.
        image: What the network takes.

    Returns:
        ``largest_activation`` of those that become float16, and ``largest_activation_layer``, where that is.

    Raises:
        ExportError: An activation is beyond :data:`LIMIT`, with the layers named.
    """
    largest = largest_activations(model, _halved(model, typed), (_as_taken(photo, image) for photo in photos))
    makers = {name: node for node in model.graph.node for name in node.output}
    # A NaN is within no limit.
    if beyond := [name for name, value in largest.items() if not value <= LIMIT]:
        named = [f"{_layer(name, makers)} reaches {largest[name]:.3g}" for name in beyond[:_NAMED]]
        more = f", and {len(beyond) - _NAMED} others do likewise" if len(beyond) > _NAMED else ""
        raise ExportError(
            f"on calibration photographs {', '.join(named)}{more}, and float16 holds no more than 65504",
            hint="build a float network with --fp32, or keep the layers so in Python: PrecisionConfig(('/layer/*',))",
        )
    worst = max(largest, key=lambda name: largest[name], default=None)
    if worst is None:
        return {}
    return {"largest_activation": largest[worst], "largest_activation_layer": _layer(worst, makers)}


def largest_activations(model: onnx.ModelProto, names: Set[str], batches: Iterable[NDArray[Any]]) -> dict[str, float]:
    """Largest magnitudes of tensors, over all batches, in onnxruntime.

    Args:
        model: A network.
        names: Float tensors that its nodes compute.
        batches: Inputs as the network takes them.

    Returns:
        A value for each tensor, in the order of the graph.
    """
    ordered = [name for node in model.graph.node for name in node.output if name in names]
    if not ordered:
        return {}
    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    graph = measured.graph
    del graph.output[:]
    for name in ordered:
        magnitudes, largest = f"{name}/magnitudes", f"{name}/largest"
        graph.node.append(helper.make_node("Abs", [name], [magnitudes]))
        graph.node.append(helper.make_node("ReduceMax", [magnitudes], [largest], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, []))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(measured.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows = [session.run(None, {session.get_inputs()[0].name: batch}) for batch in batches]
    return dict(zip(ordered, map(float, np.max(np.array(rows, np.float32), axis=0)), strict=True))


def _halved(model: onnx.ModelProto, typed: onnx.ModelProto) -> set[str]:
    """Tensors of the float32 network that the typed one has in float16, under their name or a cast's."""
    graph = infer_shapes(typed).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    halves = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    for node in graph.node:
        if node.op_type == "Cast" and halves.intersection((*node.input, *node.output)):
            halves.update((*node.input, *node.output))
    return halves & {name for node in model.graph.node for name in node.output}


def _as_taken(photo: Image8, image: ImageSpec) -> NDArray[Any]:
    """A photograph in the form and the size that a network takes."""
    if image.height is not None and image.width is not None:
        repeats = -(-image.height // photo.shape[0]), -(-image.width // photo.shape[1]), 1
        photo = np.ascontiguousarray(np.tile(photo, repeats)[: image.height, : image.width])
    return photo[None] if image.dtype == "uint8" else to_batch(photo)


def _layer(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """The node that makes a tensor, with the layer with weights before it, which people know by name."""
    node = makers[name]
    layer: onnx.NodeProto | None = node
    while layer is not None and layer.op_type not in _WEIGHTED:
        layer = makers.get(layer.input[0]) if layer.input else None
    if layer is None or layer is node:
        return repr(node.name or name)
    return f"{node.op_type} behind {layer.name!r}"
