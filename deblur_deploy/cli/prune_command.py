"""``deblur-deploy prune``."""

from __future__ import annotations

from typing import Annotated

import typer

from deblur_deploy.artifact import Artifact
from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Out, Photos, Runs, Source, Steps, new_directory
from deblur_deploy.cli.tuning import with_tuning
from deblur_deploy.config import PruneConfig


def is_float_checkpoint(artifact: Artifact) -> bool:
    """Whether pruning or quantization can start here."""
    return artifact.kind == "checkpoint" and artifact.network.quantization is None


def is_unpruned(artifact: Artifact) -> bool:
    """Whether this is a float checkpoint that was never pruned, which is what pruning takes by default."""
    return is_float_checkpoint(artifact) and all(step.stage != "prune" for step in artifact.history)


def command(
    source: Source = None,
    keep: Annotated[float, typer.Option(help="Share of the channels of every group to keep: 0.7 keeps 70 %.")] = 0.7,
    round_to: Annotated[int, typer.Option(help="Round kept channels down to a multiple of this.")] = 8,
    data: Photos = None,
    steps: Steps = None,
    runs: Runs = RUNS,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Keep the strongest channels of every group, then fine-tune with the unpruned network as teacher."""
    config = with_tuning(PruneConfig(keep=keep, round_to=round_to), data, steps)
    from deblur_deploy.compress.prune import prune

    output = Output(as_json)
    artifact = output.source(source, runs, is_float_checkpoint if source else is_unpruned)
    with output.tuning("fine-tuning") as on_step:
        pruned = prune(artifact, config, new_directory(out, runs, "prune"), on_step)
    report_groups(output, pruned)
    output.say(
        f"quality   {pruned.figures['psnr_untuned_db']:.2f} dB before, {pruned.figures['psnr_db']:.2f} dB after tuning"
    )
    output.wrote(pruned)


def report_groups(output: Output, pruned: Artifact) -> None:
    """Print what was kept of every group."""
    rows = [
        [", ".join(group["layers"]), str(group["before"]), str(group["after"]), f"{group['share']:.1%}"]
        for group in pruned.figures["groups"]
    ]
    output.table(["group", "before", "kept", "share"], rows)
