"""The TensorRT plugin ``deblur::DeformConv2d`` without a library: the kernel's PTX goes into the engine.

Needs TensorRT 10.8 or later for building, and nothing but TensorRT for running: see ``tensorrt.plugin`` in TensorRT's
documentation. Weights are read as the ONNX node has them; the C++ library packs them first and reads them in larger
pieces, so it is the better form where a library can be shipped along.

Where a file has a local function, TensorRT's ONNX parser takes that, unless the node names a plugin's namespace and a
plugin of that name, version and namespace is registered (TensorRT 10.7 and later; or ``trtexec
--enablePluginOverride``). Readers that know no plugins, such as onnxruntime and TensorRT-RTX, still use the function.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from deblur_deploy.core.errors import MissingDependencyError
from deblur_deploy.kernels.compiler import compile_cached, lower_ptx_version
from deblur_deploy.kernels.geometry import THREADS, Element, Entry, Geometry, Layout, choose_entry

NAMESPACE, NAME = "deblur", "DeformConv2d"

ATTRIBUTES: dict[str, Any] = {
    "strides": NDArray[np.int32],
    "pads": NDArray[np.int32],
    "dilations": NDArray[np.int32],
    "kernel_shape": NDArray[np.int32],
    "group": NDArray[np.int32],
    "offset_group": NDArray[np.int32],
}
"""Attributes of the ONNX node with the types that TensorRT's plugin fields have.

All are arrays, those of one number too: where one is annotated ``int``, TensorRT up to 11.1 calls ``int`` on an array
of one axis, which NumPy refuses from 2.4 on.
"""

INPUTS = ("X", "W", "offset")

PTX_ARCHITECTURE = "compute_75"
"""The oldest card that the kernel serves; the driver compiles its PTX for newer ones."""

VERSION = "1"
_ADDRESS = {"plugin_namespace": NAMESPACE, "plugin_version": VERSION}


def register_aot_plugin(*, lazy: bool = False) -> None:
    """Make the plugin known to TensorRT, so that its ONNX parser and ``tensorrt.plugin.op`` find it.

    Args:
        lazy: Leave TensorRT's registry alone until the plugin is first used through ``tensorrt.plugin.op``.

    Raises:
        MissingDependencyError: TensorRT is not installed, or is too old for ahead-of-time plugins.
    """
    try:
        import tensorrt as trt
        import tensorrt.plugin as trtp
    except (ImportError, OSError) as err:
        raise MissingDependencyError(
            "TensorRT's Python package with tensorrt.plugin cannot be imported",
            hint="pip install 'deblur-deploy[trt]' (10.8 or later)",
        ) from err
    if not hasattr(trtp, "aot_impl"):
        raise MissingDependencyError(
            f"TensorRT {trt.__version__} has no ahead-of-time plugins",
            hint="pip install -U tensorrt, or use the library that `deblur-deploy build-plugin` makes",
        )
    if hasattr(trtp.op, NAMESPACE) and hasattr(getattr(trtp.op, NAMESPACE), NAME):
        return
    identifier = f"{NAMESPACE}::{NAME}"
    for decorator, function in (
        (trtp.register(identifier, lazy_register=lazy), _annotated(_describe(trtp), trtp, {}, trtp.TensorDesc)),
        (trtp.autotune(identifier), _annotated(_formats(trtp), trtp, {"outputs": _outputs(trtp)}, _formats_type(trtp))),
        (
            trtp.aot_impl(identifier),
            _annotated(_implement(trt, trtp), trtp, {"outputs": _outputs(trtp), "tactic": int}, _kernel_type(trtp)),
        ),
    ):
        decorator(function)


def _annotated(function: Any, trtp: Any, more: dict[str, Any], result: Any) -> Any:
    """Give a function the annotations that TensorRT reads: they name types of a module that may not be there."""
    inputs = dict.fromkeys(INPUTS, trtp.TensorDesc)
    function.__annotations__ = inputs | ATTRIBUTES | more | {"return": result}
    return function


def _outputs(trtp: Any) -> Any:
    return tuple[trtp.TensorDesc]


def _formats_type(trtp: Any) -> Any:
    return list[trtp.AutoTuneCombination]


def _kernel_type(trtp: Any) -> Any:
    return tuple[str, bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]


def _describe(trtp: Any) -> Any:
    """The function that tells TensorRT the output's shape and type."""

    def describe(X, W, offset, strides, pads, dilations, kernel_shape, group, offset_group):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
        shape = (X.shape_expr[0], W.shape_expr[0], offset.shape_expr[2], offset.shape_expr[3])
        return trtp.from_shape_expr(shape, dtype=X.dtype)

    return describe


