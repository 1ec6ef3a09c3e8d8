"""From a checkpoint to one ONNX file that every runtime reads.

The network is traced at a size that its pyramid divides; padding and cropping are put around it (``padding.py``), so
the file takes and gives exactly the size that was asked for, or any. The deformable convolution is a
``deblur::DeformConv2d`` node with a local function (see ``graph/deform_op.py``), or one of the other forms of
``deform_op.py``. A quantized network comes out with QuantizeLinear/DequantizeLinear pairs
on activations and with weights stored as int8 or float8; what stays in float is stored as float16.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from deblur_deploy.config import DeformOp, ExportConfig, Io
from deblur_deploy.core.artifact import Artifact, Draft, new_step, write_artifact
from deblur_deploy.core.images import ImageSpec, Resolution
from deblur_deploy.export.fidelity import comparing
from deblur_deploy.export.measuring import measuring
from deblur_deploy.export.trace import trace, trace_any_size, trace_steps
from deblur_deploy.graph.check import check_graph
from deblur_deploy.graph.constant_folding import fold_constants
from deblur_deploy.graph.deform_op import OPSET, write_deform_op
from deblur_deploy.graph.edit import share_constants
from deblur_deploy.graph.facts import write_facts
from deblur_deploy.graph.frames import take_frames
from deblur_deploy.graph.node_costs import precision_shares
from deblur_deploy.graph.padding import BATCH, HEIGHT, WIDTH, pad_any_size, pad_to_size
from deblur_deploy.graph.plain_forms import replace_batch_norms, write_pads
from deblur_deploy.graph.quantized_weights import (
    drop_idle_casts,
    fold_weight_quantizers,
    quantize_before_concat,
    write_standard_fp8,
)
from deblur_deploy.graph.shrink import halve_float_weights, merge_duplicates, shorten
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.network.deform_conv import DeformConv2d
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.srn import SRN
from deblur_deploy.network.steps import not_temporal
from deblur_deploy.network.temporal import state_shape


def export_onnx(source: Artifact, config: ExportConfig, out: Path) -> Artifact:
    """Write a checkpoint as an ONNX artifact.

    Args:
        source: A checkpoint, float or quantized.
        config: The graph's sizes and types.
        out: The artifact's directory.

    Raises:
        ArtifactError: ``source`` is not a checkpoint or ``out`` cannot be written.
        ExportError: The size takes more memory than there is, the network does not work at every size though that was
            asked for, the result does not pass onnx's checker, or it gives no numbers where the network gives a
            picture.
    """
    net = load_network(source)
    resolution = Resolution(config.width, config.height)
    if config.temporal:
        model = steps_to_onnx(_temporal(net, source), resolution, config.deform_op)
    else:
        model = network_to_onnx(net, None if config.dynamic else resolution, config.io, config.deform_op)
    image = _describe_image(config, net)
    write_facts(model, source, image)
    deformable = any(isinstance(layer, DeformConv2d) for layer in net.modules())
    sizes = {BATCH: 1, HEIGHT: config.height, WIDTH: config.width}
    figures = {
        "opset": OPSET,
        "deform_op": config.deform_op if deformable else None,
        "precision": precision_shares(model, sizes),
    }
    step = new_step("export-onnx", config, source, figures)

    def write(path: Path) -> None:
        path.write_bytes(model.SerializeToString(deterministic=True))

    return write_artifact(
        out, Draft("onnx", "model.onnx", write, source.network, image, step, source.history, _measures(net, config))
    )


def _measures(net: Generator, config: ExportConfig) -> Callable[[Artifact], dict[str, Any]]:
    """The measurements on a file before it is put in place."""
    wanted = [comparing(net, config) if config.compare else None, measuring(config)]

    def measure(artifact: Artifact) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for each in wanted:
            figures |= each(artifact) if each is not None else {}
        return figures

    return measure


def _describe_image(config: ExportConfig, net: Generator) -> ImageSpec:
    """What the graph takes. Where sizes are free, tiles of a picture should begin at multiples of the network's."""
    height, width = (None, None) if config.dynamic else (config.height, config.width)
    multiple_of = net.multiple_of if config.dynamic else 1
    if config.io == "uint8":
        return ImageSpec.of_frames(height, width, multiple_of)
    state = state_shape(net.config, config.height, config.width)[1:] if config.temporal else None
    return ImageSpec(multiple_of=multiple_of, height=height, width=width, state=state)


