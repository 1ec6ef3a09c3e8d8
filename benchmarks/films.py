"""A temporal generator on films, beside the generator that it was trained on from: PSNR, flicker and latency.

The real film is not in this repository: ``--pairs`` names it. Films made of the shipped photographs are measured, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measurement import Measurement, median_ms, time_rows

from deblur_deploy.bench.entries import BenchEntry
from deblur_deploy.bench.measure import BenchConfig
from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.sources import shipped
from deblur_deploy.data.films import load_films
from deblur_deploy.data.pairs import Pair

_HEADINGS = ("films", "network", "way", "dB", "flicker", "cuts")


@dataclass(frozen=True)
class Films:
    """A temporal generator and the one that it comes from.

    Args:
        single: Name of the generator under ``models/`` that restores frame by frame.
        temporal: Name of the temporal one.
        runtime: What restores and is timed.
        bench: Size of the frame, and how it is timed.
        pairs: Folder of a real film in ``blur/`` and ``sharp/``.
    """

    single: str
    temporal: str
    runtime: str
    bench: BenchConfig
    pairs: Path | None = None

    def measure(self) -> Measurement:
        """PSNR of the temporal generator on the real film less that of the other frame by frame."""
        if self.pairs is None:
            raise ConfigError("the real film is not here", hint="give --pairs, a folder with blur/ and sharp/")
        single, temporal = (load_artifact(shipped("models") / name) for name in (self.single, self.temporal))
        found = {
            "real": self._scores(single, temporal, load_films(self.pairs)),
            "synthetic": self._scores(single, temporal, load_films(None)),
        }
        report, times = self._timed(single, temporal)
        real = found["real"]
        gain = real["temporal, with the frame before"]["psnr_db"] - real["single, frame by frame"]["psnr_db"]
        ratio = times[1] / times[0] if all(times) else None
        details: dict[str, Any] = {"scores": found, "latency_ratio": ratio, "model_sha256": single.sha256}
        details |= {"temporal_sha256": temporal.sha256, "flicker_excess": _excess(real)}
        rows = [row for films, scores in found.items() for row in _cells(films, scores)]
        details["table"] = {"headings": _HEADINGS, "rows": rows}
        samples = {Path(row.artifact).name: row.windows_ms for row in report.rows}
        return Measurement(gain, "dB", samples, _note(real, times), details, all(row.stable for row in report.rows))

    def _scores(
        self, single: Artifact, temporal: Artifact, films: Sequence[Sequence[Pair]]
    ) -> dict[str, dict[str, Any]]:
        from deblur_deploy.quality.film_quality import evaluate_films, film_score

        alone, _ = film_score(single, films, "torch", temporal=False)
        report = evaluate_films(temporal, films, "torch")
        blurred, plain, following = report.scores
        return {
            "blurred": asdict(blurred),
            "single, frame by frame": asdict(alone),
            "temporal, frame by frame": asdict(plain),
            "temporal, with the frame before": asdict(following),
        }

    def _timed(self, single: Artifact, temporal: Artifact) -> tuple[Any, tuple[float, float]]:
        """A frame by each, as ONNX files, in turns; that of the temporal one with finding the motion."""
        from deblur_deploy.export.to_onnx import export_onnx

        size = self.bench.resolution
        with TemporaryDirectory() as folder:
            graphs = [
                export_onnx(artifact, ExportConfig(size.width, size.height, temporal=is_temporal), Path(folder) / name)
                for artifact, name, is_temporal in ((single, "single", False), (temporal, "temporal", True))
            ]
            report = time_rows([BenchEntry(graph, self.runtime) for graph in graphs], self.bench)
        first, second = (median_ms(row) for row in report.rows)
        return report, (first or 0.0, second or 0.0)


def _excess(scores: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Flicker above the sharp film's with the frame before, over that of the other generator frame by frame."""
    ours, theirs = (scores[way]["flicker"] for way in ("temporal, with the frame before", "single, frame by frame"))
    return None if None in (ours, theirs) or theirs <= 1 else (ours - 1) / (theirs - 1)


def _cells(films: str, scores: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    rows = []
    for name, score in scores.items():
        network, _, way = name.partition(", ")
        flicker = "-" if score["flicker"] is None else f"{score['flicker']:.3f}"
        rows.append((films, network, way or "-", f"{score['psnr_db']:.2f}", flicker, str(score["cuts"])))
    return rows


def _note(scores: Mapping[str, Mapping[str, Any]], times: tuple[float, float]) -> str:
    blurred, single, alone, following = (score["psnr_db"] for score in scores.values())
    excess = _excess(scores)
    flicker = "flicker is not above the sharp film's" if excess is None else f"{excess:.2f} times the excess flicker"
    latency = f"{times[1] / times[0]:.2f} times the latency" if all(times) else "latency not measured"
    return (
        f"{blurred:.2f} dB blurred, {single:.2f} dB frame by frame, {following:.2f} dB with the frame before "
        f"({alone:.2f} dB without); {flicker}; {latency}"
    )
