"""What compression costs and buys: a shipped generator pruned, quantized, exported, evaluated and timed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from measurement import Measurement

from deblur_deploy.bench.measure import BenchConfig
from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.errors import MissingDependencyError
from deblur_deploy.core.sources import shipped
from deblur_deploy.quality.gain import format_share, lost_db

RUNS = Path(__file__).parents[1] / "runs" / "benchmarks"
"""Where the artifacts are made; scenarios with the same settings share them."""

Figure = Literal["size_ratio", "drop_db", "pruned_drop_db", "speedup"]

_UNITS = {"size_ratio": "of the size", "drop_db": "dB", "pruned_drop_db": "dB", "speedup": "×"}
_HEADINGS = (
    "keep",
    "parameters",
    "GMACs",
    "pruned dB",
    "INT8 dB",
    "dB lost",
    "gain kept",
    "INT8 file",
    "of the size",
    "ms",
    "speedup",
)


@dataclass(frozen=True)
class Compression:
    """A generator through ``prune`` and ``qat`` with fine-tuning, at one or several keep ratios.

    Args:
        model: Name of a shipped generator.
        keeps: Shares of the channels to keep; the figure is that of the first.
        allocation: As for ``prune``.
        prune_steps: Fine-tuning steps after pruning.
        qat_steps: Fine-tuning steps after quantization.
        figure: ``size_ratio`` (INT8 ONNX file over the original's), ``drop_db`` (PSNR of the original's ONNX file minus
            that of the INT8 one), ``pruned_drop_db`` (the same of the pruned one), or ``speedup`` (latency of the
            original in eager PyTorch over that of the INT8 file in the fastest runtime).
        bench: How latency is measured; its resolution is that of the graphs.
        photos: Folder of sharp photographs to tune on, or None for the shipped ones.
    """

    model: str
    keeps: tuple[float, ...]
    allocation: Literal["uniform", "sensitivity"]
    prune_steps: int
    qat_steps: int
    figure: Figure
    bench: BenchConfig
    photos: Path | None = None

    def measure(self) -> Measurement:
        """The figure at the first keep ratio, and a table of all of them."""
        original = load_artifact(shipped("models") / self.model)
        outcomes = [self._compress(original, keep) for keep in self.keeps]
        first = outcomes[0]
        details: dict[str, Any] = {"model_sha256": original.sha256, "outcomes": outcomes}
        if len(outcomes) > 1:
            details["table"] = {"headings": _HEADINGS, "rows": [_row(outcome) for outcome in outcomes]}
        samples = first.pop("samples_ms")
        for outcome in outcomes[1:]:
            del outcome["samples_ms"]
        return Measurement(
            first[self.figure],
            _UNITS[self.figure],
            samples if self.figure == "speedup" else {},
            self._note(first),
            details,
            first["stable"] if self.figure == "speedup" else True,
        )

    def _compress(self, original: Artifact, keep: float) -> dict[str, Any]:
        """Everything that is known about one keep ratio; what an earlier scenario made and measured is taken over."""
        from deblur_deploy.cli.console import Output
        from deblur_deploy.cli.options import claim, with_tuning
        from deblur_deploy.config import ExportConfig, PruneConfig, QatConfig
        from deblur_deploy.pipeline.budgets import fastest
        from deblur_deploy.pipeline.findings import latency_ms, measure_latency, read_quality
        from deblur_deploy.pipeline.recipe import Recipe
        from deblur_deploy.pipeline.run_stages import run_stages

        size = self.bench.resolution
        recipe = Recipe(
            prune=with_tuning(PruneConfig(keep=keep, allocation=self.allocation), self.photos, self.prune_steps),
            qat=with_tuning(QatConfig(), self.photos, self.qat_steps),
            export=ExportConfig(size.width, size.height),
        )
        directory, output = RUNS / f"{self.model}-{keep:g}", Output(as_json=True)
        claim(directory)
        made = run_stages(original, recipe, directory, output)
        quality = read_quality(made)
        psnr_db = quality["psnr_db"]
        bench = measure_latency(made, self.bench, directory, output)
        eager_ms, best = latency_ms(made, "original", bench, "torch"), fastest(made, "int8", bench)
        if eager_ms is None or best is None:
            raise MissingDependencyError("int8 could not be timed here", hint="pip install 'deblur-deploy[cpu]'")
        runtime, int8_ms = best
        sizes = {row: graph.path.stat().st_size for row, graph in made.onnx.items()}
        samples = [json.loads(line) for line in (directory / "bench.jsonl").read_text(encoding="utf-8").splitlines()]
        timed = [row for row in samples if row["windows_ms"]]
        return {
            "keep": keep,
            "params": made.onnx["int8"].figures["params"],
            "gmacs": made.onnx["int8"].figures["gmacs"],
            "psnr_db": psnr_db,
            "psnr_blurred_db": quality["blurred_db"],
            "drop_db": lost_db(psnr_db["original"], psnr_db["int8"]),
            "pruned_drop_db": lost_db(psnr_db["original"], psnr_db["pruned"]),
            "gain_kept": quality["gain_kept"],
            "bytes": sizes,
            "size_ratio": sizes["int8"] / sizes["original"],
            "eager_ms": eager_ms,
            "int8_ms": int8_ms,
            "runtime": runtime,
            "speedup": eager_ms / int8_ms,
            "stable": all(row["stable"] for row in timed),
            "samples_ms": {f"{Path(row['artifact']).name}, {row['runtime']}": row["windows_ms"] for row in timed},
        }

    def _note(self, first: dict[str, Any]) -> str:
        psnr, sizes, keep = first["psnr_db"], first["bytes"], f"keep {first['keep']:g}"
        kept = {row: f"{format_share(share)} of the gain kept" for row, share in first["gain_kept"].items()}
        return {
            "size_ratio": f"{sizes['original'] / 1e6:.2f} MB to {sizes['int8'] / 1e6:.3f} MB, {keep}",
            "drop_db": f"{psnr['original']:.2f} dB to {psnr['int8']:.2f} dB, both as ONNX files, {keep}; "
            f"{kept['int8']}",
            "pruned_drop_db": f"{psnr['original']:.2f} dB to {psnr['pruned']:.2f} dB, {keep}; {kept['pruned']}",
            "speedup": f"{first['eager_ms']:.0f} ms in eager PyTorch against {first['int8_ms']:.0f} ms in "
            f"{first['runtime']}, {keep}",
        }[self.figure]


def _row(outcome: dict[str, Any]) -> list[str]:
    psnr = outcome["psnr_db"]
    return [
        f"{outcome['keep']:g}",
        f"{outcome['params']:,}",
        f"{outcome['gmacs']:.1f}",
        f"{psnr['pruned']:.2f}",
        f"{psnr['int8']:.2f}",
        f"{outcome['drop_db']:.2f}",
        format_share(outcome["gain_kept"]["int8"]),
        f"{outcome['bytes']['int8'] / 1e6:.3f} MB",
        f"{outcome['size_ratio']:.3f}",
        f"{outcome['int8_ms']:.0f}",
        f"{outcome['speedup']:.1f}",
    ]
