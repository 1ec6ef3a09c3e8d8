"""An ONNX file in the form that OpenVINO's CPU plugin runs fastest, with the same numbers.

Two things stand between a recurrent deblurring network and the plugin's fast kernels:

* The deformable convolution arrives as a local function, which OpenVINO does not read; written out, it is a GridSample
  into an image nine times as large, a change of layout, and a convolution. OpenVINO has the operator itself.
* A bias joins its convolution only where nothing else uses the constant. A network that runs its weights once per scale
  shares every bias, so bias, activation and quantizer all become passes of their own over the picture in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
import openvino
from openvino import opset8
from openvino.frontend.onnx import ConversionExtension

from deblur_deploy.graph.operators import DOMAIN, OP_TYPE


def read_for_openvino(core: openvino.Core, path: Path) -> openvino.Model:
    """Read an ONNX file into a graph that OpenVINO fuses and runs well.

    Args:
        core: OpenVINO; both forms of the deformable convolution are registered with it.
        path: An ONNX file. ``deblur::DeformConv2d``, ONNX ``DeformConv`` and local functions are understood.

    Raises:
        DecodeError, OSError, RuntimeError, ValidationError: The file is not ONNX, cannot be opened, OpenVINO does not
            take it, or its functions call each other endlessly.
    """
    model = onnx.load(path)
    others = [function for function in model.functions if (function.domain, function.name) != (DOMAIN, OP_TYPE)]
    del model.functions[:]
    if others:
        model.functions.extend(others)
        model = onnx.inliner.inline_local_functions(model)
    give_own_biases(model.graph)
    core.add_extension(ConversionExtension(OP_TYPE, DOMAIN, _deform_conv))
    core.add_extension(ConversionExtension("DeformConv", _deform_conv))
    return core.read_model(model.SerializeToString())


def give_own_biases(graph: onnx.GraphProto) -> int:
    """Give every convolution a bias of its own, in place.

    Args:
        graph: Its biases are initialisers or come from nodes; the latter stay as they are.

    Returns:
        Number of copies made. Each has one number per channel of its layer.
    """
    constants = {item.name: item for item in graph.initializer}
    uses: dict[str, int] = {}
    copies = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose") or len(node.input) < 3 or node.input[2] not in constants:
            continue
        name = node.input[2]
        uses[name] = uses.get(name, 0) + 1
        if uses[name] > 1:
            copy = onnx.TensorProto.FromString(constants[name].SerializeToString())
            copy.name = node.input[2] = f"{name}~{uses[name]}"
            graph.initializer.append(copy)
            copies += 1
    return copies


def _deform_conv(node: Any) -> list[Any]:
    """OpenVINO's operator for a node with the inputs X, W, offset and perhaps B and mask, in float32."""
    given = [node.get_input(index) for index in range(node.get_input_size())]
    x, weight, offset = given[:3]
    bias, mask = [*given[3:], None, None][:2]
    pads = list(node.get_attribute("pads", [0, 0, 0, 0]))
    inputs = [_float32(value) for value in (x, offset, weight)]
    y = opset8.deformable_convolution(
        *inputs,
        strides=list(node.get_attribute("strides", [1, 1])),
        pads_begin=pads[:2],
        pads_end=pads[2:],
        dilations=list(node.get_attribute("dilations", [1, 1])),
        mask=_float32(mask) if _is_given(mask) else None,
        group=node.get_attribute("group", 1),
        deformable_group=node.get_attribute("offset_group", 1),
        bilinear_interpolation_pad=True,  # corners outside the picture are zeros, one by one
    )
    if _is_given(bias):
        y = opset8.add(y, opset8.unsqueeze(_float32(bias), [0, 2, 3]))
    return list(opset8.convert_like(y, x).outputs())


def _is_given(value: Any) -> bool:
    """Whether an optional input is there; OpenVINO puts a NullNode in the place of an empty name."""
    return value is not None and value.get_node().get_type_name() != "NullNode"


def _float32(value: Any) -> Any:
    """The value in float32, which positions need and everything else may have: the plugin computes in it anyway."""
    return opset8.convert(value, "f32")
