"""The deformable convolution as a file has it: for a plugin, as the standard operator, or spelled out.

======== ============================================================ ==========================================
form     nodes                                                        read by
======== ============================================================ ==========================================
plugin   ``deblur::DeformConv2d`` with its meaning as local function  onnxruntime, TensorRT-RTX after inlining,
                                                                      OpenVINO by its own operator, TensorRT with
                                                                      its plugin (all done for them)
standard ``DeformConv`` of opset 19                                   onnxruntime, OpenVINO through this package,
                                                                      TensorRT by its own plugin
native   GridSample and Conv                                          whatever reads ONNX of opset 19
======== ============================================================ ==========================================

The node is written for TensorRT's plugin of that name. For every other reader the file carries a local function that
spells it out in standard operators: bilinear GridSample at float32 positions, one sample per kernel tap laid out as an
image ``kernel`` times as large, then an ordinary convolution whose stride is the kernel. The body reads sizes from its
inputs, so it holds for any shape and for fixed or dynamic sizes alike; runtimes fold the sampling base into a constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import inliner, parser

from deblur_deploy.config import DeformOp
from deblur_deploy.graph.edit import drop_opset
from deblur_deploy.graph.operators import DOMAIN, OP_TYPE


def write_deform_op(model: onnx.ModelProto, form: DeformOp) -> onnx.ModelProto:
    """Give every ``deblur::DeformConv2d`` node of a fresh export its form.

    Args:
        model: A model whose nodes have no local function yet. It may be changed.
        form: How the nodes are to be written.

    Returns:
        The model in that form.
    """
    if form == "standard":
        _write_standard(model)
        return model
    add_deform_conv_functions(model)
    if form == "plugin":
        return model
    native = inliner.inline_local_functions(model)
    drop_opset(native, DOMAIN)
    return native


def _write_standard(model: onnx.ModelProto) -> None:
    """Turn the nodes into ``DeformConv``, which has their inputs and attributes."""
    for node in model.graph.node:
        if (node.domain, node.op_type) == (DOMAIN, OP_TYPE):
            node.domain, node.op_type = "", "DeformConv"
    drop_opset(model, DOMAIN)


OPSET = 19

_FUNCTION = """
<domain: "deblur", opset_import: ["" : 19]>
DeformConv2d <strides, pads, dilations, kernel_shape, group, offset_group> (X, W, offset) => (Y)
{
    x32 = Cast <to = 1> (X)
    offset32 = Cast <to = 1> (offset)
    kernel = Constant <value_ints: ints = @kernel_shape> ()
    stride = Constant <value_ints: ints = @strides> ()
    dilation = Constant <value_ints: ints = @dilations> ()
    padding = Constant <value_ints: ints = @pads> ()
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    half = Constant <value_float = 0.5> ()
    f_one = Constant <value_float = 1.0> ()
    f_two = Constant <value_float = 2.0> ()
    pair = Constant <value_ints = [2]> ()
    rest = Constant <value_ints = [-1]> ()
    last = Constant <value_ints = [-1]> ()
    row_axes = Constant <value_ints = [2, 3]> ()
    unit_axes = Constant <value_ints = [1]> ()

    batch = Shape <start = 0, end = 1> (X)
    image_size = Shape <start = 2> (X)
    out_size = Shape <start = 2> (offset)
    offset_groups = Constant <value_int: int = @offset_group> ()
    images = Mul (batch, offset_groups)

    kernel_h = Gather (kernel, zero)
    kernel_w = Gather (kernel, one)
    out_h = Gather (out_size, zero)
    out_w = Gather (out_size, one)
    stride_h = Gather (stride, zero)
    stride_w = Gather (stride, one)
    dilation_h = Gather (dilation, zero)
    dilation_w = Gather (dilation, one)
    pad_h = Gather (padding, zero)
    pad_w = Gather (padding, one)
    size32 = Cast <to = 1> (image_size)
    height = Gather (size32, zero)
    width = Gather (size32, one)

    rows = Range (zero, out_h, one)
    rows_strided = Mul (rows, stride_h)
    rows_column = Unsqueeze (rows_strided, unit_axes)
    taps_h = Range (zero, kernel_h, one)
    taps_h_dilated = Mul (taps_h, dilation_h)
    taps_h_padded = Sub (taps_h_dilated, pad_h)
    y_index = Add (rows_column, taps_h_padded)
    y_float = Cast <to = 1> (y_index)
    y_center = Add (y_float, half)
    y_doubled = Mul (y_center, f_two)
    y_scaled = Div (y_doubled, height)
    y_base = Sub (y_scaled, f_one)
    y_base4 = Unsqueeze (y_base, row_axes)

    columns = Range (zero, out_w, one)
    columns_strided = Mul (columns, stride_w)
    columns_column = Unsqueeze (columns_strided, unit_axes)
    taps_w = Range (zero, kernel_w, one)
    taps_w_dilated = Mul (taps_w, dilation_w)
    taps_w_padded = Sub (taps_w_dilated, pad_w)
    x_index = Add (columns_column, taps_w_padded)
    x_float = Cast <to = 1> (x_index)
    x_center = Add (x_float, half)
    x_doubled = Mul (x_center, f_two)
    x_scaled = Div (x_doubled, width)
    x_base = Sub (x_scaled, f_one)

    shift_shape = Concat <axis = 0> (images, kernel, pair, out_size)
    shift_taps = Reshape (offset32, shift_shape)
    shift = Transpose <perm = [0, 4, 1, 5, 2, 3]> (shift_taps)
    shift_y = Gather <axis = 5> (shift, zero)
    shift_x = Gather <axis = 5> (shift, one)
    pixel_y = Div (f_two, height)
    pixel_x = Div (f_two, width)
    move_y = Mul (shift_y, pixel_y)
    move_x = Mul (shift_x, pixel_x)
    grid_y = Add (move_y, y_base4)
    grid_x = Add (move_x, x_base)
    grid_y6 = Unsqueeze (grid_y, last)
    grid_x6 = Unsqueeze (grid_x, last)
    grid6 = Concat <axis = -1> (grid_x6, grid_y6)
    samples_size = Mul (out_size, kernel)
    grid_shape = Concat <axis = 0> (images, samples_size, pair)
    grid = Reshape (grid6, grid_shape)

    image_shape = Concat <axis = 0> (images, rest, image_size)
    image = Reshape (x32, image_shape)
    samples = GridSample <mode = "bilinear", padding_mode = "zeros", align_corners = 0> (image, grid)
    samples_shape = Concat <axis = 0> (batch, rest, samples_size)
    samples4 = Reshape (samples, samples_shape)
    typed = CastLike (samples4, X)
    Y = Conv <kernel_shape = %(kernel)s, strides = %(kernel)s, group = %(group)d> (typed, W)
}
"""


def deform_conv_function(kernel: Sequence[int], group: int, overload: str = "") -> onnx.FunctionProto:
    """The local function that gives ``deblur::DeformConv2d`` its meaning.

    Inputs are X (N, C, H, W), W (C_out, C/group, kh, kw) and offset (N, 2*kh*kw*offset_group, H_out, W_out), in the
    order and with the attributes of ONNX ``DeformConv`` (opset 19), without mask and bias. X and W are float16 or
    float32; positions are float32.

    Args:
        kernel: Height and width of the kernel. Kernel and group are written into the body's convolution as numbers:
            TensorRT-RTX takes a convolution's attributes by reference for defaults, silently.
        group: Groups of the convolution.
        overload: Name that tells functions of one model apart, where it has several geometries.
    """
    function = parser.parse_function(_FUNCTION % {"kernel": list(kernel), "group": group})
    function.overload = overload
    function.node[-1].name = OP_TYPE  # what a builder's list of layers then calls the convolution inside
    return function


def add_deform_conv_functions(model: onnx.ModelProto) -> None:
    """Give every ``deblur::DeformConv2d`` node of a model its local function, in place.

    Args:
        model: A model whose nodes have ``kernel_shape`` and ``group``. Where they differ, functions are told apart by
            ONNX's overloads, which need IR version 10.
    """
    geometries: dict[tuple[tuple[int, ...], int], list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if (node.domain, node.op_type) == (DOMAIN, OP_TYPE):
            attributes = {attribute.name: attribute for attribute in node.attribute}
            key = (tuple(attributes["kernel_shape"].ints), attributes["group"].i)
            geometries.setdefault(key, []).append(node)
    for (kernel, group), nodes in geometries.items():
        overload = "" if len(geometries) == 1 else f"k{'x'.join(map(str, kernel))}g{group}"
        for node in nodes:
            node.overload = overload
        model.functions.append(deform_conv_function(kernel, group, overload))
        model.ir_version = max(model.ir_version, 10) if overload else model.ir_version
