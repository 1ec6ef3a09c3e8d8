"""What a run's scans found: dB lost by narrower groups of channels, by quantized layers, and by shorter frame times."""

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
class FrameFront:
    """What networks pruned to several frame times lose, as ``prune --curve`` compares them.

    Args:
        timed_as: Runtime, precision and size of the frame.
        whole_ms: What a frame of the unpruned network takes.
        points: Predicted milliseconds, dB lost before fine-tuning, and channels kept; by frame time.
    """

    timed_as: str
    whole_ms: float
    points: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True)
class Scans:
    """Everything that scans measured; empty where there was none.

    Args:
        groups: One curve for each group of channels.
        layers: dB lost when a layer alone is quantized, the most sensitive first.
        front: Quality against frame time, None where no budget of a comparison could be met.
    """

    groups: tuple[GroupCurve, ...] = ()
    layers: tuple[tuple[str, float], ...] = ()
    front: FrameFront | None = None


def read_scans(run: Path, stages: Sequence[ReportStage]) -> Scans:
    """Read scans from the stages' histories, else from the files that ``prune`` and ``qat`` write.

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
    quantized = tuple((str(name), float(drop)) for name, drop in ranked)
    return Scans(_curves(groups["rows"]) if groups else (), quantized, _front(run))


_LISTS = {"scan.json": "rows", "sensitivity.json": "layers", "frame-times.json": "points"}
"""What is a list in each file of a scan."""


def _newest(run: Path, name: str) -> dict[str, Any] | None:
    files = sorted(run.rglob(name), key=lambda path: path.stat().st_mtime_ns)
    if not files:
        return None
    key = _LISTS[name]
    try:
        found = json.loads(files[-1].read_text(encoding="utf-8"))
        if not isinstance(found[key], list):
            raise TypeError(f"{key} is not a list")
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ArtifactError(
            f"{files[-1]} is not a complete scan: {err}", hint="scan again, or remove the file"
        ) from err
    return dict(found)


def _curves(rows: Sequence[dict[str, Any]]) -> tuple[GroupCurve, ...]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        curves.setdefault(", ".join(row["layers"]), []).append((float(row["share"]), float(row["drop_db"])))
    return tuple(GroupCurve(name, tuple(points)) for name, points in curves.items())


def _front(run: Path) -> FrameFront | None:
    name = "frame-times.json"
    found = _newest(run, name)
    if found is None:
        return None
    try:
        points = tuple(
            (float(point["predicted_ms"]), float(point["predicted_drop_db"]), int(point["kept"]))
            for point in found["points"]
            if "reason" not in point
        )
        timed_as = f"{found['runtime']}, {found['precision']}, {found['res']}"
        return FrameFront(timed_as, float(found["whole_ms"]), points) if points else None
    except (KeyError, TypeError, ValueError) as err:
        raise ArtifactError(
            f"a {name} in {run} is not a complete comparison: {err}",
            hint="run `prune --curve` again, or remove the file",
        ) from err
