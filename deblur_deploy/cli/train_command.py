"""``deblur-deploy train``."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Out, Runs, new_directory
from deblur_deploy.config import RunConfig, TrainConfig, UnpairedConfig
from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.sources import describe


def command(
    recipe: Annotated[Path, typer.Argument(help="TOML file with widths, blur, losses and schedule.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of pairs or of sharp photographs, instead of the recipe's.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Float checkpoint to go on from: widened where the recipe's base, depths or stem are larger, and of "
            "its own widths where the recipe has none. Left out: random weights."
        ),
    ] = None,
    unpaired: Annotated[
        Path | None,
        typer.Option(
            help="Folder of blurred pictures and films, or one film, without sharp twins: train on them beside the "
            "sharp photographs of --data, by cycle consistency. Needs --init."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run that --out names.")] = False,
    save_minutes: Annotated[float, typer.Option(help="Minutes between two saved states of the run.")] = 10.0,
    vgg_weights: Annotated[
        Path | None, typer.Option(help="torchvision's VGG19 weights, where the recipe has a perceptual loss.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write scalars and sample pictures to OUT.training/tensorboard.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for decoded photographs, where they do not fit into memory.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that make crops beside the training.")] = 1,
    runs: Runs = RUNS,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Train a generator on photographs; several GPUs: `accelerate launch -m deblur_deploy.cli train …`.

    Ctrl-C saves the state of the run before it ends, and --resume goes on from there, bit for bit.
    """
    _check_named(out, resume)
    vgg, decoded = (str(path) if path else None for path in (vgg_weights, cache))
    run = RunConfig(resume, save_minutes, vgg, tensorboard, decoded, workers)
    from deblur_deploy.training.train import load_recipe, train

    output = Output(as_json)
    config = load_recipe(recipe)
    if data is not None:
        config = dataclasses.replace(config, photos=str(data))
    if unpaired is not None:
        footage = dataclasses.replace(config.unpaired or UnpairedConfig(), blurred=str(unpaired))
        config = dataclasses.replace(config, unpaired=footage)
    source = load_artifact(init) if init else None
    is_first = os.environ.get("RANK", "0") == "0"
    if is_first and source:
        _announce(output, source, config)
    directory = new_directory(out, runs, "train") if is_first or out is None else out  # the first process writes
    with _explained_interrupt(output, directory, is_first), output.tuning("training") as on_step:
        artifact = train(source, config, directory, on_step, run)
    if is_first:
        _report(output, artifact)


def _check_named(out: Path | None, resume: bool) -> None:
    """Refuse a run that cannot choose its own directory and was given none."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if out is None and (resume or several):
        reason = "--resume" if resume else "training in several processes"
        raise ConfigError(f"{reason} needs --out", hint="name the run's directory, such as --out runs/train-001")


def _announce(output: Output, source: Artifact, config: TrainConfig) -> None:
    """Say what the run starts from, and whether it is widened."""
    from deblur_deploy.training.train import planned_network, widened_from

    output.say(f"init      {source.directory} ({describe(source)})")
    if narrow := widened_from(source, config):
        before, after = dataclasses.asdict(narrow), dataclasses.asdict(planned_network(source, config))
        changes = [f"{name} {before[name]} to {after[name]}" for name in before if before[name] != after[name]]
        same = before["stem"] == after["stem"]
        start = "computing the same" if same else "restoring what the source restores of the picture at a smaller size"
        output.say(f"widens    {', '.join(changes)}; it starts out {start}")


@contextmanager
def _explained_interrupt(output: Output, directory: Path, is_first: bool) -> Iterator[None]:
    """Where the block is interrupted, name the command that goes on, if there is a state to go on from."""
    from deblur_deploy.training.train import state_folder

    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        folder = state_folder(directory)
        if is_first and any(folder.glob("state-*")):
            given = [word for word in sys.argv[1:] if word != "--resume"]
            if not any(word == "--out" or word.startswith("--out=") for word in given):
                given += ["--out", str(directory)]
            output.say(f"state     {folder}")
            output.say(f"go on     {shlex.join(['deblur-deploy', *given, '--resume'])}")
        raise


def _report(output: Output, artifact: Artifact) -> None:
    figures = artifact.figures
    output.say(f"quality   {figures['psnr_db']:.2f} dB on the shipped pairs")
    if "unpaired" in figures:
        output.say(f"footage   {_footage(figures['unpaired'])}")
    share = figures["data_seconds"] / max(figures["seconds"], 1e-9)
    output.say(f"time      {figures['seconds']:.0f} s, {share:.0%} of it waiting for crops")
    output.wrote(artifact)


def _footage(found: Mapping[str, Any]) -> str:
    """What the guard of a run on footage found, in a sentence."""
    checks = {step: "no picture" if psnr is None else f"{psnr:.2f} dB" for step, psnr in found["checks"]}
    last = max(checks)
    seen = f"{found['footage']} blurred pictures; on the shipped pairs {checks[0]} at the start"
    if found["turned_at"] is None:
        return f"{seen}, {checks[last]} at the end"
    kept = found["kept_step"]
    state = f"the state of step {kept}, {checks[kept]}" if kept else "what it started from"
    return f"{seen}, {checks[last]} at step {last}, where the run turned and was ended; kept: {state}"
