"""The whole way of a recipe: which stages run on what, each skipped where its result is already there."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deblur_deploy.core.artifact import Artifact, check_replaceable, load_artifact
from deblur_deploy.core.errors import ArtifactError, BudgetError
from deblur_deploy.data.pairs import crop_center, load_photos
from deblur_deploy.pipeline.progress import RunProgress
from deblur_deploy.pipeline.recipe import RunRecipe
from deblur_deploy.pipeline.run_record import RunRecord


@dataclass(frozen=True)
class RunArtifacts:
    """Everything that a run made.

    Args:
        checkpoints: Float and quantized checkpoints by row of the table, the original first.
        onnx: ONNX files by row of the table. The last row of a run with an FP16 engine has the typed FP16 graph that
            the engine was built from.
        engine: The engine, where there is one.
    """

    checkpoints: dict[str, Artifact]
    onnx: dict[str, Artifact]
    engine: Artifact | None

    @property
    def original(self) -> Artifact:
        """The generator that the run started from."""
        return self.checkpoints["original"]

    def payload(self, row: str) -> Artifact:
        """What a row of the table stands for: its ONNX file, or the engine."""
        return self.engine if self.engine and row == ENGINE_ROW else self.onnx[row]


FP16_ROW, ENGINE_ROW = "fp16", "fp16 engine"


def run_stages(
    source: Artifact, recipe: RunRecipe, runs: Path, progress: RunProgress, recipe_file: Path | None = None
) -> RunArtifacts:
    """Run every stage that is not done yet.

    Args:
        source: A float checkpoint.
        recipe: Which stages, and their settings.
        runs: Directory of the run; each stage has one directory in it. No other process can use it meanwhile.
        progress: Where to say what happens.
        recipe_file: Where the recipe was read from, if it was.

    Raises:
        DeblurDeployError: A stage failed; the artifacts of the stages before it are kept.
    """
    stages = _Stages(runs, progress, RunRecord(runs, recipe_file))
    _check_before_work(source, recipe)
    checkpoints = _compress(source, recipe, stages)
    from deblur_deploy.export.to_onnx import export_onnx

    pairs = str(recipe.pairs_folder) if recipe.pairs_folder else None
    exporting = dataclasses.replace(recipe.export, evaluate=True, evaluation=pairs)
    graphs = {
        name: stages.once(f"onnx-{name}", checkpoint, exporting, export_onnx)
        for name, checkpoint in checkpoints.items()
    }
    engine, last = None, list(graphs.values())[-1]
    if recipe.fp16:
        from deblur_deploy.export.precision import lower_precision

        lowering = dataclasses.replace(recipe.fp16, evaluate=True, evaluation=pairs, check_overflow=True)
        last = stages.once("onnx-fp16", last, lowering, lower_precision)
        graphs[ENGINE_ROW if recipe.engine else FP16_ROW] = last
    if recipe.engine:
        from deblur_deploy.engine.build import build_engine

        engine = stages.once(f"engine-{recipe.engine.precision}", last, recipe.engine, build_engine)
    return RunArtifacts(checkpoints, graphs, engine)


@dataclass(frozen=True)
class _Stages:
    """Runs the stages of one run, each once.

    Args:
        runs: Directory of the run.
        progress: Where to say what happens.
        record: What the run remembers.
    """

    runs: Path
    progress: RunProgress
    record: RunRecord

    def once(
        self, name: str, parent: Artifact, settings: Any, run: Callable[[Artifact, Any, Path], Artifact]
    ) -> Artifact:
        """The artifact of that name if this very step made it from the photographs as they are, else a new one."""
        out = self.runs / name
        try:
            found = load_artifact(out)
        except ArtifactError:
            found = None
        if found and self._is_done(found, parent, settings):
            self.progress.say(f"done      {out}")
            return found
        check_replaceable(out)
        self.progress.say(f"running   {out.name} …")
        try:
            artifact = run(parent, settings, out)
        except BudgetError:  # what missed it is kept, and not made a second time
            self.record.note(load_artifact(out), settings)
            raise
        self.record.note(artifact, settings)
        self.progress.say(f"wrote     {artifact.path}")
        return artifact

    def _is_done(self, found: Artifact, parent: Artifact, settings: Any) -> bool:
        last = found.history[-1]
        unmeasured = "quality_skipped" in last.figures  # what was missing may be there now
        return last.parent == parent.sha256 and not unmeasured and self.record.holds(found, settings)


def _compress(source: Artifact, recipe: RunRecipe, stages: _Stages) -> dict[str, Artifact]:
    """The checkpoints of a run, the original first."""
    checkpoints, last = {"original": source}, source
    if recipe.prune:
        from deblur_deploy.compress.prune import prune

        settings = recipe.tuned_on_own_photos(recipe.prune)
        with stages.progress.tuning("pruned: fine-tuning") as on_step:
            last = stages.once("prune", last, settings, functools.partial(prune, on_step=on_step))
        checkpoints["pruned"] = last
    if recipe.qat:
        from deblur_deploy.compress.quantize import qat, require_max_drop

        quantizing = recipe.tuned_on_own_photos(recipe.qat)
        with stages.progress.tuning("INT8: fine-tuning") as on_step:
            last = stages.once("qat", last, quantizing, functools.partial(qat, on_step=on_step))
        require_max_drop(last, quantizing)  # a run that missed it left its artifact, which is taken up again
        checkpoints["int8"] = last
    return checkpoints


def _check_before_work(source: Artifact, recipe: RunRecipe) -> None:
    """Refuse what later stages could not use, before minutes of fine-tuning and not after."""
    if source.network.quantization is not None and (recipe.prune or recipe.qat):
        raise ArtifactError(f"{source.path} is quantized", hint="start from the float checkpoint before it")
    if recipe.engine:
        from deblur_deploy.engine.build import check_engine_config

        check_engine_config(recipe.engine)
    folder = recipe.pairs_folder
    for number, photo in enumerate(load_photos(folder, "evaluation"), start=1):
        crop_center(photo, recipe.resolution, f"photograph {number} in {folder or 'the shipped set'}")
