"""``deblur-deploy inspect``."""

from __future__ import annotations

import dataclasses
from typing import Any

from deblur_deploy.artifact import Artifact
from deblur_deploy.cli.console import Output, format_bytes
from deblur_deploy.cli.options import RUNS, Json, Runs, Source
from deblur_deploy.sources import describe


def command(source: Source = None, runs: Runs = RUNS, as_json: Json = False) -> None:
    """Say what an artifact is: kind, sizes, precision, widths, and every step that made it."""
    output = Output(as_json)
    artifact = output.source(source, runs, lambda _: True)
    facts = summarize(artifact)
    output.say(f"{describe(artifact)}, {format_bytes(facts['bytes'])}, sha256 {artifact.sha256}")
    output.say(
        f"network   {artifact.network.arch}, {facts['params']:,} parameters, {facts['gmacs']:.1f} GMACs at 640x360"
    )
    for name, value in artifact.network.config.items():
        output.say(f"          {name} = {value}")
    if artifact.network.quantization:
        exempt = ", ".join(artifact.network.quantization["exempt"])
        output.say(f"quantized INT8; in float: {exempt}, and deformable convolutions")
    if facts["precision"]:
        shares = ", ".join(f"{share:.1%} of MACs in {kind}" for kind, share in facts["precision"].items())
        output.say(f"precision {shares}")
    for step in artifact.history:
        psnr = step.figures.get("psnr_db")
        quality = f", {psnr:.2f} dB" if psnr is not None else ""
        output.say(f"step      {step.created[:19]} {step.stage}: {format_bytes(step.figures['bytes'])}{quality}")
    output.emit(facts)


def summarize(artifact: Artifact) -> dict[str, Any]:
    """The facts about an artifact as plain data, keys as documented for ``--json``.

    ``precision`` is null for a quantized checkpoint: it only simulates INT8, and is measured when it is exported.
    """
    figures = artifact.figures
    if artifact.kind == "checkpoint":
        precision = None if artifact.network.quantization else {"fp32": 1.0}
    else:
        precision = figures["precision"]
    return {
        "kind": artifact.kind,
        "stage": artifact.stage,
        "bytes": artifact.path.stat().st_size,
        "params": figures["params"],
        "gmacs": figures["gmacs"],
        "multiple_of": artifact.image.multiple_of,
        "precision": precision,
        "history": [dataclasses.asdict(step) for step in artifact.history],
    }
