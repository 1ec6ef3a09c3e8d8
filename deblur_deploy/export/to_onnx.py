"""From a checkpoint to one ONNX file that every runtime reads.

The network is traced at a fixed size that its pyramid divides; padding and cropping are put around it, so the file
takes and gives exactly the size that was asked for. The deformable convolution is a ``deblur::DeformConv2d`` node with
a local function (see ``deform_function.py``). A quantized network comes out with QuantizeLinear/DequantizeLinear pairs
on activations and with weights stored as int8 or float8; what stays in float is stored as float16.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn
from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic

from deblur_deploy.artifact import Artifact, Draft, new_step, write_artifact
from deblur_deploy.config import ExportConfig
from deblur_deploy.errors import ExportError
from deblur_deploy.export.batch_norm import replace_batch_norms
from deblur_deploy.export.constant_folding import fold_constants
from deblur_deploy.export.deform_function import DOMAIN, OP_TYPE, OPSET, add_deform_conv_functions
from deblur_deploy.export.fold import (
    drop_idle_casts,
    fold_weight_quantizers,
    quantize_before_concat,
    share_constants,
    write_standard_fp8,
)
from deblur_deploy.export.quality import measuring
from deblur_deploy.export.shrink import halve_float_weights, merge_duplicates, shorten
from deblur_deploy.images import ImageSpec, Resolution
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.onnx_cost import share_of_macs

INPUT, OUTPUT = "blurred", "restored"
_PADDED, _UNCROPPED = "padded", "uncropped"


def export_onnx(source: Artifact, config: ExportConfig, out: Path) -> Artifact:
    """Write a checkpoint as an ONNX artifact.

    Args:
        source: A checkpoint, float or quantized.
        config: The size of the graph's input.
        out: The artifact's directory.

    Raises:
        ArtifactError: ``source`` is no checkpoint or ``out`` cannot be written.
        ExportError: The size takes more memory than there is, or the result does not pass onnx's checker.
    """
    net = load_network(source)
    resolution = Resolution(config.width, config.height)
    model = network_to_onnx(net, resolution)
    facts = {"source_sha256": source.sha256, "network": source.network.arch, "layout": "NCHW RGB, float32 in [0, 1]"}
    helper.set_model_props(model, {f"deblur_deploy.{key}": value for key, value in facts.items()})
    image = ImageSpec(multiple_of=1, height=resolution.height, width=resolution.width)
    step = new_step("export-onnx", config, source, {"opset": OPSET, "precision": share_of_macs(model)})

    def write(path: Path) -> None:
        path.write_bytes(model.SerializeToString(deterministic=True))

    return write_artifact(
        out, Draft("onnx", "model.onnx", write, source.network, image, step, source.history, measuring(config))
    )


def network_to_onnx(net: Generator, resolution: Resolution) -> onnx.ModelProto:
    """Trace a generator into a self-contained ONNX model.

    Args:
        net: In evaluation mode, float or fake-quantized.
        resolution: Size of the input and of the output.

    Returns:
        Model with input ``blurred`` and output ``restored``, both (1, 3, H, W) float32.

    Raises:
        ExportError: The size takes more memory than there is, or the result does not pass onnx's checker.
    """
    height, width = net.padded_size(resolution.height, resolution.width)
    padded = Resolution(width, height)
    model = _trace(_LastScale(net), padded)
    write_standard_fp8(model)
    share_constants(model)
    fold_constants(model)
    replace_batch_norms(model)
    quantized = fold_weight_quantizers(model)
    _pad_and_crop(model, resolution, padded)
    _strip(model)
    drop_idle_casts(model)
    if quantized:
        quantize_before_concat(model)
        halve_float_weights(model)
    merge_duplicates(model)
    shorten(model)
    add_deform_conv_functions(model)
    model.ir_version = min(model.ir_version, 10)
    model.producer_name = "deblur-deploy"
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as err:
        raise ExportError(
            f"the exported graph is invalid: {err}", hint="please report this with the checkpoint"
        ) from err
    return model


class _LastScale(nn.Module):
    """The generator without padding: what is left is static once the input's size is."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, blurred: Tensor) -> Tensor:
        estimates: list[Tensor] = self.net.forward_scales(blurred)  # type: ignore[operator]
        return estimates[-1]


