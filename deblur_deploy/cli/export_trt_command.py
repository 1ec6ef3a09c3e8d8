"""``deblur-deploy export-trt``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.engine_options import (
    DEFAULT_SIZE,
    Batch,
    Compatibility,
    MaxRes,
    MinRes,
    OptimizationLevel,
    OptRes,
    Plugin,
    Refit,
    Res,
    StripWeights,
    Target,
    TimingCache,
    VersionCompatible,
    Workspace,
    parse_batch,
    with_default_size,
    with_precision_flags,
    workspace_bytes,
)
from deblur_deploy.cli.export_onnx_command import report_difference
from deblur_deploy.cli.options import RUNS, Json, Out, Runs, Source, new_directory
from deblur_deploy.config import (
    DEFAULT_PRECISION,
    PRECISIONS,
    EngineConfig,
    ExportConfig,
    PlanConfig,
    Precision,
    PrecisionConfig,
    QatConfig,
    ShapeConfig,
    precision_of_stage,
)
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import ImageSpec, Resolution, parse_resolution
from deblur_deploy.runtime.runner import fixed_size

_NAMED = 3
WELL_WITHIN = 0.999
"""As ``export/typed_check.py`` has it."""


def is_exportable(artifact: Artifact) -> bool:
    """Whether an engine can be made from here."""
    return artifact.kind in ("checkpoint", "onnx")


def gives_engine(
    artifact: Artifact, resolution: Resolution | None, precision: Precision, *, free_sizes: bool = False
) -> bool:
    """Whether the requested engine can be made from here; such an artifact is the default source.

    Args:
        artifact: A candidate.
        resolution: The one size asked for, or None for any.
        precision: The engine's.
        free_sizes: Whether several sizes or pictures at a time were asked for, which an exported file must leave free.
    """
    fixed = None if artifact.kind == "checkpoint" else fixed_size(artifact.image)
    has_size = fixed is None if free_sizes else resolution is None or fixed in (None, resolution)
    return is_exportable(artifact) and has_size and _has_type(artifact, precision)


def _has_type(artifact: Artifact, precision: Precision) -> bool:
    """Whether a network of this precision can be made from here."""
    row = PRECISIONS[precision]
    if row.quantization:
        return _runs_quantized(artifact, row.quantization)
    if typed := precision_of_stage(artifact.stage):
        return typed == precision
    return row.takes_quantized or artifact.network.quantization is None


def _runs_quantized(artifact: Artifact, wanted: str) -> bool:
    """Whether weights and activations are quantized in this format."""
    quantization = artifact.network.quantization
    return quantization is not None and not quantization.get("weights_only") and quantization.get("format") == wanted


@with_precision_flags
def command(
    source: Source = None,
    precision: Precision = DEFAULT_PRECISION,
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option("--keep-fp32", help="Layers that stay float32, by name: '/head/*'. May be given several times."),
    ] = None,
    temporal: Annotated[
        bool, typer.Option("--temporal", help="Of a temporal checkpoint: with the frame before as further inputs.")
    ] = False,
    target: Target = "RTX 2080 Ti",
    flavour: Annotated[Literal["auto", "rtx", "tensorrt"], typer.Option(help="auto, rtx or tensorrt.")] = "auto",
    res: Res = None,
    min_res: MinRes = None,
    opt_res: OptRes = None,
    max_res: MaxRes = None,
    batch: Batch = "1",
    workspace: Workspace = None,
    timing_cache: TimingCache = None,
    strip_weights: StripWeights = False,
    refit: Refit = False,
    version_compatible: VersionCompatible = False,
    hardware_compatibility: Compatibility = "none",
    optimization_level: OptimizationLevel = None,
    plugin: Plugin = "auto",
    runs: Runs = RUNS,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Build a TensorRT engine for a named card; no GPU is needed. A checkpoint is exported to ONNX on the way."""
    shapes = ShapeConfig(tuple(res or ()), min_res, opt_res, max_res, parse_batch(batch))
    cache = None if timing_cache is None else str(timing_cache)
    plan = PlanConfig(cache, strip_weights, refit, version_compatible, hardware_compatibility)
    scratch = workspace_bytes(workspace)
    config = EngineConfig(target, flavour, precision, scratch, optimization_level, shapes, plan, plugin)
    _build(Output(as_json), source, config, _Places(runs, out, tuple(keep_fp32 or ()), temporal))


