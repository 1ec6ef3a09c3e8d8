"""Typed precision: an ONNX artifact written again in the types of an engine.

TensorRT 11 and TensorRT-RTX have no FP16 flag: an engine runs in the types that its network is written in. The table
:data:`~deblur_deploy.config.precisions.PRECISIONS` says who writes them; here the result is held against the float32
network (``typed_check.py``) and put in place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from deblur_deploy.config import PRECISIONS, ExportConfig, PrecisionConfig, load_converter
from deblur_deploy.core.artifact import Artifact, Draft, new_step, write_artifact
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.data.pairs import load_photos
from deblur_deploy.export.measuring import measuring
from deblur_deploy.graph.dequantize import drop_quantization
from deblur_deploy.graph.facts import write_facts
from deblur_deploy.graph.node_costs import precision_shares
from deblur_deploy.graph.padding import BATCH, HEIGHT, WIDTH
from deblur_deploy.runtime.runner import reason_unavailable

_CHECKED_PHOTOS = 2


def lower_precision(source: Artifact, config: PrecisionConfig, out: Path) -> Artifact:
    """Write an ONNX artifact again in the types of a precision and without quantization.

    Args:
        source: An ONNX artifact, float32 or quantized.
        config: The precision, and what stays float32.
        out: The new artifact's directory.

    Returns:
        An ONNX artifact with float32 inputs and outputs. Its figures gain ``precision``, the share of
        multiply-accumulates per type, ``dropped_qdq_pairs``, how many quantizers were taken out, and where it was held
        against the float32 network, those of :class:`~deblur_deploy.export.typed_check.Settled`; else
        ``overflow_unchecked`` with the reason.

    Raises:
        ArtifactError: ``source`` is not a readable ONNX artifact, or ``out`` cannot be written.
        ConfigError: A name to keep fits no node.
        ExportError: The network cannot be written in this precision, or gives NaN or infinite values in it.
    """
    floats, pairs = drop_quantization(load_model(source))
    row = PRECISIONS[config.precision]
    typed, figures = _convert(source, floats, config)
    image = source.image
    figures |= {"precision": shares_of(typed, image), "dropped_qdq_pairs": pairs}
    write_facts(typed, source, image)

    def write(path: Path) -> None:
        path.write_bytes(typed.SerializeToString(deterministic=True))

    draft = Draft(
        kind="onnx",
        file_name="model.onnx",
        write=write,
        network=dataclasses.replace(source.network, quantization=None),
        image=image,
        step=new_step(row.stage or f"to-{config.precision}", config, source, figures),
        earlier=source.history,
        measure=measuring(config) if row.runs_on_cpu else None,
    )
    return write_artifact(out, draft)


def _convert(
    source: Artifact, floats: onnx.ModelProto, config: PrecisionConfig
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The network in the types of a precision, and what was found about it."""
    converter = load_converter(PRECISIONS[config.precision])

    def convert(kept: Collection[str]) -> onnx.ModelProto:
        converted: onnx.ModelProto = converter(floats, config.keep_fp32, kept)
        return converted

    if not config.check_overflow:
        return convert(()), {}
    if reason := reason_unavailable(source, "onnxruntime"):
        return convert(()), {"overflow_unchecked": reason}
    from deblur_deploy.export.typed_check import settle_types  # it needs onnxruntime, which need not be there

    photos = load_photos(Path(config.calibration) if config.calibration else None)[:_CHECKED_PHOTOS]
    settled = settle_types(floats, convert, photos, source.image)
    return settled.model, settled.figures


def shares_of(typed: onnx.ModelProto, image: ImageSpec) -> dict[str, float] | None:
    """Share of the multiply-accumulates per type, or None where they cannot be counted.

    Of a network with free sizes it is that of one picture of the usual size.
    """
    sizes = {BATCH: 1, HEIGHT: image.height or ExportConfig.height, WIDTH: image.width or ExportConfig.width}
    return precision_shares(typed, sizes)


def load_model(source: Artifact) -> onnx.ModelProto:
    """Read the network of an ONNX artifact.

    Raises:
        ArtifactError: It is not an ONNX artifact, or cannot be read.
    """
    if source.kind != "onnx":
        raise ArtifactError(
            f"{source.directory} is a {source.kind}, and float16 types are written into an ONNX file",
            hint="export it first: `deblur-deploy export-onnx`",
        )
    try:
        return onnx.load(source.path)
    except DecodeError as err:
        raise ArtifactError(f"{source.path} is not an ONNX file: {err}", hint="export it again") from err
