"""Camera frames as they are: uint8 NHWC in and out, converted inside the graph. That is a quarter of the bytes.

The network itself and its padding stay as they are. TensorRT takes uint8 only at the ends of a graph, so the first node
and the last are casts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deblur_deploy.graph.padding import INPUT, OUTPUT

NODES = "frames/"
"""Prefix of the names of nodes that convert frames."""

_WHITE, _BLACK, _ONE = "frames_white", "frames_black", "frames_one"


def take_frames(model: onnx.ModelProto) -> None:
    """Turn a network of (N, 3, H, W) float32 in [0, 1] into one of (N, H, W, 3) uint8, in place.

    In a quantized network the codes pass a Floor, which changes none of them. Without it OpenVINO 2026.4 takes cast and
    division for a dequantizer, and averages and pads in 8 bits: every seventh value comes out a code off.

    Results are clipped to [0, 1] and rounded to the nearest code, halves to even, as numpy and ONNX Round have it.

    Args:
        model: Its input is ``blurred`` and its output ``restored``; they keep their names.
    """
    graph = model.graph
    picture, result = f"{INPUT}_float", f"{OUTPUT}_float"
    for node in graph.node:
        node.input[:] = [picture if name == INPUT else name for name in node.input]
        node.output[:] = [result if name == OUTPUT else name for name in node.output]
    codes = [_node("Cast", [INPUT], "codes", to=TensorProto.FLOAT)]
    if any(node.op_type == "DequantizeLinear" for node in graph.node):
        codes.append(_node("Floor", ["codes"], "whole_codes"))
    before = [
        *codes,
        _node("Transpose", [codes[-1].output[0]], "codes_nchw", perm=[0, 3, 1, 2]),
        _node("Div", ["codes_nchw", _WHITE], picture),
    ]
    after = [
        _node("Clip", [result, _BLACK, _ONE], "clipped"),
        _node("Mul", ["clipped", _WHITE], "scaled"),
        _node("Round", ["scaled"], "rounded"),
        _node("Transpose", ["rounded"], "rounded_nhwc", perm=[0, 2, 3, 1]),
        _node("Cast", ["rounded_nhwc"], OUTPUT, to=TensorProto.UINT8),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    values = {_WHITE: 255.0, _BLACK: 0.0, _ONE: 1.0}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in values.items()
    )
    for end in (graph.input[0], graph.output[0]):
        batch, channels, height, width = [dim.dim_param or dim.dim_value for dim in end.type.tensor_type.shape.dim]
        frames = helper.make_tensor_value_info(end.name, TensorProto.UINT8, [batch, height, width, channels])
        end.CopyFrom(frames)


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"{NODES}{output}", **attributes)
