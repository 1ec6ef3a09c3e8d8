"""Artifacts that an earlier release of the package wrote still load, and give the picture that they gave then.

``made_before`` has one of each kind, of an SRN of 7,227 parameters: a float checkpoint, a quantized one, its ONNX file,
a typed FP16 file, and the manifest of an engine, whose own three megabytes are left out. ``restored.npz`` is what each
gave at the time, in eager PyTorch or in onnxruntime.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deblur_deploy import load_artifact, open_runner
from deblur_deploy.core.artifact import MANIFEST, hash_file
from deblur_deploy.core.sources import describe
from deblur_deploy.runtime.runner import reason_unavailable, runtimes_for

MADE = Path(__file__).parent / "made_before"


@pytest.mark.parametrize(
    ("name", "runtime", "stages"),
    [
        ("checkpoint", "torch", ["import"]),
        ("quantized", "torch", ["import", "qat"]),
        ("onnx", "onnxruntime", ["import", "qat", "export-onnx"]),
        ("typed", "onnxruntime", ["import", "export-onnx", "to-fp16"]),
    ],
)
def test_an_old_artifact_gives_its_picture(name: str, runtime: str, stages: list[str]) -> None:
    artifact = load_artifact(MADE / name)
    assert [step.stage for step in artifact.history] == stages
    assert artifact.network.arch == "srn"
    picture = np.random.default_rng(0).random((1, 3, 24, 32), dtype=np.float32)
    with open_runner(artifact, runtime, threads=1) as runner:
        restored = runner.infer(picture)
    expected = np.load(MADE / "restored.npz")[name]
    # The network is not trained: values reach hundreds, and float16 or INT8 rounds them as coarsely.
    tolerance = 1e-4 if name == "checkpoint" else 5e-3
    assert np.abs(restored - expected).max() <= tolerance * np.abs(expected).max()


def hash_of(facts: dict[str, Any]) -> str:
    """The hash that a manifest has of itself, as it was computed at the time."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def test_the_manifest_of_an_old_engine_is_read(tmp_path: Path) -> None:
    shutil.copytree(MADE / "engine", tmp_path / "engine")
    manifest = json.loads((tmp_path / "engine" / MANIFEST).read_text(encoding="utf-8"))
    assert manifest.pop("manifest_sha256") == hash_of(manifest)
    payload = tmp_path / "engine" / manifest["file"]
    payload.write_bytes(b"the engine itself is not kept")
    manifest["sha256"] = hash_file(payload)
    manifest["manifest_sha256"] = hash_of(manifest)
    (tmp_path / "engine" / MANIFEST).write_text(json.dumps(manifest))

    engine = load_artifact(tmp_path / "engine")

    assert [step.stage for step in engine.history] == ["import", "export-onnx", "to-fp16", "export-trt"]
    assert engine.figures["precision"]["fp16"] == 1.0
    assert "engine" in describe(engine)
    assert runtimes_for(engine) == ("tensorrt-rtx", "tensorrt-rtx-no-graph")
    reason = reason_unavailable(engine, "tensorrt-rtx")
    assert reason is None or "RTX 3060" in reason
