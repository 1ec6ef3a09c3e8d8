"""Engines of a graph in both precisions, built for the GPU that is here."""

from __future__ import annotations

from pathlib import Path

from deblur_deploy.bench.entries import BenchEntry, entries_of
from deblur_deploy.config import EngineConfig, PrecisionConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.runtime.nvidia import count_nvidia_gpus

FP32_ENGINE, FP16_ENGINE = "engine FP32", "engine FP16"


def engine_entries(graph: Artifact, folder: Path) -> list[BenchEntry]:
    """Engines of one graph in both precisions, for the GPU that is here; rows that say why where that cannot be."""
    from deblur_deploy.engine.build import build_engine
    from deblur_deploy.export.precision import lower_precision

    if not count_nvidia_gpus():
        reason = "this machine has no NVIDIA GPU; run it where there is one"
        return [BenchEntry(graph, "tensorrt-rtx", label, reason) for label in (FP32_ENGINE, FP16_ENGINE)]
    entries = []
    for label, precision in ((FP32_ENGINE, "fp32"), (FP16_ENGINE, "fp16")):
        try:
            typed = graph if precision == "fp32" else lower_precision(graph, PrecisionConfig(), folder / "typed")
            config = EngineConfig(target="current", precision="fp32" if precision == "fp32" else "fp16")
            entries += entries_of(build_engine(typed, config, folder / f"engine-{precision}"), label)
        except DeblurDeployError as err:
            entries.append(BenchEntry(graph, "tensorrt-rtx", label, f"{err.message}; {err.hint}"))
    return entries
