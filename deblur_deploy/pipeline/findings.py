"""What a run measures of the artifacts that it made, kept on disk so that a second run need not measure again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deblur_deploy import __version__
from deblur_deploy.bench.device import device_facts
from deblur_deploy.bench.entries import BenchEntry, all_entries
from deblur_deploy.bench.measure import BenchConfig, measure
from deblur_deploy.bench.records import report_records, write_jsonl
from deblur_deploy.core.bench_rows import device_identity
from deblur_deploy.core.errors import VerificationError
from deblur_deploy.core.files import write_text
from deblur_deploy.core.markdown_table import table
from deblur_deploy.core.units import format_bytes
from deblur_deploy.data.pairs import hash_photos
from deblur_deploy.pipeline.recipe import Recipe
from deblur_deploy.pipeline.run_stages import RunArtifacts, RunProgress
from deblur_deploy.quality.gain import format_db, format_share, gain_kept, lost_db

FACT_HEADINGS = ("stage", "file", "size on disk", "parameters", "GMACs", "PSNR dB", "dB lost", "gain kept")
"""Columns of the table before those of the runtimes."""


def measured_runtimes(bench: dict[str, Any] | None) -> tuple[str, ...]:
    """Every runtime on which something was timed, in the order in which they were."""
    results = bench["results"] if bench else ()
    return tuple(dict.fromkeys(result["runtime"] for result in results if result["latency_ms"]))


def headings(bench: dict[str, Any] | None) -> tuple[str, ...]:
    """Columns of the table: a runtime has one where something was timed on it."""
    return (*FACT_HEADINGS, *(f"{runtime} ms" for runtime in measured_runtimes(bench)))


def read_quality(made: RunArtifacts) -> dict[str, Any]:
    """What the manifests of a run's ONNX files say about their quality.

    Returns:
        ``images``, ``blurred_db``, and ``psnr_db`` and ``gain_kept`` by row of the table. An engine's row is the typed
        FP16 graph that it was built from. A PSNR is None where every picture came out equal to the sharp one, a share
        of the gain where the original's is too small (see ``gain.py``).

    Raises:
        VerificationError: A file could not be evaluated when it was written.
    """
    steps = {name: artifact.history[-1].figures for name, artifact in made.onnx.items()}
    for name, figures in steps.items():
        if reason := figures.get("quality_skipped"):
            raise VerificationError(
                f"the quality of {name} could not be measured: {reason}",
                hint="give photographs of at least the size of the graphs, and pip install 'deblur-deploy[cpu]'",
            )
    first = steps["original"]
    return {
        "images": first["evaluation_images"],
        "blurred_db": first["psnr_blurred_db"],
        "psnr_db": {name: figures["psnr_db"] for name, figures in steps.items()},
        "gain_kept": {
            name: gain_kept(figures["psnr_db"], first["psnr_db"], first["psnr_blurred_db"])
            for name, figures in steps.items()
        },
    }


def write_page(
    made: RunArtifacts, recipe: Recipe, bench: dict[str, Any] | None, directory: Path, progress: RunProgress
) -> Path | None:
    """Write ``report.html`` unless it is there, of these artifacts and these latencies; None without Matplotlib."""
    try:
        from deblur_deploy.report.content import gather
        from deblur_deploy.report.write import write_report
    except ModuleNotFoundError as err:
        if err.name != "matplotlib":
            raise
        progress.say("report    skipped: it needs matplotlib; pip install 'deblur-deploy[report]'")
        return None
    page, kept = directory / "report.html", directory / "report.json"
    if not page.is_file():
        kept.unlink(missing_ok=True)

    def write_now() -> dict[str, Any]:
        progress.say("writing the report …")
        with progress.waiting("restoring photographs") as caption:
            content = gather(directory, on_photograph=caption)
        write_report(content, page, "html")
        return {"photographs": [photograph.name for photograph in content.photographs], "absent": content.absent}

    _kept(kept, _key(made, hash_photos(recipe.pairs_folder, "evaluation"), bench, __version__), write_now)
    progress.say(f"report    {page}")
    return page


def measure_latency(made: RunArtifacts, config: BenchConfig, directory: Path, progress: RunProgress) -> dict[str, Any]:
    """Latency of the float networks in eager PyTorch, and of every ONNX file and the engine on every runtime.

    Returns:
        The object that ``deblur-deploy bench --json`` prints; raw samples go to ``bench.jsonl``.
    """

    def measure_now() -> dict[str, Any]:
        progress.say("measuring latency …")
        checkpoints = [
            BenchEntry(checkpoint, "torch")
            for checkpoint in made.checkpoints.values()
            if checkpoint.network.quantization is None  # a quantized one only simulates INT8
        ]
        entries = [*checkpoints, *all_entries(map(made.payload, made.onnx))]
        with progress.waiting("measuring") as tick:
            report = measure(
                entries,
                config,
                lambda entry, window: tick(f"{entry.artifact.directory.name} on {entry.runtime}, window {window}"),
            )
        if report.interrupted:
            raise KeyboardInterrupt
        write_jsonl(report_records(report), directory / "bench.jsonl")
        return report.as_json()

    facts = device_facts()
    machine = device_identity(facts) | {"libraries": facts["libraries"]}  # on another one it is measured again
    return _kept(directory / "bench.json", _key(made, config, machine), measure_now)


def summary_rows(made: RunArtifacts, quality: dict[str, Any], bench: dict[str, Any] | None) -> list[list[str]]:
    """The table: one row for each stage, with the median latency on every runtime that ran it."""
    original_db = quality["psnr_db"]["original"]
    rows = []
    for name in made.onnx:
        artifact = made.payload(name)
        figures, psnr_db = artifact.figures, quality["psnr_db"][name]
        rows.append(
            [
                name,
                artifact.path.name,
                format_bytes(artifact.path.stat().st_size),
                f"{figures['params']:,}",
                f"{figures['gmacs']:.1f}",
                format_db(psnr_db),
                f"{lost_db(original_db, psnr_db):.2f}",
                format_share(gain_kept(psnr_db, original_db, quality["blurred_db"])),
                *(_in_ms(latency_ms(made, name, bench, runtime)) for runtime in measured_runtimes(bench)),
            ]
        )
    return rows


def latency_ms(made: RunArtifacts, row: str, bench: dict[str, Any] | None, runtime: str) -> float | None:
    """Median latency of a row's ONNX file, engine or float checkpoint on a runtime; None where it was not measured."""
    timed = {str(made.payload(row).directory)}
    if row in made.checkpoints:
        timed.add(str(made.checkpoints[row].directory))
    for result in bench["results"] if bench else ():
        if result["artifact"] in timed and result["runtime"] == runtime and result["latency_ms"]:
            return float(result["latency_ms"]["median"])
    return None


def write_summary(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], quality: dict[str, Any]) -> None:
    """Write the table as Markdown."""
    lines = [
        *table(columns, rows),
        "",
        f"Blurred input: {format_db(quality['blurred_db'])} dB, mean of {quality['images']} photographs.",
    ]
    write_text(path, "\n".join(lines) + "\n")


def _in_ms(latency: float | None) -> str:
    return "–" if latency is None else f"{latency:.0f}"


def _key(made: RunArtifacts, *settings: object) -> str:
    """What a measurement depends on: the artifacts, under the names that its rows have, and its settings."""
    artifacts = [made.original, *made.onnx.values(), *([made.engine] if made.engine else [])]
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
    write_text(path, json.dumps({"key": key, "value": value}, indent=1) + "\n")
    return value
