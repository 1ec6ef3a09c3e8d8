"""Verification: errors worked out by hand, bounds that hold, and two forms of one real network."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact, NetworkSpec, Step, new_step
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.quality import verify as verify_module
from deblur_deploy.quality.verify import (
    FLOAT_TOLERANCES,
    REDUCED_TOLERANCES,
    Tolerances,
    default_tolerances,
    drift_between,
    verify,
)

Image8 = NDArray[np.uint8]


class FakeRunner:
    """Gives back its input with one error added at one value."""

    image = ImageSpec()

    def __init__(self, error: float) -> None:
        self.error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        restored = batch.copy()
        restored[0, 0, 0, 0] += self.error
        return restored


def artifact(name: str, stage: str = "import", quantized: bool = False, image: ImageSpec | None = None) -> Artifact:
    """Facts of an artifact that is not on disk."""
    spec = NetworkSpec("srn", {}, {"bits": 8} if quantized else None)
    history = (Step(stage, {}, {}, None, "", {}),)
    return Artifact("checkpoint", Path(name) / "weights", name, spec, image or ImageSpec(), history)


@pytest.fixture
def use_errors(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runners that make these errors, by name of the artifact."""

    def use(**errors: float) -> None:
        monkeypatch.setattr(verify_module, "open_runner", lambda artifact, _: FakeRunner(errors[artifact.sha256]))

    return use


A, B = artifact("a"), artifact("b")
BLACK = np.zeros((4, 5, 3), np.uint8)  # 60 values


def test_errors_by_hand_over_all_images(use_errors: Callable[..., None]) -> None:
    use_errors(a=0.0, b=-0.5)
    report = verify(A, B, [BLACK, BLACK[:2]], Tolerances())  # 60 + 30 values, two of them off by 0.5
    assert report.max_abs == pytest.approx(0.5)
    assert report.mean_abs == pytest.approx(2 * 0.5 / 90)
    assert report.psnr_db == pytest.approx(10 * math.log10(90 / (2 * 0.25)))
    assert report.passed


@pytest.mark.parametrize(
    ("tolerances", "passed"),
    [
        (Tolerances(max_abs=0.51), True),
        (Tolerances(max_abs=0.49), False),
        (Tolerances(mean_abs=0.0084), True),
        (Tolerances(mean_abs=0.0083), False),
        (Tolerances(psnr_db=23.8), True),
        (Tolerances(psnr_db=23.9), False),
        (Tolerances(max_abs=0.51, psnr_db=23.9), False),
    ],
)
def test_each_bound_holds(use_errors: Callable[..., None], tolerances: Tolerances, passed: bool) -> None:
    use_errors(a=0.0, b=0.5)
    assert verify(A, B, [BLACK], tolerances).passed is passed


