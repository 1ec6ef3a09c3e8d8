"""A network in onnxruntime with the magnitudes of its values in view."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from deblur_deploy.core.denormals import flushed_denormals
from deblur_deploy.graph.edit import set_nodes
from deblur_deploy.graph.operators import WEIGHTED
from deblur_deploy.runtime.ort import session_options

_MOTION_PX = 0.3
"""Between the frames of a film that a network is tried on, of the size at which motion is told."""


_MUCH_MB = 256
"""Of watched values; with fewer, onnxruntime is left its own order."""

_LEVEL_IN_ORDER = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
"""Beyond it, convolutions get layouts of their own, and the nodes that leave these come last."""

_REDUCTIONS = ("ReduceMax", "ReduceSum")
"""The sum is not finite where a value is not; a maximum may pass over NaN."""


@dataclass(frozen=True)
class Seen:
    """What a network gave for a picture, and the largest magnitudes on the way; NaN where a value is not finite."""

    output: NDArray[Any]
    peaks: dict[str, float]

    @property
    def finite(self) -> bool:
        """Whether all of it is."""
        return bool(np.isfinite(self.output).all()) and all(np.isfinite(value) for value in self.peaks.values())


class Watched:
    """A network in onnxruntime that gives, besides its output, the largest magnitudes of some of its values."""

    def __init__(self, model: onnx.ModelProto, names: Set[str]) -> None:
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        graph = watched.graph
        self._names = [name for node in graph.node for name in node.output if name in names]
        for name in self._names:
            results = [f"{name}/{kind}" for kind in _REDUCTIONS]
            graph.output.extend(helper.make_tensor_value_info(result, TensorProto.FLOAT, []) for result in results)
        set_nodes(graph, [each for node in model.graph.node for each in (node, *_watchers(node, names))], {})
        self._own_outputs = len(model.graph.output)
        self._session = open_quietly(watched, in_order=_megabytes(model, names) > _MUCH_MB)

    def run(self, batch: NDArray[Any]) -> Seen:
        """Run the network on pictures in the form that it takes."""
        output, *rest = self._session.run(None, fed_to(self._session, batch))
        rest = rest[self._own_outputs - 1 :]
        pairs = zip(self._names, rest[::2], rest[1::2], strict=True)
        return Seen(output, {n: float(peak) if np.isfinite(total) else float("nan") for n, peak, total in pairs})


def _megabytes(model: onnx.ModelProto, names: Set[str]) -> float:
    """What these values take in float32, where their sizes are known."""
    typed = (
        (value.name, value.type.tensor_type) for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    )
    shapes = ([each.dim_value for each in kind.shape.dim] for name, kind in typed if name in names)
    numbers: int = sum(math.prod(shape) for shape in shapes)
    return numbers * 4 / 2**20


def _watchers(node: onnx.NodeProto, names: Set[str]) -> list[onnx.NodeProto]:
    """Nodes that reduce the values of a node."""
    found = []
    for name in (value for value in node.output if value in names):
        for kind in _REDUCTIONS:
            magnitudes = f"{name}/{kind}/magnitudes"
            found.append(helper.make_node("Abs", [name], [magnitudes]))
            found.append(helper.make_node(kind, [magnitudes], [f"{name}/{kind}"], keepdims=0))
    return found


def open_quietly(model: onnx.ModelProto, *, in_order: bool = False) -> Any:
    """A session of onnxruntime on the processor that logs nothing.

    Args:
        model: The network.
        in_order: Whether nodes run in the order of the graph, so that a value that is only looked at is freed behind
            its last node. In onnxruntime's own order all are kept to the end: 24 GB for one frame of 1280x720 of DMPHN.
    """
    options = session_options()
    if in_order:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.graph_optimization_level = _LEVEL_IN_ORDER
    with flushed_denormals():  # which the first session would set and leave
        serialized, providers = model.SerializeToString(), ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(serialized, options, providers=providers)


def fed_to(session: Any, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What a session is given for pictures: of a temporal network, as frames of a film that stands nearly still."""
    picture, *others = session.get_inputs()
    feeds = {picture.name: batch}
    for value in others:
        of_film = {"before": batch, "trust": np.ones(value.shape), "flow": np.full(value.shape, _MOTION_PX)}
        feeds[value.name] = of_film.get(value.name, np.zeros(value.shape)).astype(np.float32)
    return feeds


def layer_name(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """The node that makes a value, with the layer with weights before it, which people know by name."""
    node = makers[name]
    layer: onnx.NodeProto | None = node
    while layer is not None and not has_weights(layer):
        layer = makers.get(layer.input[0]) if layer.input else None
    if layer is None or layer is node:
        return repr(node.name or name)
    return f"{node.op_type} behind {layer.name!r}"


def has_weights(node: onnx.NodeProto) -> bool:
    """Whether a node is a layer with weights, or a function of ours, which has some."""
    return bool(node.domain) or node.op_type in WEIGHTED
