"""A run as the demo leaves it, with payloads that are no networks: what a report reads is in the manifests."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Artifact, Draft, NetworkSpec, new_step, write_artifact
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.report.photographs import Photograph, View

COST = {"params": 1000, "gmacs": 2.0}
DEVICE = {"cpu": "Test CPU", "cores": 2, "threads": 2, "libraries": {"torch": "2.0"}}


@dataclasses.dataclass(frozen=True)
class Run:
    """A directory with artifacts by name."""

    folder: Path
    artifacts: dict[str, Artifact]

    def time(self, name: str, runtime: str, median: float | None, **changes: Any) -> None:
        """Add a line to the run's samples; None is a row that was skipped."""
        artifact = self.artifacts[name]
        latency = median and {"median": median, "p90": median * 1.1, "p95": median * 1.2, "p99": median * 1.5}
        row = {
            "artifact": str(artifact.directory),
            "sha256": artifact.sha256,
            "runtime": runtime,
            "res": "640x360",
            "latency_ms": latency,
            "stable": True,
            "skipped": None if median else "no such card",
            "windows_ms": [[median]] if median else [],
            "device": DEVICE,
        } | changes
        with (self.folder / "bench.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def quality(psnr_db: float) -> dict[str, Any]:
    return {"psnr_db": psnr_db, "psnr_blurred_db": 24.0, "evaluation_images": 3}


def write(out: Path, parent: Artifact | None, stage: str, figures: dict[str, Any], **changes: Any) -> Artifact:
    """An artifact of one more step; ``changes`` are ``kind``, ``size``, ``quantization`` and ``config``."""
    kind = changes.get("kind", "checkpoint")
    payload = stage.encode() * (changes.get("size", 1000) // len(stage))
    network = NetworkSpec("srn", {}, changes.get("quantization"))
    step = new_step(stage, changes.get("config", {}), parent, figures)
    earlier = parent.history if parent else ()
    draft = Draft(kind, f"{kind}.bin", lambda path: path.write_bytes(payload), network, ImageSpec(), step, earlier)
    return write_artifact(out, draft)


@pytest.fixture
def whole_run(tmp_path: Path) -> Run:
    """Every stage of the demo; the source lies outside."""
    folder = tmp_path / "runs" / "demo"
    exporting = {"kind": "onnx", "config": {"width": 640, "height": 360, "evaluate": True, "evaluation": None}}
    source = write(tmp_path / "source", None, "train", COST)
    made = {"source": source}
    fp32, int8 = {"precision": {"fp32": 1.0}}, {"precision": {"int8": 0.9, "fp32": 0.1}}
    made["onnx-original"] = write(
        folder / "onnx-original", source, "export-onnx", fp32 | quality(25.5), size=8000, **exporting
    )
    made["prune"] = write(folder / "prune", source, "prune", {"params": 400}, config={"keep": 0.7, "macs": None})
    made["onnx-pruned"] = write(
        folder / "onnx-pruned", made["prune"], "export-onnx", fp32 | quality(25.3), size=4000, **exporting
    )
    scheme = {"format": "int8"}
    made["qat"] = write(
        folder / "qat",
        made["prune"],
        "qat",
        {"sensitivity": {"head": 0.1, "body": -0.01}},
        quantization=scheme,
        config={"exempt": ['he"ad'], "tuning": {"photos": None, "fit": {"lr": 1e-06}}},
    )
    made["onnx-int8"] = write(
        folder / "onnx-int8",
        made["qat"],
        "export-onnx",
        int8 | quality(25.25),
        size=1000,
        quantization=scheme,
        **exporting,
    )
    made["onnx-fp16"] = write(
        folder / "onnx-fp16",
        made["onnx-int8"],
        "to-fp16",
        {"precision": {"fp16": 1.0}} | quality(25.26),
        kind="onnx",
        size=1500,
    )
    engine = {
        "target": "RTX 2080 Ti",
        "flavour": "rtx",
        "flavour_version": "1.7",
        "precision": {"fp16": 0.9, "unproven": 0.1},
        "compute_layers": {"a": "fp16", "b": "unproven"},
        "layer_macs": {"a": 9_000_000, "b": 1_000_000},
    }
    made["engine-fp16"] = write(
        folder / "engine-fp16",
        made["onnx-fp16"],
        "export-trt",
        engine,
        kind="engine",
        size=9000,
        config={"precision": "fp16", "target": "RTX 2080 Ti"},
    )
    run = Run(folder, made)
    run.time("source", "torch", 600.0)
    run.time("onnx-original", "openvino", 300.0)
    run.time("onnx-pruned", "openvino", 150.0)
    run.time("onnx-int8", "openvino", 75.0)
    run.time("onnx-int8", "onnxruntime", 250.0, stable=False)
    run.time("engine-fp16", "tensorrt-rtx", None)
    return run


Photographs = Callable[..., tuple[Photograph, ...]]


@pytest.fixture
def photographs(photo: NDArray[np.uint8]) -> Photographs:
    """Makes photographs in four versions that differ in brightness: ``photographs("a.png", "b.png")``."""

    def make(*names: str) -> tuple[Photograph, ...]:
        views = [
            View(label, (photo // divisor).astype(np.uint8), psnr_db)
            for label, divisor, psnr_db in (
                ("blurred", 4, 20.0),
                ("original", 3, 30.0),
                ("int8", 2, 29.5),
                ("sharp", 1, None),
            )
        ]
        return tuple(Photograph(name, tuple(views)) for name in names)

    return make