@dataclass(frozen=True)
class _Places:
    """Where artifacts are found and written, which layers of the intermediate one stay float32, and what it takes."""

    runs: Path
    out: Path | None
    keep_fp32: tuple[str, ...]
    temporal: bool = False


def _build(output: Output, source: Path | None, config: EngineConfig, places: _Places) -> None:
    """Check, export as needed, build and report."""
    runs, out = places.runs, places.out
    shapes, precision = config.shapes, config.precision
    given = (*shapes.res, shapes.min_res, shapes.opt_res, shapes.max_res)
    sizes = [parse_resolution(text) for text in given if text is not None]
    resolution = sizes[0] if shapes.is_one_picture and sizes else None
    from deblur_deploy.engine.build import build_engine, check_engine_config

    check_engine_config(config)
    one_size = shapes.is_one_picture

    def fits(found: Artifact) -> bool:
        if source is not None:
            return is_exportable(found)
        return gives_engine(found, resolution, precision, free_sizes=not one_size)

    artifact = output.source(source, runs, fits)
    _check_type(artifact, precision)
    directory = new_directory(out, runs, "engine")
    if one_size:
        size = engine_size(artifact, resolution)
        output.say(f"input     {_shape_text(artifact.image, size)}")
        config = replace(config, shapes=replace(shapes, res=(str(size),)))
    else:
        _check_free_sizes(artifact)
        size = sizes[-1] if sizes else DEFAULT_SIZE
        config = replace(config, shapes=with_default_size(shapes))
    export = ExportConfig(size.width, size.height, dynamic=not one_size, temporal=places.temporal)
    typing = PrecisionConfig(places.keep_fp32, check_overflow=True, precision=precision)
    typed = typed_onnx(output, artifact, export, runs, typing)
    engine = build_engine(typed, config, directory)
    report_engine(output, engine)
    output.wrote(engine)


def _shape_text(image: ImageSpec, size: Resolution) -> str:
    """Shape and layout of the engine's input."""
    if image.dtype == "uint8":
        return f"1x{size.height}x{size.width}x3 (NHWC, uint8)"
    return f"1x3x{size.height}x{size.width} (NCHW)"


def _check_free_sizes(artifact: Artifact) -> None:
    """Refuse several sizes of a network that has one."""
    if fixed_size(artifact.image):
        raise ConfigError(
            f"several sizes or pictures at a time were asked for, which {artifact.directory} does not leave free",
            hint="start from an ONNX artifact with free sizes: `deblur-deploy export-onnx --dynamic`",
        )


def _check_type(artifact: Artifact, precision: Precision) -> None:
    """Refuse a precision that the source's network cannot be written in."""
    row, quantized = PRECISIONS[precision], artifact.network.quantization is not None
    if row.quantization and not _runs_quantized(artifact, row.quantization):
        how = "qat" if row.quantization == QatConfig.format else f"qat --format {row.quantization}"
        raise ConfigError(
            f"--{precision} was asked for, and {artifact.directory} is not quantized to {row.quantization}",
            hint=f"`deblur-deploy {how}` makes such a network; an engine without one: --{DEFAULT_PRECISION}",
        )
    if precision_of_stage(artifact.stage) not in (None, precision):
        raise ConfigError(
            f"{artifact.directory} has its types from {artifact.stage}, and --{precision} was asked for",
            hint="start from the ONNX artifact or the checkpoint that it was made from",
        )
    if quantized and not (row.quantization or row.takes_quantized):
        raise ConfigError(
            f"{artifact.directory} is quantized, and --{precision} was asked for",
            hint=f"start from the float checkpoint that it was made from, or build with --{DEFAULT_PRECISION}",
        )


