"""``deblur-deploy inspect``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from deblur_deploy.cli.console import Output, format_bytes
from deblur_deploy.cli.options import RUNS, Json, Runs, Source
from deblur_deploy.core.artifact import Artifact, Step
from deblur_deploy.core.sources import describe
from deblur_deploy.quality.gain import format_db, format_share, gain_of, lost_db, same_pairs

_HEADINGS = (
    *("step", "finished (UTC)", "size on disk", "parameters", "GMACs"),
    *("PSNR dB", "dB lost", "gain kept", "SSIM (matlab)"),
)


def command(
    source: Source = None,
    layers: Annotated[bool, typer.Option("--layers", help="List every layer, with Polygraphy.")] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Say what an artifact is: kind, sizes, precision, widths, and every step that made it."""
    output = Output(as_json)
    artifact = output.source(source, runs, lambda _: True)
    facts = summarize(artifact)
    output.say(f"{describe(artifact)}, {format_bytes(facts['bytes'])}, sha256 {artifact.sha256}")
    gmacs = "GMACs not known" if facts["gmacs"] is None else f"{facts['gmacs']:.1f} GMACs at 640x360"
    output.say(f"network   {artifact.network.arch}, {facts['params']:,} parameters, {gmacs}")
    for name, value in artifact.network.config.items():
        output.say(f"          {name} = {value}")
    if artifact.network.quantization:
        output.say(f"quantized {_describe_scheme(artifact.network.quantization)}")
    if facts["precision"]:
        shares = ", ".join(f"{share:.1%} of MACs in {kind}" for kind, share in facts["precision"].items())
        output.say(f"precision {shares}")
    if facts["bytes_by_category"]:
        parts = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in facts["bytes_by_category"].items())
        output.say(f"bytes     {parts}")
    for finding in facts["findings"] or ():
        output.say(f"fusion    {finding['node']}: {finding['text']}")
    output.say("")
    output.table(_HEADINGS, waterfall(artifact.history))
    if layers:
        from deblur_deploy.engine.layers import list_layers

        facts["layers"] = list_layers(artifact)
        output.say(facts["layers"])
    output.emit(facts)


def waterfall(history: Sequence[Step]) -> list[list[str]]:
    """One row for each step: what it left, what it cost in PSNR, and how much of the gain is kept.

    The cost is against the step before, the gain that of the network before compression. A dash is not measured.

    Args:
        history: An artifact's steps, oldest first.
    """
    rows: list[list[str]] = []
    cost: dict[str, Any] = {}
    before: dict[str, Any] = {}
    for number, step in enumerate(history, start=1):
        cost |= {name: step.figures[name] for name in ("params", "gmacs") if name in step.figures}
        is_measured = "psnr_db" in step.figures
        rows.append(
            [
                step.stage,
                step.created[:19].replace("T", " "),
                format_bytes(step.figures["bytes"]),
                f"{cost['params']:,}" if "params" in cost else "–",
                _decimals(cost.get("gmacs"), 1),
                format_db(step.figures["psnr_db"]) if is_measured else "–",
                _decimals(
                    lost_db(before["psnr_db"], step.figures["psnr_db"]) if same_pairs(before, step.figures) else None, 2
                ),
                _gain_kept(history[:number]),
                _decimals(step.figures.get("ssim_matlab"), 4),
            ]
        )
        before = step.figures if is_measured else before
    return rows


def _gain_kept(history: Sequence[Step]) -> str:
    """The share of the original's gain that the last of these steps left."""
    figures = history[-1].figures
    found = gain_of(history, figures) if "psnr_db" in figures else {}
    return format_share(found["gain_kept"]) if found else "–"


def _decimals(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # no minus zero


def summarize(artifact: Artifact) -> dict[str, Any]:
    """The facts about an artifact as plain data, keys as documented for ``--json``.

    ``precision`` is null for a quantized checkpoint: it only simulates INT8, and is measured when it is exported.
    ``bytes_by_category`` and ``findings`` (places where quantizers break fusion) are null but for ONNX files.
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
        **_graph_facts(artifact),
        "history": [dataclasses.asdict(step) for step in artifact.history],
    }


def _graph_facts(artifact: Artifact) -> dict[str, Any]:
    """What is read off the graph of an ONNX artifact."""
    if artifact.kind != "onnx":
        return {"bytes_by_category": None, "findings": None}
    import onnx

    from deblur_deploy.graph.lint import lint
    from deblur_deploy.graph.shrink import bytes_by_category

    model = onnx.load(artifact.path)
    findings = [dataclasses.asdict(finding) for finding in lint(model)]
    return {"bytes_by_category": bytes_by_category(model), "findings": findings}


def _describe_scheme(quantization: dict[str, Any]) -> str:
    """A quantization in a few words."""
    what = quantization["format"].upper() + (", weights only" if quantization["weights_only"] else "")
    what += ", reduced range" if quantization.get("reduce_range") else ""
    exempt = ", ".join(quantization["exempt"])
    return f"{what}, ranges by {quantization['calibrator']}; in float: {exempt or 'nothing'}"
