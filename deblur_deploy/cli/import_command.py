"""``deblur-deploy import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Out, Runs, new_directory


def command(
    checkpoint: Annotated[Path, typer.Argument(help="state_dict as .pth or .pt, or a .safetensors file.")],
    arch: Annotated[str, typer.Option(help="Network that the checkpoint belongs to.")] = "srn",
    runs: Runs = RUNS,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Turn a trained checkpoint into an artifact. Widths are read off the weights, so pruned networks load too."""
    from deblur_deploy.network.checkpoint import import_checkpoint

    output = Output(as_json)
    artifact = import_checkpoint(checkpoint, arch, new_directory(out, runs, "import"))
    output.say(f"network   {arch}, {artifact.figures['params']:,} parameters, {artifact.figures['gmacs']:.1f} GMACs")
    output.wrote(artifact)
