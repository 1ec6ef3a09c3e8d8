"""``deblur-deploy export-trt``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from deblur_deploy.artifact import Artifact
from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Out, Runs, Source, new_directory
from deblur_deploy.config import EngineConfig, ExportConfig, PrecisionConfig
from deblur_deploy.errors import ConfigError
from deblur_deploy.images import Resolution, parse_resolution
from deblur_deploy.runtime.runner import fixed_size


def is_exportable(artifact: Artifact) -> bool:
    """Whether an engine can be made from here."""
    return artifact.kind in ("checkpoint", "onnx")


def gives_engine(artifact: Artifact, resolution: Resolution | None, fp16: bool) -> bool:
    """Whether the engine that was asked for can be made from here, which is what is taken by default."""
    has_size = resolution is None or artifact.kind == "checkpoint" or fixed_size(artifact.image) == resolution
    has_type = fp16 or (artifact.network.quantization is None and artifact.stage != "to-fp16")
    return is_exportable(artifact) and has_size and has_type


def command(
    source: Source = None,
    fp16: Annotated[bool, typer.Option("--fp16/--fp32", help="Type of the engine's layers.")] = True,
    target: Annotated[
        str, typer.Option(help="Card or compute capability: 'RTX 2080 Ti', 2080ti, sm75.")
    ] = "RTX 2080 Ti",
    flavour: Annotated[Literal["auto", "rtx", "tensorrt"], typer.Option(help="auto, rtx or tensorrt.")] = "auto",
    res: Annotated[
        str | None, typer.Option(help="Picture size as WIDTHxHEIGHT. Left out: the ONNX artifact's own, else 640x360.")
    ] = None,
    runs: Runs = RUNS,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Build a TensorRT engine for a named card; no GPU is needed. A checkpoint is exported to ONNX on the way."""
    resolution = None if res is None else parse_resolution(res)
    from deblur_deploy.engine.build import build_engine, check_engine_config

    output = Output(as_json)
    config = EngineConfig(target=target, flavour=flavour, precision="fp16" if fp16 else "fp32")
    check_engine_config(config)
    fits = is_exportable if source else lambda found: gives_engine(found, resolution, fp16)
    artifact = output.source(source, runs, fits)
    directory = new_directory(out, runs, "engine")
    size = engine_size(artifact, resolution)
    output.say(f"input     1x3x{size.height}x{size.width} (NCHW)")
    typed = typed_onnx(output, artifact, ExportConfig(size.width, size.height), runs, fp16)
    engine = build_engine(typed, config, directory)
    report_engine(output, engine)
    output.wrote(engine)


def engine_size(artifact: Artifact, resolution: Resolution | None) -> Resolution:
    """The size of the engine's input: what was asked for, else the ONNX file's own, else 640x360."""
    fixed = fixed_size(artifact.image)
    if fixed and resolution and fixed != resolution:
        raise ConfigError(
            f"{artifact.directory} was exported for {fixed}, and --res {resolution} was asked for",
            hint="start from the checkpoint that it was made from, or leave --res out",
        )
    return fixed or resolution or Resolution(640, 360)


def typed_onnx(output: Output, artifact: Artifact, config: ExportConfig, runs: Path, fp16: bool) -> Artifact:
    """The ONNX artifact whose types are those of the engine to build, exported and converted as needed."""
    from deblur_deploy.export.precision import lower_precision
    from deblur_deploy.export.to_onnx import export_onnx

    if artifact.kind == "checkpoint":
        artifact = export_onnx(artifact, config, new_directory(None, runs, "onnx"))
        output.say(f"exported  {artifact.path}")
    if artifact.network.quantization is not None:
        if not fp16:
            raise ConfigError(
                f"{artifact.directory} is quantized, and --fp32 was asked for",
                hint="start from the float checkpoint that it was made from, or build with --fp16",
            )
        output.say("note      FP16 was asked for: the Q/DQ pairs are dropped, the fine-tuned weights are kept")
    if fp16 and artifact.stage != "to-fp16":
        artifact = lower_precision(
            artifact, PrecisionConfig(check_overflow=True), new_directory(None, runs, "onnx-fp16")
        )
        output.say(f"converted {artifact.path}")
    return artifact


def report_engine(output: Output, engine: Artifact) -> None:
    """Print what was built and what precision is proven."""
    figures = engine.figures
    shares = ", ".join(f"{share:.0%} of MACs in {kind}" for kind, share in figures["precision"].items() if share)
    output.say(f"engine    {figures['flavour']} {figures['flavour_version']} for {figures['target']}, proven {shares}")