def _formats(trtp: Any) -> Any:
    """The function that tells TensorRT which types and layouts to try; strongly typed networks fix the types."""

    def formats(X, W, offset, strides, pads, dilations, kernel_shape, group, offset_group, outputs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
        return [
            trtp.AutoTuneCombination("FP32, FP32, FP32, FP32", "LINEAR"),
            trtp.AutoTuneCombination("FP16, FP16, FP32*FP16, FP16", "LINEAR"),
            trtp.AutoTuneCombination("FP16, FP16, FP32*FP16, FP16", "HWC8, LINEAR, LINEAR, HWC8"),
        ]

    return formats


def _implement(trt: Any, trtp: Any) -> Any:
    """The function that gives TensorRT the kernel's name, PTX, grid and integer arguments."""

    def implement(X, W, offset, strides, pads, dilations, kernel_shape, group, offset_group, outputs, tactic):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
        element: Element = "f16" if X.dtype == trt.DataType.HALF else "f32"
        layout: Layout = "nhwc" if X.format == trt.TensorFormat.HWC8 else "nchw"
        out_channels = W.shape_expr[0]
        known = out_channels.constant_value() if out_channels.is_constant else None
        (groups,) = group
        entry = choose_entry(element, layout, _per_group(known, int(groups)))
        fields = _geometry_fields((X, W, outputs[0]), (strides, pads, dilations, kernel_shape), (group, offset_group))
        fields |= {
            "x_pitch": _in_eights(trtp, fields["channels"]),
            "y_pitch": _in_eights(trtp, fields["out_channels"]),
            "half_offset": int(offset.dtype == trt.DataType.HALF),
        }
        ordered = [fields[field.name] for field in dataclasses.fields(Geometry)]
        arguments = trtp.SymIntExprs(len(ordered))
        for index, value in enumerate(ordered):
            arguments[index] = trtp.SymInt32(value)
        return entry.name, plugin_ptx(entry), _launch(trtp, entry, fields), arguments

    return implement


def _per_group(out_channels: int | None, groups: int) -> int:
    """Output channels of a group; where they are not known when the engine is built, a guess that only costs time."""
    return out_channels // groups if out_channels is not None else 1


def _geometry_fields(tensors: tuple[Any, Any, Any], lists: tuple[Any, ...], groups: tuple[Any, Any]) -> dict[str, Any]:
    """The kernel's integers by name, from expressions of shapes and from attributes."""
    x, weight, y = (tensor.shape_expr for tensor in tensors)
    strides, pads, dilations, kernel = ([int(value) for value in values] for values in lists)
    (group,), (offset_group,) = groups
    return {
        **dict(zip(("batch", "channels", "height", "width"), x, strict=True)),
        **{"out_channels": weight[0], "out_height": y[2], "out_width": y[3]},
        **dict(zip(("kernel_h", "kernel_w"), kernel, strict=True)),
        **dict(zip(("stride_h", "stride_w"), strides, strict=True)),
        **dict(zip(("pad_h", "pad_w"), pads[:2], strict=True)),
        **dict(zip(("dilation_h", "dilation_w"), dilations, strict=True)),
        **{"groups": int(group), "offset_groups": int(offset_group)},
        **{"packed_weight": 0, "relu": 0},
    }


def _in_eights(trtp: Any, channels: Any) -> Any:
    """Channels of a pixel in TensorRT's HWC8 layout."""
    return trtp.cdiv(channels, 8) * 8


def _launch(trtp: Any, entry: Entry, fields: dict[str, Any]) -> Any:
    """Grid and block, as expressions of the shapes; see :meth:`Entry.grid`."""
    launch = trtp.KernelLaunchParams()
    launch.grid_x = trtp.cdiv(fields["out_height"] * fields["out_width"], entry.tile.pixels)
    launch.grid_y = trtp.cdiv(fields["out_channels"] // fields["groups"], entry.tile.outputs) * fields["groups"]
    launch.grid_z = fields["batch"]
    launch.block_x = THREADS
    return launch


def plugin_ptx(entry: Entry) -> bytes:
    """PTX of one entry point as it goes into engines: with plain integers for arguments, for drivers since CUDA 11.

    Raises:
        MissingDependencyError: NVRTC is not installed.
    """
    ptx = compile_cached(PTX_ARCHITECTURE, "-DDEFORM_CONV_FLAT", entry.definition)
    return lower_ptx_version(ptx).rstrip(b"\0")


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