def _trace(net: nn.Module, size: Resolution) -> onnx.ModelProto:
    """Run torch's TorchScript exporter, which is the one that knows fake-quantization modules."""
    try:
        return _run_exporter(net, size)
    except (RuntimeError, MemoryError) as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise ExportError(
            f"the network cannot be traced at {size}: {reason}",
            hint="tracing runs the network once; where memory is short, give a smaller --res",
        ) from err


def _run_exporter(net: nn.Module, size: Resolution) -> onnx.ModelProto:
    buffer = io.BytesIO()
    frame = torch.zeros(1, 3, size.height, size.width)
    with _deform_conv_symbolic(), warnings.catch_warnings(), torch.no_grad():
        # The exporter is deprecated, and warns of each Python number it freezes: at a fixed size all are meant to be.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (frame,),
            buffer,  # type: ignore[arg-type]  # a file object is taken too
            input_names=[_PADDED],
            output_names=[_UNCROPPED],
            opset_version=OPSET,
            custom_opsets={DOMAIN: 1},
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


@contextlib.contextmanager
def _deform_conv_symbolic() -> Iterator[None]:
    """While open, the exporter writes ``deblur::deform_conv2d`` as a ``deblur::DeformConv2d`` node."""
    name = "deblur::deform_conv2d"
    register_custom_op_symbolic(name, _write_deform_conv, OPSET)
    try:
        yield
    finally:
        unregister_custom_op_symbolic(name, OPSET)


def _write_deform_conv(graph: Any, x: Any, offset: Any, weight: Any, *geometry: Any) -> Any:
    """Symbolic of the operator; attributes and input order as ONNX ``DeformConv``."""
    stride, padding, dilation, groups, offset_groups = (value.node() for value in geometry)
    pads = _constant_ints(padding)
    node = graph.op(
        f"{DOMAIN}::{OP_TYPE}",
        x,
        weight,
        offset,
        strides_i=_constant_ints(stride),
        pads_i=pads * 2,
        dilations_i=_constant_ints(dilation),
        kernel_shape_i=weight.type().sizes()[2:],
        group_i=groups.t("value").item(),
        offset_group_i=offset_groups.t("value").item(),
    )
    return node.setType(graph.original_node.output().type())


def _constant_ints(node: Any) -> list[int]:
    """The value of a constant list: a tensor constant, or a list of scalar constants."""
    if node.kind() == "onnx::Constant":
        return [int(item) for item in node.t("value").reshape(-1)]
    return [int(value.node().t("value").item()) for value in node.inputs()]


def _pad_and_crop(model: onnx.ModelProto, size: Resolution, padded: Resolution) -> None:
    """Give the graph inputs and outputs of the size asked for: repeat the border inside, crop at the end."""
    graph = model.graph
    bottom, right = padded.height - size.height, padded.width - size.width
    before, after = [], []
    if (bottom, right) == (0, 0):
        _rename(graph, {_PADDED: INPUT, _UNCROPPED: OUTPUT})
    else:
        graph.initializer.extend(
            [
                helper.make_tensor("pads", onnx.TensorProto.INT64, [8], [0, 0, 0, 0, 0, 0, bottom, right]),
                helper.make_tensor("crop_start", onnx.TensorProto.INT64, [2], [0, 0]),
                helper.make_tensor("crop_end", onnx.TensorProto.INT64, [2], [size.height, size.width]),
                helper.make_tensor("crop_axes", onnx.TensorProto.INT64, [2], [2, 3]),
            ]
        )
        before = [helper.make_node("Pad", [INPUT, "pads"], [_PADDED], name="pad", mode="edge")]
        crop_inputs = [_UNCROPPED, "crop_start", "crop_end", "crop_axes"]
        after = [helper.make_node("Slice", crop_inputs, [OUTPUT], name="crop")]
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    shape = [1, 3, size.height, size.width]
    graph.input.append(helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, shape))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, shape))


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename values wherever nodes use them."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)


def _strip(model: onnx.ModelProto) -> None:
    """Drop source positions and scope names: on an unrolled network they outweigh the int8 weights."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    del model.graph.value_info[:]
    model.graph.ClearField("doc_string")
