"""Where a result comes from: the chain of hashes, the versions, and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deblur_deploy.config import precision_of_stage
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.sources import shipped_generator
from deblur_deploy.report.stages import ReportStage

_TABLES = {"prune": "prune", "qat": "qat", "export-onnx": "export", "to-fp16": "fp16", "export-trt": "engine"}
"""Table of a recipe by name of the stage, in the order in which a recipe runs them."""

_SET_BY_RECIPE = {"export": ("evaluate", "evaluation"), "fp16": ("evaluate", "evaluation")}


@dataclass(frozen=True)
class Link:
    """One step of the chain.

    Args:
        stage: Name of the stage.
        created: When it was finished, UTC.
        parent: sha256 of what it started from, or None for the first.
        sha256: sha256 of what it left.
    """

    stage: str
    created: str
    parent: str | None
    sha256: str


def hash_chain(artifact: Artifact) -> tuple[Link, ...]:
    """Every step of an artifact, oldest first; each names the hash of the one before."""
    steps = artifact.history
    results = [*(step.parent or "" for step in steps[1:]), artifact.sha256]
    return tuple(
        Link(step.stage, step.created[:19].replace("T", " "), step.parent, sha256)
        for step, sha256 in zip(steps, results, strict=True)
    )


def library_table(artifact: Artifact) -> list[tuple[str, str]]:
    """Every library that any step ran with, and its versions, oldest first."""
    versions: dict[str, list[str]] = {}
    for step in artifact.history:
        for name, version in step.versions.items():
            if version not in versions.setdefault(name, []):
                versions[name].append(version)
    return [(name, ", ".join(found)) for name, found in versions.items()]


def recipe_text(stages: Sequence[ReportStage], has_timings: bool) -> str | None:
    """A recipe that reproduces the longest chain of a run, as TOML; None where no recipe can.

    A recipe prunes once and quantizes once. The user's own photographs are named as they were on the command line.

    Args:
        stages: Stages of the run.
        has_timings: Whether latencies were measured.
    """
    chain = stages[-1].artifact
    if any(precision_of_stage(step.stage) and step.stage not in _TABLES for step in chain.history):
        return None
    steps = [step for step in chain.history if step.stage in _TABLES]
    names = [_TABLES[step.stage] for step in steps]
    order = list(_TABLES.values())
    if any("max_ms" in step.config for step in steps):  # a recipe cannot promise a frame time, which one machine meets
        return None
    if not steps or len(set(names)) < len(names) or names != sorted(names, key=order.index):
        return None
    lines = []
    shipped = shipped_generator()
    if steps[0].parent != shipped.sha256:
        lines.append(f'# Name the checkpoint with sha256 {steps[0].parent} here.\nsource = "generator"')
    evaluation = next((step.config["evaluation"] for step in steps if step.config.get("evaluation")), None)
    if evaluation:
        lines.append(f"evaluation = {_toml_value(evaluation)}")
    for name, step in zip(names, steps, strict=True):
        lines += _toml_table(name, {k: v for k, v in step.config.items() if k not in _SET_BY_RECIPE.get(name, ())})
    return "\n".join([*lines, *(["[bench]"] if has_timings else [])]).strip() + "\n"


def _toml_table(name: str, table: Mapping[str, Any]) -> list[str]:
    """A table and those in it; fields without a value are left out."""
    plain = {key: value for key, value in table.items() if value is not None and not isinstance(value, dict)}
    lines = ["", f"[{name}]", *(f"{key} = {_toml_value(value)}" for key, value in plain.items())]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _toml_table(f"{name}.{key}", value)
    return lines


def _toml_value(value: Any) -> str:
    """A value in TOML: as in JSON, except for a control character that JSON lets pass."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