def engine_size(artifact: Artifact, resolution: Resolution | None) -> Resolution:
    """The size of the engine's input: what was asked for, else the ONNX file's own, else 640x360."""
    fixed = fixed_size(artifact.image)
    if fixed and resolution and fixed != resolution:
        raise ConfigError(
            f"{artifact.directory} was exported for {fixed}, and --res {resolution} was asked for",
            hint="start from the checkpoint that it was made from, or leave --res out",
        )
    return fixed or resolution or DEFAULT_SIZE


def typed_onnx(
    output: Output, artifact: Artifact, export: ExportConfig, runs: Path, config: PrecisionConfig
) -> Artifact:
    """The ONNX artifact whose types are those of the engine to build, exported and converted as needed."""
    from deblur_deploy.export.precision import lower_precision
    from deblur_deploy.export.to_onnx import export_onnx

    row = PRECISIONS[config.precision]
    if artifact.kind == "checkpoint":
        artifact = export_onnx(artifact, export, new_directory(None, runs, "onnx"))
        output.say(f"exported  {artifact.path}")
        report_difference(output, artifact)
    if row.takes_quantized and artifact.network.quantization is not None:
        label = config.precision.upper()
        output.say(f"note      {label} was asked for: the Q/DQ pairs are dropped, the fine-tuned weights are kept")
    if row.stage is None:
        if config.keep_fp32:
            raise ConfigError(
                f"--keep-fp32 was given, and --{config.precision} has the types of the exported file",
                hint="exempt layers of a quantized network in `deblur-deploy qat`, or leave it out",
            )
        return artifact
    if artifact.stage == row.stage:
        if config.keep_fp32:
            raise ConfigError(
                f"--keep-fp32 was given, and {artifact.directory} already has its types",
                hint="start from the ONNX artifact or the checkpoint that it was made from",
            )
        return artifact
    artifact = lower_precision(artifact, config, new_directory(None, runs, f"onnx-{config.precision}"))
    output.say(f"converted {artifact.path}")
    report_types(output, artifact)
    return artifact


def report_types(output: Output, typed: Artifact) -> None:
    """Print what the comparison of a typed network with the float32 one found."""
    figures = typed.figures
    if kept := figures.get("kept_fp32"):
        more = f" and {len(kept) - _NAMED} more" if len(kept) > _NAMED else ""
        output.say(f"note      kept in float32 after a trial: {', '.join(kept[:_NAMED])}{more}")
    within = figures.get("probe_within", 1.0)
    if within < min(WELL_WITHIN, figures.get("probe_noise", 1.0)):
        output.say(
            f"warning   on {figures['probe_worst']} {1 - within:.1%} of the samples are more than a "
            "level off the float32 network's; --keep-fp32 '/layer/*' keeps more layers in float32"
        )
    if reason := figures.get("overflow_unchecked"):
        output.say(f"note      not compared with the float32 network: {reason}")


def report_engine(output: Output, engine: Artifact) -> None:
    """Print what was built and what precision is proven."""
    from deblur_deploy.engine.proof import UNPROVEN

    figures = engine.figures
    proven = {kind: share for kind, share in figures["precision"].items() if share and kind != UNPROVEN}
    shares = ", ".join(f"{share:.0%} of MACs in {kind}" for kind, share in proven.items())
    precision = f"proven {shares}" if proven else "precision unproven"
    output.say(f"engine    {figures['flavour']} {figures['flavour_version']} for {figures['target']}, {precision}")
    if reason := figures.get("precision_unproven_because"):
        output.say(f"unproven  {figures['precision'].get(UNPROVEN, 0.0):.0%} of MACs: {reason}")
    if reason := figures.get("size_because"):
        output.say(f"note      {figures['bytes'] / 1e6:.0f} MB: {reason}")
    for profile in figures["profiles"]:
        low, best, high = ("x".join(map(str, profile[end])) for end in ("min", "opt", "max"))
        output.say(f"shapes    {best}" if low == high else f"shapes    {low} to {high}, tuned for {best}")
