"""Evaluation: figures worked out by hand, crops for fixed sizes, and the same figures through every runner."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy import evaluate as evaluate_module
from deblur_deploy.artifact import Artifact, new_step
from deblur_deploy.data.pairs import Pair
from deblur_deploy.errors import ArtifactError, ConfigError
from deblur_deploy.evaluate import evaluate, evaluate_network
from deblur_deploy.images import ImageSpec
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig

Image8 = NDArray[np.uint8]


class FakeRunner:
    """Adds a constant, in 8-bit steps, to every picture."""

    name = "fake"

    def __init__(self, steps: float, image: ImageSpec) -> None:
        self.steps = steps
        self.image = image
        self.sizes: list[tuple[int, ...]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.sizes.append(batch.shape)
        return batch + np.float32(self.steps / 255)


UseFake = Callable[..., FakeRunner]


@pytest.fixture
def use_fake(monkeypatch: pytest.MonkeyPatch) -> UseFake:
    """Evaluation through a fake runner instead of a network."""

    def use(steps: float, image: ImageSpec | None = None) -> FakeRunner:
        runner = FakeRunner(steps, image or ImageSpec())
        monkeypatch.setattr(evaluate_module, "open_runner", lambda artifact, runtime: runner)
        return runner

    return use


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_config: SRNConfig) -> Artifact:
    torch.manual_seed(0)
    net = SRN(tiny_config)
    torch.nn.init.normal_(net.head.weight, std=0.1)
    return save_network(tmp_path / "checkpoint", net, spec_of(net), new_step("import", {}, None, {}))


def flat(value: int, height: int = 20, width: int = 24) -> Image8:
    return np.full((height, width, 3), value, np.uint8)


def psnr(error: float) -> float:
    return 10 * math.log10(255**2 / error**2)


def ssim_of_flat(a: float, b: float) -> float:
    """SSIM of two flat pictures: variances are zero, and the luminance term is all that is left."""
    c1 = (0.01 * 255) ** 2
    return (2 * a * b + c1) / (a * a + b * b + c1)


def test_figures_are_means_of_each_image_by_hand(use_fake: UseFake, checkpoint: Artifact) -> None:
    use_fake(4)
    pairs = [Pair("a.png", flat(100), flat(110)), Pair("b.png", flat(60), flat(62))]
    report = evaluate(checkpoint, pairs)
    first, second = report.per_image
    assert (first.name, second.name) == ("a.png", "b.png")
    assert first.psnr_db == pytest.approx(psnr(6))
    assert second.psnr_db == pytest.approx(psnr(2))
    assert report.psnr_db == pytest.approx((psnr(6) + psnr(2)) / 2)
    assert report.psnr_blurred_db == pytest.approx((psnr(10) + psnr(2)) / 2)
    by_hand = (ssim_of_flat(104, 110) + ssim_of_flat(64, 62)) / 2
    assert report.ssim_matlab == pytest.approx(by_hand)
    assert report.ssim_skimage == pytest.approx(by_hand)


@pytest.mark.parametrize(("steps", "expected"), [(4.4, 4), (4.6, 5), (-300.0, -100), (300.0, 155)])
def test_pictures_are_clipped_and_rounded_before_they_are_compared(
    use_fake: UseFake, checkpoint: Artifact, steps: float, expected: int
) -> None:
    use_fake(steps)
    report = evaluate(checkpoint, [Pair("a.png", flat(100), flat(110))])
    assert report.psnr_db == pytest.approx(psnr(abs(expected - 10)))


def test_json_has_the_documented_keys_and_no_infinity(use_fake: UseFake, checkpoint: Artifact) -> None:
    use_fake(10)
    plain = evaluate(checkpoint, [Pair("a.png", flat(100), flat(110))]).as_json()
    keys = {"artifact", "images", "psnr_db", "psnr_blurred_db", "ssim_matlab", "ssim_skimage", "per_image"}
    assert plain.keys() == keys
    assert plain["artifact"] == str(checkpoint.directory)
    assert plain["images"] == 1
    assert plain["psnr_db"] is None
    assert plain["ssim_matlab"] == pytest.approx(1)
    assert plain["per_image"][0].keys() == keys - {"artifact", "images", "per_image"} | {"name"}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_a_fixed_size_gets_the_middle_of_each_photograph(use_fake: UseFake, checkpoint: Artifact) -> None:
    runner = use_fake(0, ImageSpec(height=12, width=16))
    blurred, sharp = flat(0), flat(0)
    blurred[4:16, 4:20] = 7  # exactly the crop; the border, which is wrong by nothing, must not count
    report = evaluate(checkpoint, [Pair("a.png", blurred, sharp)])
    assert runner.sizes == [(1, 3, 12, 16)]
    assert report.psnr_db == report.psnr_blurred_db == pytest.approx(psnr(7))


def test_a_photograph_below_the_fixed_size_is_named(use_fake: UseFake, checkpoint: Artifact) -> None:
    use_fake(0, ImageSpec(height=12, width=30))
    with pytest.raises(ArtifactError, match=r"a\.png has 24x20 pixels"):
        evaluate(checkpoint, [Pair("a.png", flat(1), flat(1))])


def test_no_pairs_is_an_error(checkpoint: Artifact) -> None:
    with pytest.raises(ConfigError, match="no pairs"):
        evaluate(checkpoint, [])


def test_a_network_in_memory_scores_as_its_artifact_and_keeps_its_mode(checkpoint: Artifact, photo: Image8) -> None:
    pairs = [Pair("a.png", photo[::-1], photo), Pair("b.png", photo[:, ::-1], photo)]
    report = evaluate(checkpoint, pairs)
    assert report.runtime == "torch"
    net = load_network(checkpoint).train()
    assert evaluate_network(net, pairs) == pytest.approx(report.psnr_db)
    assert net.training
    assert not load_network(checkpoint).training
