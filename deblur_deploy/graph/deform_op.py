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
"""

from __future__ import annotations

import onnx
from onnx import inliner

from deblur_deploy.config import DeformOp
from deblur_deploy.graph.deform_function import add_deform_conv_functions
from deblur_deploy.graph.fold import drop_opset
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