def _temporal(net: Generator, source: Artifact) -> SRN:
    """The network, if it takes the frame before.

    Raises:
        ConfigError: It does not.
    """
    if isinstance(net, SRN) and net.config.temporal:
        return net
    raise not_temporal(source.directory)


def network_to_onnx(
    net: Generator, resolution: Resolution | None, io: Io = "float", deform_op: DeformOp = "plugin"
) -> onnx.ModelProto:
    """Trace a generator into a self-contained ONNX model.

    Args:
        net: In evaluation mode, float or fake-quantized.
        resolution: Size of the input and of the output; None leaves batch, height and width free.
        io: ``float`` takes (N, 3, H, W) float32, ``uint8`` camera frames, (N, H, W, 3).
        deform_op: How the deformable convolution is written.

    Returns:
        Model with input ``blurred`` and output ``restored``, N = 1 where the size is fixed.

    Raises:
        ExportError: The size takes more memory than there is, the network does not work at every size though that was
            asked for, or the result does not pass onnx's checker.
    """
    if resolution:
        height, width = net.padded_size(resolution.height, resolution.width)
        model = trace(net, Resolution(width, height))
    else:
        model = trace_any_size(net)
    quantized = _simplify(model)
    if resolution:
        pad_to_size(model, resolution, Resolution(width, height))
    else:
        pad_any_size(model, net.multiple_of, net.smallest_side)
    _shrink(model, quantized)
    if io == "uint8":
        take_frames(model)
    return _finish(model, deform_op)


def steps_to_onnx(net: SRN, resolution: Resolution, deform_op: DeformOp = "plugin") -> onnx.ModelProto:
    """Trace a temporal network into a self-contained ONNX model that takes the frame before, too.

    Args:
        net: In evaluation mode, float or fake-quantized.
        resolution: Size of the frames.
        deform_op: How the deformable convolution is written.

    Returns:
        Model with the inputs ``blurred``, ``before``, ``state``, ``flow`` and ``trust``, and the outputs ``restored``
        and ``state_out`` (see :class:`~deblur_deploy.network.temporal.TemporalStep`).

    Raises:
        ExportError: As for :func:`network_to_onnx`.
    """
    model = trace_steps(net, resolution)
    for value, like in zip(model.graph.output, (model.graph.input[0], model.graph.input[2]), strict=True):
        value.type.CopyFrom(like.type)  # the tracer does not see that padding is cut off again
    _shrink(model, _simplify(model))
    return _finish(model, deform_op)


def _simplify(model: onnx.ModelProto) -> bool:
    """Rewrite what the exporter wrote in a way that runtimes do not want, in place; whether it is quantized."""
    write_standard_fp8(model)
    share_constants(model)
    fold_constants(model)
    write_pads(model)
    replace_batch_norms(model)
    return fold_weight_quantizers(model) > 0


def _shrink(model: onnx.ModelProto, quantized: bool) -> None:
    drop_idle_casts(model)
    if quantized:
        quantize_before_concat(model)
        halve_float_weights(model)
    merge_duplicates(model)
    shorten(model)


def _finish(model: onnx.ModelProto, deform_op: DeformOp) -> onnx.ModelProto:
    model = write_deform_op(model, deform_op)
    model.ir_version = min(model.ir_version, 10)
    model.producer_name = "deblur-deploy"
    check_graph(model, "the exported graph is invalid", "please report this with the checkpoint")
    return model
