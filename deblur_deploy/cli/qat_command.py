"""``deblur-deploy qat``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import (
    RUNS,
    Json,
    Out,
    Photos,
    Runs,
    Source,
    Steps,
    new_directory,
    scan_directory,
    with_tuning,
)
from deblur_deploy.cli.prune_command import is_float_checkpoint
from deblur_deploy.config import QatConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.quality.gain import format_db, format_share


def command(
    source: Source = None,
    exempt: Annotated[
        list[str] | None, typer.Option(help="A layer to keep in float, besides the first, the last and the offsets.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="A layer to quantize although it is the first, the last or gives offsets.")
    ] = None,
    format: Annotated[str, typer.Option(help="int8, or fp8 (E4M3).")] = "int8",
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Quantize weights and leave activations in float.")
    ] = False,
    reduce_range: Annotated[
        bool,
        typer.Option(help="Keep INT8 weights within 64 codes of 0: processors without VNNI then compute in INT8."),
    ] = True,
    calibrator: Annotated[str, typer.Option(help="Activation ranges by: max, percentile, entropy or mse.")] = "max",
    percentile: Annotated[float, typer.Option(help="For --calibrator percentile: percent within the range.")] = 99.99,
    max_drop: Annotated[
        float | None, typer.Option(help="Put sensitive layers back to float until at most so many dB are lost.")
    ] = None,
    scan: Annotated[bool, typer.Option("--scan", help="Only measure what each layer loses; write a table.")] = False,
    data: Photos = None,
    steps: Steps = None,
    runs: Runs = RUNS,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fake-quantize, calibrate, then fine-tune with the float network as teacher."""
    config = QatConfig(
        exempt=tuple(exempt or ()),
        include=tuple(include or ()),
        format=cast(Any, format),
        weights_only=weights_only,
        reduce_range=reduce_range,
        calibrator=cast(Any, calibrator),
        percentile=percentile,
        max_drop=max_drop,
    )
    config = with_tuning(config, data, steps)
    output = Output(as_json)
    artifact = output.source(source, runs, is_float_checkpoint)
    directory = scan_directory(out, runs) if scan else new_directory(out, runs, "qat")
    if scan:
        _scan(artifact, config, directory, output)
    else:
        _quantize(artifact, config, directory, output)


def _quantize(artifact: Artifact, config: QatConfig, directory: Path, output: Output) -> None:
    from deblur_deploy.compress.quantize import qat

    with output.tuning("fine-tuning") as on_step:
        quantized = qat(artifact, config, directory, on_step)
    figures = quantized.figures
    output.say(
        f"quality   {format_db(figures['psnr_untuned_db'])} dB calibrated, {format_db(figures['psnr_db'])} dB after "
        f"tuning, {format_db(figures['psnr_float_db'])} dB in float; gain kept: {format_share(figures['gain_kept'])}"
    )
    if exempted := figures.get("exempted"):
        output.say(f"budget    {figures['drop_db']:.3f} dB lost, with these back in float: {', '.join(exempted)}")
    output.wrote(quantized)


def _scan(artifact: Artifact, config: QatConfig, directory: Path, output: Output) -> None:
    from deblur_deploy.compress.quant_sensitivity import write_scan
    from deblur_deploy.compress.quantize import scan

    with output.tuning("scanning") as on_layer:
        report = scan(artifact, config, on_layer)
    paths = write_scan(report, directory)
    rows = [
        [item.layer, f"{item.drop_db:.4f}", format_share(report.gain_kept(item)), "float" if item.exempt else ""]
        for item in report.layers
    ]
    output.table(["layer", "dB lost alone", "gain kept", "exempt"], rows)
    output.say(f"float     {format_db(report.psnr_float_db)} dB, blurred {format_db(report.psnr_blurred_db)} dB")
    output.say(f"wrote     {' and '.join(map(str, paths))}")
    output.emit({**report.as_json(), "files": [str(path) for path in paths]})
