"""The rows of a report: what a run made of a generator, from the trained network to the engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deblur_deploy.config import precision_of_stage
from deblur_deploy.core.artifact import Artifact, Step
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.sources import find_artifacts, shipped_generator
from deblur_deploy.quality.decibels import bounded_db
from deblur_deploy.quality.gain import blurred_of, same_blurred

ORIGINAL = "original"

_UNPROVEN = "unproven"
"""What manifests of engines call arithmetic that the builder's list of layers does not show."""


@dataclass(frozen=True)
class ReportStage:
    """One row of a report.

    Args:
        label: What it is called, such as ``pruned``; no two stages of a report have the same.
        artifact: Its ONNX file or engine, or the checkpoint where it was not exported.
        hashes: sha256 of the payload, and of the float checkpoint that the ONNX file is a plain export of.
        quality: Its evaluation; an engine has that of the typed graph it was built from. None where there is none.
    """

    label: str
    artifact: Artifact
    hashes: frozenset[str]
    quality: Quality | None

    @property
    def bytes(self) -> int:
        """Size of the payload on disk."""
        return self.artifact.path.stat().st_size

    @property
    def precision(self) -> dict[str, float]:
        """Share of the multiply-accumulates by type; empty for a quantized checkpoint, which only simulates."""
        if self.artifact.kind == "checkpoint":
            return {} if self.artifact.network.quantization else {"fp32": 1.0}
        return dict(self.artifact.figures.get("precision", {}))


def read_stages(run: Path) -> tuple[ReportStage, ...]:
    """Find what a run made: the chain of the newest artifact under a directory.

    Args:
        run: Directory of a run, such as ``runs/demo``, or of several artifacts.

    Returns:
        The stages: the original first where it is known, then the others by the number of their steps.

    Raises:
        ArtifactError: There is no such directory, or no artifact in it.
    """
    if not run.is_dir():
        raise ArtifactError(f"there is no directory {run}", hint="name a run's directory, such as runs/demo")
    found = find_artifacts(run)
    if not found:
        raise ArtifactError(f"{run} holds no artifact", hint="`deblur-deploy demo` makes a run to report on")
    root = found[-1].history[0]
    chain = [artifact for artifact in found if artifact.history[0] == root]
    rows = sorted(_shown(chain), key=lambda artifact: (len(artifact.history), artifact.history[-1].created))
    if all(_name(artifact) != ORIGINAL for artifact in rows):
        shipped = shipped_generator()
        rows = [*([shipped] if shipped.history[0] == root else []), *rows]
    names = Counter(map(_name, rows))
    return tuple(
        ReportStage(_label(artifact, names), artifact, _hashes(artifact), last_quality(artifact.history))
        for artifact in rows
    )


def compared(stages: Sequence[ReportStage]) -> list[tuple[ReportStage, Quality]]:
    """The stages whose quality was measured on the same photographs as the original's, with it; the original first.

    Nothing where the original's was not measured.
    """
    if not stages or stages[0].label != ORIGINAL or stages[0].quality is None:
        return []
    reference = stages[0].quality.blurred_db
    return [
        (stage, stage.quality)
        for stage in stages
        if stage.quality is not None and same_blurred(reference, stage.quality.blurred_db)
    ]


def _shown(chain: Sequence[Artifact]) -> list[Artifact]:
    """Graphs, engines, and checkpoints from which neither was made; a typed graph goes with its engine."""
    exported = {artifact.history[-1].parent for artifact in chain if artifact.kind == "onnx"}
    built = {artifact.history[-1].parent for artifact in chain if artifact.kind == "engine"}
    onward = {artifact.history[-1].parent for artifact in chain if artifact.kind == "checkpoint"}
    return [
        artifact
        for artifact in chain
        if artifact.sha256 not in (built if precision_of_stage(artifact.stage) else ())
        and (artifact.kind != "checkpoint" or artifact.sha256 not in exported)
        # An intermediate checkpoint is a row only if everything started from it.
        and (artifact.kind != "checkpoint" or artifact.sha256 not in onward or _name(artifact) == ORIGINAL)
    ]


def _name(artifact: Artifact) -> str:
    """What an artifact is, from its history."""
    stages = {step.stage for step in artifact.history}
    if artifact.kind == "engine":
        return f"{artifact.history[-1].config.get('precision', 'typed')} engine"
    if typed := [label for stage in stages if (label := precision_of_stage(stage))]:
        return min(typed)
    if artifact.network.quantization is not None:
        return str(artifact.network.quantization.get("format", "quantized"))
    return "pruned" if "prune" in stages else ORIGINAL


def _label(artifact: Artifact, names: Counter[str]) -> str:
    name = _name(artifact)
    return name if names[name] == 1 else f"{name} ({artifact.directory.name})"


def _hashes(artifact: Artifact) -> frozenset[str]:
    parent = artifact.history[-1].parent
    is_plain_export = artifact.stage == "export-onnx" and artifact.network.quantization is None
    return frozenset({artifact.sha256, *([parent] if is_plain_export and parent else [])})


def in_type(kind: str) -> str:
    """How the arithmetic of a type is described, such as ``in fp16``, or that the list of layers does not show it."""
    return kind if kind == _UNPROVEN else f"in {kind}"


@dataclass(frozen=True)
class Quality:
    """What a step's evaluation found.

    Args:
        stage: Stage that was evaluated.
        psnr_db: Mean PSNR of the restored photographs in dB, 100 where all were equal to the sharp ones.
        blurred_db: Mean PSNR of the blurred photographs that went in, or None in old manifests.
        images: Number of photographs, or None in old manifests.
    """

    stage: str
    psnr_db: float
    blurred_db: float | None
    images: int | None


def last_quality(history: Sequence[Step]) -> Quality | None:
    """The evaluation of the latest step that has one; None where nothing was evaluated.

    Args:
        history: An artifact's steps, oldest first.
    """
    for step in reversed(history):
        figures = step.figures
        if "psnr_db" in figures:
            psnr_db, images = bounded_db(figures["psnr_db"]), figures.get("evaluation_images")
            return Quality(step.stage, psnr_db, blurred_of(figures), images)
    return None
