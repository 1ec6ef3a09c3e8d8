"""The published claims that this toolkit inherits: measured where they can be, and met, missed or unproven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from engines import FP16_ENGINE, FP32_ENGINE, engine_entries
from measurement import Measurement, Target, spaced, time_rows

from deblur_deploy.bench.entries import BenchEntry, entries_of
from deblur_deploy.bench.measure import BenchConfig
from deblur_deploy.bench.row import BenchRow
from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.sources import shipped

Quantity = Literal["size-ratio", "fp16-speedup", "fp16-fps", "fp32-ms", "best-ms"]

_UNITS: Mapping[str, str] = {
    "size-ratio": "of the size",
    "fp16-speedup": "×",
    "fp16-fps": "fps",
    "fp32-ms": "ms",
    "best-ms": "ms",
}
HEADINGS = ("claim", "read here as", "", "our figure", "measured on")


@dataclass(frozen=True)
class Claim:
    """A published claim as plain data.

    Args:
        claim: What was published.
        reading: What has to be measured for it.
        quantity: Which of the measurements that is.
        bound: What it must be.
        device: What the processor's or GPU's name must contain for the figure to count; empty where any will do.
    """

    claim: str
    reading: str
    quantity: Quantity
    bound: Target
    device: str = ""


@dataclass(frozen=True)
class PublishedClaims:
    """All claims in one run: file sizes, and one frame on every runtime, engines included where there is a GPU.

    Args:
        original: Name of a shipped float generator.
        compressed: Name of the same generator, pruned and quantized.
        bench: Size of the frame, and how it is timed.
        claims: What to hold the figures against.
    """

    original: str
    compressed: str
    bench: BenchConfig
    claims: tuple[Claim, ...]

    def measure(self) -> Measurement:
        """Number of claims that are missed on the device that they name."""
        models, size = shipped("models"), self.bench.resolution
        with TemporaryDirectory() as name:
            folder = Path(name)
            graphs = [
                _export(load_artifact(models / model), folder / model, size.width, size.height)
                for model in (self.original, self.compressed)
            ]
            entries = [
                BenchEntry(load_artifact(models / self.original), "torch", "original"),
                *entries_of(graphs[1], "INT8"),
                *engine_entries(graphs[0], folder),
            ]
            report = time_rows(entries, self.bench)
            ratio = graphs[1].path.stat().st_size / graphs[0].path.stat().st_size
        figures = {"size-ratio": (ratio, "ONNX files", True), **latency_figures(report.rows)}
        device = report.device
        names = f"{device['cpu']} {(device['gpu'] or {}).get('name', '')}"
        outcomes = [judge(claim, figures.get(claim.quantity), names) for claim in self.claims]
        counts = {
            verdict: sum(row["verdict"] == verdict for row in outcomes) for verdict in ("met", "missed", "unproven")
        }
        details = {
            "claims": outcomes,
            "gpu": device["gpu"],
            "rows": [row.as_json() for row in report.rows],
            "conditions": {key: device[key] for key in ("threads", "pinned_to", "before", "after")},
        }
        samples = {f"{row.artifact}, {row.runtime}": row.windows_ms for row in report.rows if row.latency_ms}
        note = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        return Measurement(float(counts["missed"]), "missed", samples, note, details)


def latency_figures(rows: Sequence[BenchRow]) -> dict[str, tuple[float, str, bool]]:
    """What rows of latencies say of each quantity: the figure, what it was measured with, and whether it is stable."""
    timed = {}
    for row in rows:
        if row.latency_ms and (row.artifact not in timed or row.latency_ms.median < timed[row.artifact][0]):
            timed[row.artifact] = row.latency_ms.median, row.runtime, row.stable
    figures = {}
    fp32, fp16 = timed.get(FP32_ENGINE), timed.get(FP16_ENGINE)
    if fp32:
        figures["fp32-ms"] = fp32
    if fp16:
        figures["fp16-fps"] = 1000 / fp16[0], fp16[1], fp16[2]
    if fp32 and fp16:
        figures["fp16-speedup"] = fp32[0] / fp16[0], fp16[1], fp32[2] and fp16[2]
    if timed:
        fastest = min(timed, key=lambda name: timed[name][0])
        ms, runtime, stable = timed[fastest]
        figures["best-ms"] = ms, f"{fastest} in {runtime}", stable
    return figures


def judge(claim: Claim, found: tuple[float, str, bool] | None, device_names: str) -> dict[str, Any]:
    """What a figure says of a claim.

    Args:
        claim: The claim.
        found: Figure, what it was measured with, and whether it is stable; None where there is none.
        device_names: Names of the processor and the GPU that it was measured on.
    """
    figure, how, stable = found or (None, "", True)
    proves = figure is not None and stable and claim.device.lower() in device_names.lower()
    verdict = "unproven" if not proves or figure is None else "met" if claim.bound.is_met(figure) else "missed"
    return {
        "claim": claim.claim,
        "verdict": verdict,
        "figure": figure,
        "unit": _UNITS[claim.quantity],
        "how": how,
        "stable": stable,
    }


def render_claims(work: PublishedClaims, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The table of claims: of each, the run that proves it one way or the other, else one with a figure, else none.

    Args:
        work: The claims.
        records: The latest record of every device.
    """
    rows = []
    for claim in work.claims:
        found = [
            (outcome, record["device"])
            for record in records
            for outcome in record["details"]["claims"]
            if outcome["claim"] == claim.claim
        ]
        order = {"met": 0, "missed": 0, "unproven": 1}
        found.sort(key=lambda pair: (order[pair[0]["verdict"]], pair[0]["figure"] is None))
        bound = claim.bound.describe(_UNITS[claim.quantity])
        reading = f"{claim.reading}: {bound}" + (f", on {claim.device}" if claim.device else "")
        if not found:
            rows.append([claim.claim, reading, "**unproven**", "none yet", ""])
            continue
        outcome, device = found[0]
        rows.append([claim.claim, reading, f"**{outcome['verdict']}**", _figure(outcome), _machine(device)])
    return {"headings": HEADINGS, "rows": rows}


def _figure(outcome: Mapping[str, Any]) -> str:
    if outcome["figure"] is None:
        return "none"
    how = ", ".join(filter(None, (outcome["how"], "" if outcome["stable"] else "unstable")))
    return f"{outcome['figure']:.3g}{spaced(outcome['unit'])}" + (f" ({how})" if how else "")


def _machine(device: Mapping[str, Any]) -> str:
    gpu = (device.get("gpu") or {}).get("name")
    return gpu or f"{device['cpu']}, {device['cores']} core{'s' if device['cores'] != 1 else ''}"


def _export(checkpoint: Artifact, out: Path, width: int, height: int) -> Artifact:
    from deblur_deploy.export.to_onnx import export_onnx

    return export_onnx(checkpoint, ExportConfig(width, height), out)
