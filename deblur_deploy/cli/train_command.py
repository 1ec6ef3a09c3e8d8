"""``deblur-deploy train``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from deblur_deploy.artifact import load_artifact
from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Out, Runs, new_directory


def command(
    recipe: Annotated[Path, typer.Argument(help="TOML file with widths, shake and schedule.")],
    data: Annotated[Path | None, typer.Option(help="Folder of sharp photographs, instead of the recipe's.")] = None,
    init: Annotated[Path | None, typer.Option(help="Float checkpoint to go on from. Left out: random weights.")] = None,
    runs: Runs = RUNS,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Train a generator on sharp photographs that are given a synthetic camera shake."""
    from deblur_deploy.training.train import load_recipe, train

    output = Output(as_json)
    config = load_recipe(recipe)
    if data is not None:
        config = dataclasses.replace(config, photos=str(data))
    source = load_artifact(init) if init else None
    with output.tuning("training") as on_step:
        artifact = train(source, config, new_directory(out, runs, "train"), on_step)
    output.say(f"quality   {artifact.figures['psnr_db']:.2f} dB on the shipped pairs")
    output.wrote(artifact)
