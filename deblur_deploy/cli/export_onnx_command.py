"""``deblur-deploy export-onnx``."""

from __future__ import annotations

from deblur_deploy.artifact import Artifact
from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Out, Res, Runs, Source, new_directory
from deblur_deploy.config import ExportConfig
from deblur_deploy.images import parse_resolution


def is_checkpoint(artifact: Artifact) -> bool:
    """Whether a graph can be exported from here."""
    return artifact.kind == "checkpoint"


def command(
    source: Source = None, res: Res = "640x360", runs: Runs = RUNS, out: Out = None, as_json: Json = False
) -> None:
    """Write one ONNX file: deblur::DeformConv2d with its meaning inside, int8 weights for a quantized source."""
    resolution = parse_resolution(res)
    config = ExportConfig(resolution.width, resolution.height)
    from deblur_deploy.export.to_onnx import export_onnx

    output = Output(as_json)
    artifact = output.source(source, runs, is_checkpoint)
    output.say(f"input     1x3x{resolution.height}x{resolution.width} (NCHW)")
    output.wrote(export_onnx(artifact, config, new_directory(out, runs, "onnx")))
