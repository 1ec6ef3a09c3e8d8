"""Padding and cropping around a traced network, so that a file takes pictures of any size, from 1x1.

The network inside works at sizes that divide by its multiple. The graph repeats the last row and column of the picture
until that is so, and cuts the result back to the picture's size. At one size both are constants; where height and width
are free, they are computed from the picture's shape.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deblur_deploy.core.images import Resolution

INPUT, OUTPUT = "blurred", "restored"
PADDED, UNCROPPED = "padded", "uncropped"
"""Input and output of the network before it is padded, as it is traced."""

BATCH, HEIGHT, WIDTH = "batch", "height", "width"
"""Names of the free dimensions of the input and the output."""


def pad_to_size(model: onnx.ModelProto, size: Resolution, padded: Resolution) -> None:
    """Give a network traced at one size, ``padded``, an input and an output of another, in place."""
    graph = model.graph
    bottom, right = padded.height - size.height, padded.width - size.width
    if (bottom, right) == (0, 0):
        _rename(graph, {PADDED: INPUT, UNCROPPED: OUTPUT})
    else:
        constants = {"pads": [0, 0, 0, 0, 0, 0, bottom, right], "picture_size": [size.height, size.width]}
        _pad_and_crop(graph, [], constants)
    _set_ends(graph, [1, 3, size.height, size.width])


def pad_any_size(model: onnx.ModelProto, multiple: int, smallest: int) -> None:
    """Give a network traced with free sizes an input and an output of any size and batch, in place.

    Args:
        model: The network; its input has the axes batch, 3, height and width.
        multiple: Divisor of height and width inside the network.
        smallest: Least height and width inside the network.
    """
    graph = model.graph
    if multiple == smallest == 1:
        _rename(graph, {PADDED: INPUT, UNCROPPED: OUTPUT})
    else:
        # ceil(max(side, smallest) / multiple) * multiple, as padded_side has it; integers divide downward.
        nodes = [
            helper.make_node("Shape", [INPUT], ["picture_size"], name="picture_size", start=2),
            helper.make_node("Max", ["picture_size", "smallest"], ["least_size"], name="least_size"),
            helper.make_node("Add", ["least_size", "multiple_less_1"], ["raised_size"], name="raised_size"),
            helper.make_node("Div", ["raised_size", "multiple"], ["multiples"], name="multiples"),
            helper.make_node("Mul", ["multiples", "multiple"], ["padded_size"], name="padded_size"),
            helper.make_node("Sub", ["padded_size", "picture_size"], ["bottom_right"], name="bottom_right"),
            helper.make_node("Concat", ["no_pads", "bottom_right"], ["pads"], name="pads", axis=0),
        ]
        sides = {"smallest": smallest, "multiple": multiple, "multiple_less_1": multiple - 1}
        _pad_and_crop(graph, nodes, {"no_pads": [0] * 6, **{name: [side, side] for name, side in sides.items()}})
    _set_ends(graph, [BATCH, 3, HEIGHT, WIDTH])


def _pad_and_crop(graph: onnx.GraphProto, sizing: list[onnx.NodeProto], constants: dict[str, list[int]]) -> None:
    """Put Pad before the network and Slice after it; sizing nodes or constants give their amounts."""
    constants = {**constants, "crop_start": [0, 0], "crop_axes": [2, 3]}
    arrays: dict[str, NDArray[np.int64]] = {name: np.array(values, np.int64) for name, values in constants.items()}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    before = [*sizing, helper.make_node("Pad", [INPUT, "pads"], [PADDED], name="pad", mode="edge")]
    crop_inputs = [UNCROPPED, "crop_start", "picture_size", "crop_axes"]
    nodes = [*before, *graph.node, helper.make_node("Slice", crop_inputs, [OUTPUT], name="crop")]
    del graph.node[:]
    graph.node.extend(nodes)


def _set_ends(graph: onnx.GraphProto, shape: list[int | str]) -> None:
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape))


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename values wherever nodes use them."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)
