"""The network that TensorRT is given, and on which its arithmetic is counted.

It is made when an engine is built, and again when weights are put into an engine that was built without them: TensorRT
knows the weights by the names in this network, not by those in the file that it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner

from deblur_deploy.core.errors import BuildError
from deblur_deploy.graph.node_costs import ComputeNode, compute_nodes
from deblur_deploy.graph.operators import DOMAIN, OP_TYPE
from deblur_deploy.graph.profile import Profile
from deblur_deploy.graph.sizes import fix_to_shape
from deblur_deploy.kernels.aot_plugin import address_plugin

_DEFORM_CONV = (DOMAIN, OP_TYPE)


@dataclass(frozen=True)
class Handover:
    """What the builder is given.

    Args:
        network: The serialized network; the same inputs give the same bytes.
        nodes: Its nodes with weights; where sizes are free, counted for the shape that the first profile is tuned for.
        profiles: Ranges of shapes for the builder; none where the network is fixed.
        has_plugin: Whether the network has nodes that need the plugin.
    """

    network: bytes
    nodes: tuple[ComputeNode, ...]
    profiles: tuple[Profile, ...]
    has_plugin: bool


def read_network(model_bytes: bytes) -> onnx.ModelProto:
    """Read and check a serialized network.

    Raises:
        BuildError: It is not a valid ONNX network.
    """
    try:
        model = onnx.load_from_string(model_bytes)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, UnicodeDecodeError) as err:
        # UnicodeDecodeError: the checker quotes a damaged name.
        hint = "make the ONNX file again: `deblur-deploy export-onnx`"
        raise BuildError(f"the file is not a valid ONNX network: {' '.join(str(err).split())}", hint=hint) from err
    return model


def prepare_network(model: onnx.ModelProto, profiles: Sequence[Profile], with_plugin: bool) -> Handover:
    """Make a network ready for the builder.

    Local functions are inlined, because TensorRT's parser ignores the attributes that a function passes to a
    convolution. With the plugin, the deformable convolution stays a node, addressed to it, and its function is dropped.
    Every node gets a name of its own. A network that is built for one shape is fixed to it.

    Args:
        model: What :func:`read_network` gave.
        profiles: Ranges of shapes to build for; none for a fixed network.
        with_plugin: Whether the builder has the plugin.

    Raises:
        ConfigError: Sizes do not fit the network.
        ExportError: The sizes inside the network cannot be inferred.
    """
    has_plugin = with_plugin and any((node.domain, node.op_type) == _DEFORM_CONV for node in model.graph.node)
    flat = _inlined(model, has_plugin)
    _name_nodes(flat)
    counted = flat
    if profiles:
        counted = fix_to_shape(flat, profiles[0].input, profiles[0].opt)
        if len(profiles) == 1 and profiles[0].is_one_shape:
            flat, profiles = counted, ()
    nodes = compute_nodes(counted)
    if has_plugin:
        del flat.functions[:]
    return Handover(flat.SerializeToString(deterministic=True), nodes, tuple(profiles), has_plugin)


def _inlined(model: onnx.ModelProto, has_plugin: bool) -> onnx.ModelProto:
    """A copy without local functions, or with that of the plugin's nodes alone."""
    if not has_plugin:
        return inliner.inline_local_functions(model)
    addressed = onnx.ModelProto()
    addressed.CopyFrom(model)
    address_plugin(addressed)
    return inliner.inline_selected_functions(addressed, [_DEFORM_CONV], exclude=True)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, in place: the builder's list of layers tells them apart by it."""
    names: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in names:
            node.name = node.output[0]
        names.add(node.name)
