"""The whole way of the demo: which stages run on what, each skipped where its result is already there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deblur_deploy.artifact import Artifact, check_replaceable, load_artifact
from deblur_deploy.bench.measure import BenchConfig
from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import check_writable
from deblur_deploy.config import ExportConfig, FitConfig, PruneConfig, QatConfig, TuningConfig
from deblur_deploy.data.pairs import crop_center, load_photos
from deblur_deploy.errors import ArtifactError
from deblur_deploy.images import Resolution


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo.

    Args:
        keep: Share of the channels to keep.
        target: Card that the engine is built for.
        resolution: Size of the graphs and of the timed frame.
        prune_steps: Fine-tuning steps after pruning.
        qat_steps: Fine-tuning steps after quantization.
        bench: How the rows of the latency table are measured; the frame has the size of the graphs.
        photos: Folder of the user's sharp photographs for tuning and evaluation; None takes the shipped ones.
    """

    keep: float = 0.7
    target: str = "RTX 2080 Ti"
    resolution: Resolution = field(default=Resolution(640, 360))
    prune_steps: int = 500
    qat_steps: int = 120
    bench: BenchConfig = field(default=BenchConfig())
    photos: str | None = None

    def quick(self) -> DemoConfig:
        """The same road in a fraction of the time: the figures are those of a hurried fine-tuning."""
        bench = BenchConfig(duration_ms=600.0, warmup_ms=0.0, min_iterations=3, windows=1, max_windows=1)
        return dataclasses.replace(self, prune_steps=20, qat_steps=5, bench=bench)


@dataclass(frozen=True)
class Journey:
    """Everything that the demo made.

    Args:
        original: The generator that it started from.
        pruned: Checkpoint after pruning.
        onnx: ONNX files by row of the table; the engine's row has the typed FP16 graph that it was built from.
        engine: The engine.
    """

    original: Artifact
    pruned: Artifact
    onnx: dict[str, Artifact]
    engine: Artifact


def travel(source: Artifact, config: DemoConfig, runs: Path, output: Output) -> Journey:
    """Run every stage that is not done yet.

    Args:
        source: A float checkpoint.
        config: The demo's settings.
        runs: Directory of the demo; each stage has one directory in it.
        output: Where to say what happens.

    Raises:
        DeblurDeployError: A stage failed; the artifacts of the stages before it are kept.
    """
    from deblur_deploy.compress.prune import prune
    from deblur_deploy.compress.quantize import qat
    from deblur_deploy.engine.build import EngineConfig, build_engine, check_engine_config
    from deblur_deploy.export.precision import PrecisionConfig, lower_precision
    from deblur_deploy.export.to_onnx import export_onnx

    engine_config = EngineConfig(target=config.target)
    check_engine_config(engine_config)
    check_writable(runs)
    _check_photos(config)
    size = ExportConfig(config.resolution.width, config.resolution.height)
    pruning = PruneConfig(keep=config.keep)
    pruning = dataclasses.replace(pruning, tuning=_tuning(pruning.tuning, config.prune_steps, config.photos))
    quantizing = QatConfig()
    quantizing = dataclasses.replace(quantizing, tuning=_tuning(quantizing.tuning, config.qat_steps, config.photos))

    def stage(name: str, parent: Artifact, settings: Any, run: Callable[..., Artifact], *extra: Any) -> Artifact:
        return _once(runs / name, parent, settings, output, lambda out: run(parent, settings, out, *extra))

    with output.tuning("pruned: fine-tuning") as on_step:
        pruned = stage("prune", source, pruning, prune, on_step)
    with output.tuning("INT8: fine-tuning") as on_step:
        quantized = stage("qat", pruned, quantizing, qat, on_step)
    graphs = {
        "original": stage("onnx-original", source, size, export_onnx),
        "pruned": stage("onnx-pruned", pruned, size, export_onnx),
        "int8": stage("onnx-int8", quantized, size, export_onnx),
    }
    typed = stage("onnx-fp16", graphs["int8"], PrecisionConfig(), lower_precision)
    engine = stage("engine-fp16", typed, engine_config, build_engine)
    return Journey(source, pruned, graphs | {"fp16 engine": typed}, engine)


def _check_photos(config: DemoConfig) -> None:
    """Refuse photographs that evaluation could not use, before the fine-tuning and not after."""
    if config.photos:
        for number, photo in enumerate(load_photos(Path(config.photos), "evaluation"), start=1):
            crop_center(photo, config.resolution, f"photograph {number} in {config.photos}")


def _tuning(tuning: TuningConfig, steps: int, photos: str | None) -> TuningConfig:
    fit: FitConfig = dataclasses.replace(tuning.fit, steps=steps)
    return dataclasses.replace(tuning, fit=fit, photos=photos, evaluation=photos)


def _once(out: Path, parent: Artifact, settings: Any, output: Output, run: Callable[[Path], Artifact]) -> Artifact:
    """The artifact at ``out`` if this very step made it, else a new one."""
    try:
        found = load_artifact(out)
    except ArtifactError:
        found = None
    wanted = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    if found and found.history[-1].parent == parent.sha256 and found.history[-1].config == wanted:
        output.say(f"done      {out}")
        return found
    check_replaceable(out)
    output.say(f"running   {out.name} …")
    artifact = run(out)
    output.say(f"wrote     {artifact.path}")
    return artifact
