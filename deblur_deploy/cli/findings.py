"""What the demo measures on its journey, kept on disk so that a second run need not measure again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deblur_deploy.bench.measure import BenchEntry, all_entries, measure, write_jsonl
from deblur_deploy.cli.console import Output, format_bytes
from deblur_deploy.cli.journey import DemoConfig, Journey
from deblur_deploy.cli.pictures import save_sheets
from deblur_deploy.data.pairs import crop_pairs, load_pairs
from deblur_deploy.errors import ArtifactError
from deblur_deploy.evaluate import evaluate

RUNTIMES = ("torch", "onnxruntime", "openvino", "tensorrt-rtx")
"""Runtimes that have a column in the demo's table."""

HEADINGS = (
    *("stage", "file", "size on disk", "parameters", "GMACs", "PSNR dB", "dB lost"),
    *(f"{runtime} ms" for runtime in RUNTIMES),
)


def measure_quality(journey: Journey, config: DemoConfig, directory: Path, output: Output) -> dict[str, Any]:
    """PSNR of every ONNX file on the evaluation pairs, and before/after pictures.

    Returns:
        ``images``, ``blurred_db``, and ``psnr_db`` by row of the demo's table. The engine's row is the typed FP16 graph
        that the engine was built from, run in onnxruntime.
    """

    def measure_now() -> dict[str, Any]:
        output.say("measuring quality …")
        photos = Path(config.photos) if config.photos else None
        pairs = crop_pairs(load_pairs(photos, "evaluation"), config.resolution)
        reports = {
            name: evaluate(artifact, pairs, "onnxruntime" if name == "fp16 engine" else None)
            for name, artifact in journey.onnx.items()
        }
        save_sheets(pairs, journey.onnx["original"], journey.onnx["int8"], directory / "pictures")
        return {
            "images": len(pairs),
            "blurred_db": reports["original"].psnr_blurred_db,
            "psnr_db": {name: report.psnr_db for name, report in reports.items()},
        }

    return _kept(directory / "quality.json", _key(journey, config.photos), measure_now)


def measure_latency(journey: Journey, config: DemoConfig, directory: Path, output: Output) -> dict[str, Any]:
    """Latency of the float networks in eager PyTorch, and of every ONNX file and the engine on every runtime.

    Returns:
        The object that ``deblur-deploy bench --json`` prints; raw samples go to ``bench.jsonl``.
    """
    bench = dataclasses.replace(config.bench, resolution=config.resolution)

    def measure_now() -> dict[str, Any]:
        output.say("measuring latency …")
        artifacts = [journey.onnx[name] for name in ("original", "pruned", "int8")] + [journey.engine]
        checkpoints = [BenchEntry(artifact, "torch") for artifact in (journey.original, journey.pruned)]
        entries = [*checkpoints, *all_entries(artifacts)]
        with output.waiting("measuring") as tick:
            report = measure(
                entries,
                bench,
                lambda entry, window: tick(f"{entry.artifact.directory.name} on {entry.runtime}, window {window}"),
            )
        if report.interrupted:
            raise KeyboardInterrupt
        write_jsonl(report, directory / "bench.jsonl")
        return report.as_json()

    return _kept(directory / "bench.json", _key(journey, bench), measure_now)


def summary_rows(journey: Journey, quality: dict[str, Any], bench: dict[str, Any]) -> list[list[str]]:
    """The demo's table: one row for each stage, with the median latency on every runtime that ran it."""
    original_db = quality["psnr_db"]["original"]
    rows = []
    for name, graph in journey.onnx.items():
        artifact = journey.engine if name == "fp16 engine" else graph
        figures, psnr_db = artifact.figures, quality["psnr_db"][name]
        timed = {str(artifact.directory), *_checkpoints(journey, name)}
        rows.append(
            [
                name,
                artifact.path.name,
                format_bytes(artifact.path.stat().st_size),
                f"{figures['params']:,}",
                f"{figures['gmacs']:.1f}",
                f"{psnr_db:.2f}",
                f"{original_db - psnr_db:.2f}",
                *(_median_ms(bench, timed, runtime) for runtime in RUNTIMES),
            ]
        )
    return rows


def write_summary(path: Path, rows: Sequence[Sequence[str]], quality: dict[str, Any]) -> None:
    """Write the table as Markdown."""
    lines = [
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        f"Blurred input: {quality['blurred_db']:.2f} dB, mean of {quality['images']} photographs.",
    ]
    _write_text(path, "\n".join(lines) + "\n")


def _checkpoints(journey: Journey, name: str) -> list[str]:
    """Directory of the checkpoint that a row's ONNX file was exported from, where that was timed too."""
    timed = {"original": journey.original, "pruned": journey.pruned}
    return [str(timed[name].directory)] if name in timed else []


def _median_ms(bench: dict[str, Any], artifacts: set[str], runtime: str) -> str:
    """Median latency of one of these artifacts on a runtime, or a dash where it was not measured."""
    for row in bench["results"]:
        if row["artifact"] in artifacts and row["runtime"] == runtime and row["latency_ms"]:
            return f"{row['latency_ms']['median']:.0f}"
    return "–"


def _key(journey: Journey, *settings: object) -> str:
    """What a measurement depends on: the artifacts, under the names that its rows have, and its settings."""
    artifacts = (journey.original, *journey.onnx.values(), journey.engine)
    hashes = [(str(artifact.directory), artifact.sha256) for artifact in artifacts]
    return hashlib.sha256(json.dumps([hashes, settings], default=str).encode()).hexdigest()


def _kept(path: Path, key: str, measure_now: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The measurement at ``path`` if it was made for this key, else a new one, written there."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return dict(kept["value"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is none, or not a whole one: measure again
    value = measure_now()
    _write_text(path, json.dumps({"key": key, "value": value}, indent=1) + "\n")
    return value


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as err:
        raise ArtifactError(f"{path} cannot be written: {err}", hint="check permissions and free space") from err
