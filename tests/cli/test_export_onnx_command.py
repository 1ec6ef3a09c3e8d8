"""``export-onnx`` with free sizes, camera frames and every form, and the commands that take what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Artifact, load_artifact, new_step
from deblur_deploy.core.images import load_rgb, save_rgb
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.manual_seed(0)
    net = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval()
    torch.nn.init.normal_(net.head.weight, std=0.02)
    figures = {"params": 1, "gmacs": 0.0}
    return save_network(
        tmp_path_factory.mktemp("net") / "net", net, spec_of(net), new_step("import", {}, None, figures)
    )


@pytest.fixture(scope="module")
def frames_file(run, checkpoint: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A file of camera frames for every size."""
    out = tmp_path_factory.mktemp("onnx") / "onnx"
    outcome = run("export-onnx", checkpoint.directory, "--dynamic", "--io", "uint8", "--res", "50x36", "--out", out)
    assert "input     NxHxWx3 (NHWC, uint8)" in outcome.done().out
    assert outcome.out.count("mean of 2 photographs\n") == 1
    return load_artifact(out)


def test_what_was_asked_for_is_in_file_and_manifest(frames_file: Artifact) -> None:
    assert frames_file.image.dtype == "uint8"
    assert (frames_file.image.layout, frames_file.image.height, frames_file.image.width) == ("NHWC", None, None)
    assert frames_file.figures["evaluation_images"] == 2  # in full: any size is taken
    shape = onnx.load(frames_file.path).graph.input[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ["batch", "height", "width", 3]


def test_a_file_of_one_size_is_said_to_have_seen_parts_of_the_photographs(run, checkpoint: Artifact, tmp_path) -> None:
    outcome = run("export-onnx", checkpoint.directory, "--res", "50x36", "--out", tmp_path / "onnx").done()
    assert "mean of 2 photographs, of each the middle 50x36" in outcome.out
    assert "opset" not in outcome.err


def test_a_file_of_frames_is_verified_evaluated_and_timed(run, checkpoint: Artifact, frames_file: Artifact) -> None:
    verified = run("verify", checkpoint.directory, frames_file.directory, "--json").done().json
    assert verified["passed"]
    assert 0 < verified["max_abs"] < 0.01
    assert run("eval", frames_file.directory, "--json").done().json["images"] == 2
    timed = (
        run("bench", frames_file.directory, "--res", "50x36", "--seconds", 0.01, "--threads", 1, "--json").done().json
    )
    rows = {row["runtime"]: row["skipped"] for row in timed["results"]}
    assert rows["onnxruntime"] is None
    assert rows["openvino"] is None


def test_a_file_of_frames_restores_pictures(
    run, checkpoint: Artifact, frames_file: Artifact, tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    save_rgb(tmp_path / "photo.png", photo[:53, :70])
    restored = []
    for source in (checkpoint, frames_file):
        out = tmp_path / source.kind
        run("infer", source.directory, tmp_path / "photo.png", "--out", out).done()
        restored.append(load_rgb(next(out.glob("*.png"))).astype(int))
    assert np.abs(restored[0] - restored[1]).max() <= 1


@pytest.mark.parametrize(
    ("option", "value"), [("--io", "float16"), ("--deform-op", "torchvision")], ids=["io", "deform-op"]
)
def test_other_forms_are_bad_usage(refuse, checkpoint: Artifact, option: str, value: str) -> None:
    assert value in refuse(2, "export-onnx", checkpoint.directory, option, value)
