"""``deblur-deploy export-onnx``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Out, Res, Runs, Source, new_directory
from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.images import parse_resolution
from deblur_deploy.runtime.runner import fixed_size


def is_checkpoint(artifact: Artifact) -> bool:
    """Whether a graph can be exported from here."""
    return artifact.kind == "checkpoint"


def command(
    source: Source = None,
    res: Res = "640x360",
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic", help="Leave batch, height and width free; --res is then the size that figures are for."
        ),
    ] = False,
    io: Annotated[
        Literal["float", "uint8"],
        typer.Option(help="float: NCHW in [0, 1]. uint8: camera frames, NHWC, converted inside the graph."),
    ] = "float",
    deform_op: Annotated[
        Literal["plugin", "standard", "native"],
        typer.Option(help="plugin: deblur::DeformConv2d. standard: DeformConv. native: GridSample and Conv."),
    ] = "plugin",
    temporal: Annotated[
        bool, typer.Option("--temporal", help="Of a temporal network: with the frame before as further inputs.")
    ] = False,
    evaluation: Annotated[
        Path | None, typer.Option("--data", help="Folder to measure quality on. Left out: the shipped pairs.")
    ] = None,
    evaluate: Annotated[bool, typer.Option("--eval/--no-eval", help="Measure the quality of the file.")] = True,
    runs: Runs = RUNS,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Write one ONNX file, for one size or for all, with int8 weights for a quantized source."""
    resolution = parse_resolution(res)
    pairs = str(evaluation) if evaluation else None
    config = ExportConfig(
        resolution.width, resolution.height, evaluate, pairs, dynamic, io, deform_op, temporal=temporal
    )
    from deblur_deploy.export.to_onnx import export_onnx

    output = Output(as_json)
    artifact = output.source(source, runs, is_checkpoint)
    output.say(f"input     {describe_input(config)}")
    exported = export_onnx(artifact, config, new_directory(out, runs, "onnx"))
    report_quality(output, exported)
    output.wrote(exported)


def describe_input(config: ExportConfig) -> str:
    """Shape and type of a graph's input, such as ``1x3x360x640 (NCHW)``."""
    batch, height, width = ("N", "H", "W") if config.dynamic else ("1", str(config.height), str(config.width))
    if config.io == "uint8":
        return f"{batch}x{height}x{width}x3 (NHWC, uint8)"
    return f"{batch}x3x{height}x{width} (NCHW)"


def report_difference(output: Output, exported: Artifact) -> None:
    """Say where a file does not give what its network gives, or hides values that are not finite."""
    from deblur_deploy.export.fidelity import LEVEL

    figures = exported.figures
    found: dict[str, float | str] = figures.get("network_difference") or {}
    for runtime, apart in found.items():
        allowed = figures.get("network_difference_allowed", {}).get(runtime)
        if isinstance(apart, str):
            output.say(f"warning   {runtime} does not run the file: {apart}")
        elif apart > (allowed or LEVEL):
            by = f"in {runtime} the file differs from the network by {apart * 255:.1f} of 255 levels"
            if allowed:
                by += f" on this picture: {figures['network_difference_on'][runtime]}; quantization itself moves it by "
                by += f"{allowed * 255:.1f}"
            output.say(
                f"warning   {by}: an operator is computed differently there, such as a nearest resize by a fraction; "
                "restore with the checkpoint, or write that operator in another way"
            )
    for picture, layer in figures.get("infinite_inside", {}).items():
        output.say(f"warning   NaN or infinite values inside the file at {layer}, on this picture: {picture}")


def report_quality(output: Output, exported: Artifact) -> None:
    """Print what the file restores, where that was measured."""
    figures = exported.history[-1].figures
    report_difference(output, exported)
    if "psnr_db" in figures:
        pairs, runtime = figures["evaluation_images"], "onnxruntime"
        size = fixed_size(exported.image)
        part = f", of each the middle {size}: not to be held against figures of whole ones" if size else ""
        output.say(f"quality   {figures['psnr_db']:.2f} dB in {runtime}, mean of {pairs} photographs{part}")
    elif reason := figures.get("quality_skipped"):
        output.say(f"note      quality was not measured: {reason}")
