"""A network in onnxruntime with the magnitudes of its values in view."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from deblur_deploy.core.denormals import flushed_denormals
from deblur_deploy.graph.operators import WEIGHTED
from deblur_deploy.runtime.ort import session_options


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
            # The sum is not finite where a value is not; a maximum may pass over NaN.
            for kind in ("ReduceMax", "ReduceSum"):
                magnitudes, result = f"{name}/{kind}/magnitudes", f"{name}/{kind}"
                graph.node.append(helper.make_node("Abs", [name], [magnitudes]))
                graph.node.append(helper.make_node(kind, [magnitudes], [result], keepdims=0))
                graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, []))
        self._session = open_quietly(watched)

    def run(self, batch: NDArray[Any]) -> Seen:
        """Run the network on pictures in the form that it takes."""
        output, *rest = self._session.run(None, {self._session.get_inputs()[0].name: batch})
        pairs = zip(self._names, rest[::2], rest[1::2], strict=True)
        return Seen(output, {n: float(peak) if np.isfinite(total) else float("nan") for n, peak, total in pairs})


def open_quietly(model: onnx.ModelProto) -> Any:
    """A session of onnxruntime on the processor that logs nothing."""
    with flushed_denormals():  # which the first session would set and leave
        serialized, providers = model.SerializeToString(), ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(serialized, session_options(), providers=providers)


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
