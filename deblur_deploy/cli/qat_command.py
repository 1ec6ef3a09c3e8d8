"""``deblur-deploy qat``."""

from __future__ import annotations

from typing import Annotated

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Out, Photos, Runs, Source, Steps, new_directory
from deblur_deploy.cli.prune_command import is_float_checkpoint
from deblur_deploy.cli.tuning import with_tuning
from deblur_deploy.config import QatConfig


def command(
    source: Source = None,
    exempt: Annotated[
        list[str] | None, typer.Option(help="A layer to keep in float, beside the first, the last and the offsets.")
    ] = None,
    data: Photos = None,
    steps: Steps = None,
    runs: Runs = RUNS,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fake-quantize to INT8, calibrate, then fine-tune with the float network as teacher."""
    config = with_tuning(QatConfig(exempt=tuple(exempt or ())), data, steps)
    from deblur_deploy.compress.quantize import qat

    output = Output(as_json)
    artifact = output.source(source, runs, is_float_checkpoint)
    with output.tuning("fine-tuning") as on_step:
        quantized = qat(artifact, config, new_directory(out, runs, "qat"), on_step)
    figures = quantized.figures
    output.say(f"quality   {figures['psnr_untuned_db']:.2f} dB calibrated, {figures['psnr_db']:.2f} dB after tuning")
    output.wrote(quantized)
