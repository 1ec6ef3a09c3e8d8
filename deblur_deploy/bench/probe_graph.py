"""The network with which ONNX runtimes are probed: a stack of 3x3 convolutions, float32 or between quantizers."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR_VERSION = 19, 10


def convolution_stack(channels: int, size: int, layers: int, *, quantized: bool) -> onnx.ModelProto:
    """Convolutions one after the other, each followed by a Relu.

    Args:
        channels: Of every layer's input and output.
        size: Height and width.
        layers: How many.
        quantized: Put QuantizeLinear and DequantizeLinear around activations, and store the weights as int8.

    Returns:
        A model from ``x`` to ``y``, both (1, channels, size, size) float32.
    """
    rng = np.random.default_rng(0)
    weights = rng.normal(0, (2 / (9 * channels)) ** 0.5, (channels, channels, 3, 3)).astype(np.float32)
    nodes, constants = [], []
    if quantized:
        scale = np.abs(weights).max() / 127
        constants = [
            numpy_helper.from_array(np.round(weights / scale).astype(np.int8), "weights"),
            numpy_helper.from_array(np.array(scale), "weight_scale"),
            numpy_helper.from_array(np.array(4 / 127, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", ["weights", "weight_scale", "zero"], ["w"]))
    else:
        constants = [numpy_helper.from_array(weights, "w")]
    current = "x"
    for layer in range(layers):
        if quantized:
            nodes += [
                helper.make_node("QuantizeLinear", [current, "scale", "zero"], [f"q{layer}"]),
                helper.make_node("DequantizeLinear", [f"q{layer}", "scale", "zero"], [f"d{layer}"]),
            ]
            current = f"d{layer}"
        last = "y" if layer == layers - 1 else f"r{layer}"
        nodes += [
            helper.make_node("Conv", [current, "w"], [f"c{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{layer}"], [last]),
        ]
        current = last
    shape = [1, channels, size, size]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "probe", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