def test_equal_outputs_pass_any_bound(use_errors: Callable[..., None]) -> None:
    use_errors(a=0.25, b=0.25)
    report = verify(A, B, [BLACK], Tolerances(0.0, 0.0, 100.0))
    assert report.passed
    assert report.psnr_db == math.inf
    assert report.as_json() == {
        "max_abs": 0.0,
        "mean_abs": 0.0,
        "psnr_db": None,
        "noise_psnr_db": None,
        "passed": True,
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_output_that_is_no_number_never_passes(use_errors: Callable[..., None], bad: float) -> None:
    use_errors(a=0.0, b=bad)
    report = verify(A, B, [BLACK, BLACK], Tolerances())
    assert not report.passed
    plain = report.as_json()
    assert plain.keys() == {"max_abs", "mean_abs", "psnr_db", "noise_psnr_db", "passed"}
    json.dumps(plain, allow_nan=False)


class Rounding(FakeRunner):
    """Rounds to whole codes, whose place an offset moves: a value between two codes falls to either side."""

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.round(batch * 8 + self.error).astype(np.float32) / 8


def test_a_quantized_network_is_held_to_what_noise_does_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized = artifact("q", quantized=True), artifact("r", quantized=True)
    offsets = {"q": 0.0, "r": 1e-7, "b": 0.2}
    monkeypatch.setattr(verify_module, "open_runner", lambda artifact, _: Rounding(offsets[artifact.sha256]))
    between = np.full((16, 16, 3), 0, np.uint8)
    batch = np.full((1, 3, 16, 16), 0.5 / 8, np.float32)  # every value lies between two codes
    monkeypatch.setattr(verify_module, "to_batch", lambda image: batch)

    near = verify(*quantized, [between])
    assert near.psnr_db < REDUCED_TOLERANCES.psnr_db
    assert near.noise_psnr_db is not None
    assert near.passed
    assert verify(*quantized, [between], REDUCED_TOLERANCES).passed is False  # what was asked for holds

    monkeypatch.setattr(verify_module, "to_batch", lambda image: batch * 0 + 0.3 / 8)  # and here none does
    far = verify(quantized[0], dataclasses.replace(quantized[1], sha256="b"), [between])
    assert far.psnr_db == math.inf
    offsets["b"] = 1.0
    assert not verify(quantized[0], dataclasses.replace(quantized[1], sha256="b"), [between]).passed


def test_bounds_follow_the_precisions() -> None:
    assert default_tolerances(A, B) == FLOAT_TOLERANCES
    for other in (
        artifact("b", quantized=True),
        artifact("b", stage="to-fp16"),
        artifact("b", stage="to-bf16"),
        dataclasses.replace(B, kind="engine"),
    ):
        assert default_tolerances(A, other) == REDUCED_TOLERANCES


def test_two_sizes_cannot_be_compared() -> None:
    a, b = artifact("a", image=ImageSpec(height=4, width=5)), artifact("b", image=ImageSpec(height=8, width=5))
    with pytest.raises(ConfigError, match="5x4 and the other 5x8"):
        verify(a, b, [BLACK])


def test_no_images_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no images"):
        verify(A, B, [])


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact, Artifact]:
    """Two networks that differ, and the ONNX file of the first for 50x36."""
    runs = tmp_path_factory.mktemp("verify")
    checkpoints = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = SRN(SRNConfig.from_base(8, (1, 1, 1)))
        torch.nn.init.normal_(net.head.weight, std=0.1)
        torch.nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.1)
        checkpoints.append(save_network(runs / str(seed), net, spec_of(net), new_step("import", {}, None, {})))
    return checkpoints[0], checkpoints[1], export_onnx(checkpoints[0], ExportConfig(50, 36), runs / "onnx")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_exported_network_is_verified_against_its_checkpoint(
    chain: tuple[Artifact, Artifact, Artifact], photo: Image8, runtime: str
) -> None:
    network, _, exported = chain
    report = verify(network, exported, [photo, photo[::-1]], runtimes=(None, runtime))
    assert report.passed
    assert report.max_abs <= 1e-4
    assert report.psnr_db > 80


def test_another_network_fails(chain: tuple[Artifact, Artifact, Artifact], photo: Image8) -> None:
    _, other, exported = chain
    report = verify(other, exported, [photo])
    assert not report.passed
    assert report.max_abs > 0.01


def test_an_image_below_the_exported_size_is_an_error(
    chain: tuple[Artifact, Artifact, Artifact], photo: Image8
) -> None:
    network, _, exported = chain
    with pytest.raises(ArtifactError, match="image 1 has 40x36 pixels"):
        verify(network, exported, [photo[:36, :40]])


def test_drift_is_measured_between_two_checkpoints_and_no_others(
    chain: tuple[Artifact, Artifact, Artifact], photo: Image8
) -> None:
    network, other, exported = chain
    drift = drift_between(network, other, [photo])
    assert drift is not None
    assert len(drift.scales) == 3
    assert len(drift.applications) == 30
    assert min(drift.scales + drift.applications) > 1e-4
    same = drift_between(network, network, [photo])
    assert same is not None
    assert max(same.scales + same.applications) == 0
    assert drift_between(network, exported, [photo]) is None
