"""The stages of a recipe: which run on what, each skipped where its result is already there.

A record beside the artifacts keeps the recipe and the photographs that each stage was made with.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deblur_deploy.core.artifact import Artifact, check_replaceable, load_artifact
from deblur_deploy.core.errors import ArtifactError, BudgetError
from deblur_deploy.core.files import remove_partials, write_text
from deblur_deploy.data.pairs import crop_center, hash_photos, load_photos
from deblur_deploy.pipeline.recipe import Recipe

FP16_ROW, ENGINE_ROW = "fp16", "fp16 engine"
_FILE = "run.json"
_FOLDERS = {"photos": "calibration", "evaluation": "evaluation"}
"""Settings that name a folder of photographs, and the split of it that is read."""


class RunProgress(Protocol):
    """Where a run says what it is doing."""

    def say(self, text: str) -> None:
        """Take a line of text."""

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Take the summary of the run."""

    def tuning(self, title: str) -> AbstractContextManager[Callable[[int, int, float], None]]:
        """Follow fine-tuning; what it gives is called with the step, the number of steps and the loss."""

    def waiting(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """Follow a long wait; what it gives is called with what is being done."""


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Take a line of text."""

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Take the summary of the run."""

    @contextmanager
    def tuning(self, title: str) -> Iterator[Callable[[int, int, float], None]]:
        """Follow fine-tuning."""
        yield lambda step, steps, loss: None

    @contextmanager
    def waiting(self, title: str) -> Iterator[Callable[[str], None]]:
        """Follow a long wait."""
        yield lambda caption: None


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


def run_stages(
    source: Artifact, recipe: Recipe, runs: Path, progress: RunProgress, recipe_file: Path | None = None
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


def _compress(source: Artifact, recipe: Recipe, stages: _Stages) -> dict[str, Artifact]:
    """The checkpoints of a run, the original first."""
    checkpoints, last = {"original": source}, source
    if recipe.prune:
        from deblur_deploy.compress.prune import prune

        settings = recipe.tuned_on_own_photos(recipe.prune)
        with stages.progress.tuning("pruning") as on_step:
            last = stages.once("prune", last, settings, functools.partial(prune, on_step=on_step, on_scan=on_step))
        checkpoints["pruned"] = last
    if recipe.qat:
        from deblur_deploy.compress.quantize import qat, require_max_drop

        quantizing = recipe.tuned_on_own_photos(recipe.qat)
        with stages.progress.tuning("INT8: fine-tuning") as on_step:
            last = stages.once("qat", last, quantizing, functools.partial(qat, on_step=on_step))
        require_max_drop(last, quantizing)  # a run that missed it left its artifact, which is taken up again
        checkpoints["int8"] = last
    return checkpoints


def _check_before_work(source: Artifact, recipe: Recipe) -> None:
    """Refuse what later stages could not use, before minutes of fine-tuning and not after."""
    if source.network.quantization is not None and (recipe.prune or recipe.qat):
        raise ArtifactError(f"{source.path} is quantized", hint="start from the float checkpoint before it")
    if recipe.engine:
        from deblur_deploy.engine.build import check_engine_config

        check_engine_config(recipe.engine)
    folder = recipe.pairs_folder
    for number, photo in enumerate(load_photos(folder, "evaluation"), start=1):
        crop_center(photo, recipe.resolution, f"photograph {number} in {folder or 'the shipped set'}")


class RunRecord:
    """The record of one run directory.

    Args:
        directory: Where the run writes, and no other process does.
        recipe: The recipe's file, or None for a run that has none.

    Raises:
        ArtifactError: The directory holds the run of another recipe of the same name.
    """

    def __init__(self, directory: Path, recipe: Path | None = None) -> None:
        self._path = directory / _FILE
        self._recipe = str(recipe.resolve()) if recipe else None
        self._hashes: dict[tuple[str | None, str], str] = {}
        remove_partials(directory)
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            self._stages = dict(kept["stages"])
            before = kept["recipe"]
        except (OSError, ValueError, KeyError, TypeError):
            self._stages, before = {}, None  # there is none, or not a whole one: every stage runs again
        if isinstance(before, str) and before != self._recipe and Path(before).is_file():
            raise ArtifactError(
                f"{directory} holds the run of {before}, which is another recipe of that name",
                hint="rename one of the two recipes, or name another --runs",
            )

    def holds(self, artifact: Artifact, settings: Any) -> bool:
        """Whether an artifact was made with these settings, and with the photographs as they are now."""
        made = _without_folders(artifact.history[-1].config)
        wanted = _without_folders(json.loads(json.dumps(dataclasses.asdict(settings), default=str)))
        return made == wanted and self._stages.get(artifact.directory.name) == self._entry(artifact, settings)

    def note(self, artifact: Artifact, settings: Any) -> None:
        """Remember the photographs that an artifact has just been made with.

        Raises:
            ArtifactError: The record cannot be written.
        """
        self._stages[artifact.directory.name] = self._entry(artifact, settings)
        text = json.dumps({"recipe": self._recipe, "stages": self._stages}, indent=1) + "\n"
        write_text(self._path, text)

    def photographs(self, folder: str | None, split: Any) -> str:
        """sha256 over the photographs of a folder; each folder is read once."""
        key = (folder, split)
        if key not in self._hashes:
            self._hashes[key] = hash_photos(Path(folder) if folder else None, split)
        return self._hashes[key]

    def _entry(self, artifact: Artifact, settings: Any) -> dict[str, str]:
        tables = [settings, getattr(settings, "tuning", None)]
        hashes = [
            self.photographs(getattr(table, name), split)
            for table in tables
            for name, split in _FOLDERS.items()
            if hasattr(table, name)
        ]
        photographs = hashlib.sha256("".join(hashes).encode()).hexdigest()
        return {"written": artifact.history[-1].created, "sha256": artifact.sha256, "photographs": photographs}


def _without_folders(config: Any) -> Any:
    """Settings without the names of folders: what is in them counts, not where they are."""
    if not isinstance(config, dict):
        return config
    return {key: _without_folders(value) for key, value in config.items() if key not in _FOLDERS}
