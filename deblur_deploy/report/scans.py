"""What a run's scans found: the loss in dB of narrower groups of channels, and of quantized layers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.report.stages import ReportStage


@dataclass(frozen=True)
class GroupCurve:
    """Loss of one group of channels.

    Args:
        name: Names of the layers whose outputs the channels are.
        points: Share of the channels kept, and dB lost; from wide to narrow, without the whole group.
    """

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Scans:
    """Everything that scans measured; empty where there was none.

    Args:
        groups: One curve for each group of channels.
        layers: dB lost when a layer alone is quantized, the most sensitive first.
    """

    groups: tuple[GroupCurve, ...] = ()
    layers: tuple[tuple[str, float], ...] = ()


def read_scans(run: Path, stages: Sequence[ReportStage]) -> Scans:
    """Read scans from the stages' histories, else from the files that ``prune --scan`` and ``qat --scan`` write.

    Args:
        run: Directory of the run.
        stages: Its stages.

    Raises:
        ArtifactError: A file of a scan is damaged; it is named.
    """
    steps = [step for stage in stages for step in stage.artifact.history]
    groups = next((step.figures["scan"] for step in steps if step.figures.get("scan")), None) or _newest(
        run, "scan.json"
    )
    layers = next((step.figures["sensitivity"] for step in steps if step.figures.get("sensitivity")), None)
    if layers is None and (scan := _newest(run, "sensitivity.json")):
        layers = {item["layer"]: item["drop_db"] for item in scan["layers"]}
    ranked = sorted((layers or {}).items(), key=lambda item: -item[1])
    return Scans(_curves(groups["rows"]) if groups else (), tuple((str(name), float(drop)) for name, drop in ranked))


def _newest(run: Path, name: str) -> dict[str, Any] | None:
    files = sorted(run.rglob(name), key=lambda path: path.stat().st_mtime_ns)
    if not files:
        return None
    key = "rows" if name == "scan.json" else "layers"
    try:
        found = json.loads(files[-1].read_text(encoding="utf-8"))
        if not isinstance(found[key], list):
            raise TypeError(f"{key} is no list")
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ArtifactError(f"{files[-1]} is no whole scan: {err}", hint="scan again, or remove the file") from err
    return dict(found)


def _curves(rows: Sequence[dict[str, Any]]) -> tuple[GroupCurve, ...]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        curves.setdefault(", ".join(row["layers"]), []).append((float(row["share"]), float(row["drop_db"])))
    return tuple(GroupCurve(name, tuple(points)) for name, points in curves.items())
