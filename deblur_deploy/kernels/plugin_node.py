"""Makes TensorRT's ONNX parser take the plugin for ``deblur::DeformConv2d`` nodes that have a local function too.

Where a file has a local function, the parser takes it, unless the node names a plugin's namespace and a plugin of that
name, version and namespace is registered (TensorRT 10.7 and later; or ``trtexec --enablePluginOverride``). Readers that
know no plugins, such as onnxruntime and TensorRT-RTX, go on to use the function.
"""

from __future__ import annotations

import onnx
from onnx import helper

from deblur_deploy.kernels.aot_plugin import NAME, NAMESPACE

VERSION = "1"
_ADDRESS = {"plugin_namespace": NAMESPACE, "plugin_version": VERSION}


def address_plugin(model: onnx.ModelProto) -> int:
    """Name the plugin on every ``deblur::DeformConv2d`` node, in place.

    Args:
        model: An exported model; its local functions are told of the two attributes, which they do not use.

    Returns:
        Number of nodes that carry the address now.
    """
    nodes = [node for node in model.graph.node if (node.domain, node.op_type) == (NAMESPACE, NAME)]
    for node in nodes:
        present = {attribute.name for attribute in node.attribute}
        node.attribute.extend(
            helper.make_attribute(key, value) for key, value in _ADDRESS.items() if key not in present
        )
    for function in model.functions:
        if (function.domain, function.name) == (NAMESPACE, NAME):
            function.attribute.extend(key for key in _ADDRESS if key not in function.attribute)
    return len(nodes)
