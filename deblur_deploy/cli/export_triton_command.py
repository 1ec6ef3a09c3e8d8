"""``deblur-deploy export-triton``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Runs, Source, claim
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.files import check_writable


def is_servable(artifact: Artifact) -> bool:
    """Whether Triton has a backend for it."""
    return artifact.kind == "onnx" or artifact.figures.get("flavour") == "tensorrt"


def command(
    source: Source = None,
    out: Annotated[Path, typer.Option(help="Directory to make.")] = Path("triton"),
    name: Annotated[str, typer.Option(help="What clients call the network.")] = "deblur",
    device: Annotated[str, typer.Option(help="Where it runs: auto, cpu or gpu.")] = "auto",
    instances: Annotated[int, typer.Option(help="Copies that run at the same time on each device.")] = 1,
    max_batch: Annotated[int, typer.Option(help="Largest batch to gather, where the graph's batch is free.")] = 0,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Write a model repository for Triton Inference Server, with a client to start from."""
    from deblur_deploy.export.triton import Device, TritonConfig, export_triton, tensors_of

    config = TritonConfig(name, cast(Device, device), instances, max_batch)
    check_writable(out)
    claim(out)
    output = Output(as_json)
    artifact = output.source(source, runs, is_servable)
    repository = export_triton(artifact, config, out)
    given, restored = tensors_of(artifact)
    output.say(f"takes     {given.name}, {given.data_type} of {'x'.join(map(str, given.dims))}")
    output.say(f"gives     {restored.name}, {restored.data_type} of {'x'.join(map(str, restored.dims))}")
    output.say(f"wrote     {repository}; {out / 'README.md'} says how to serve it, {out / 'client.py'} is a client")
    output.emit({"repository": str(repository), "name": name, "sha256": artifact.sha256})
