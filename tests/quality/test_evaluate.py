"""Evaluation: figures worked out by hand, crops for fixed sizes, and the same figures through every runner."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import sys
import tracemalloc
import types
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.core.errors import ArtifactError, ConfigError, VerificationError
from deblur_deploy.core.images import ImageSpec, save_rgb
from deblur_deploy.data.pairs import Pair, PairsOnDisk
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.quality import evaluate as evaluate_module
from deblur_deploy.quality.evaluate import (
    EvalConfig,
    artifact_quality,
    evaluate,
    evaluate_network,
    network_quality,
    write_report,
)

Image8 = NDArray[np.uint8]

FIGURES = ["psnr_db", "psnr_blurred_db", "ssim_matlab", "ssim_matlab_blurred", "ssim_skimage", "ssim_skimage_blurred"]


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
    of_blurred = (ssim_of_flat(100, 110) + ssim_of_flat(60, 62)) / 2
    assert report.ssim_matlab_blurred == pytest.approx(of_blurred)
    assert report.ssim_skimage_blurred == pytest.approx(of_blurred)


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
    keys = {"artifact", "images", "per_image", *FIGURES}
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


def test_memory_does_not_grow_with_the_number_of_pairs(
    use_fake: UseFake, checkpoint: Artifact, photo: Image8, tmp_path: Path
) -> None:
    use_fake(4)
    photo, peaks = photo[:80, :80], []
    for count in (3, 12):
        for kind in ("blur", "sharp"):
            (tmp_path / str(count) / kind).mkdir(parents=True)
            for index in range(count):
                save_rgb(tmp_path / str(count) / kind / f"{index}.png", photo)
        pairs = PairsOnDisk(tmp_path / str(count))
        tracemalloc.start()
        assert len(evaluate(checkpoint, pairs).per_image) == len(pairs) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 5 * photo.nbytes  # all 12 would be 18 more


def test_each_image_is_told_when_it_is_done(use_fake: UseFake, checkpoint: Artifact) -> None:
    use_fake(4)
    done: list[int] = []
    evaluate(checkpoint, iter([Pair("a.png", flat(1), flat(1))] * 3), on_image=done.append)
    assert done == [1, 2, 3]


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


def test_the_quality_that_manifests_keep_is_that_of_an_evaluation(checkpoint: Artifact, photo: Image8) -> None:
    pairs = [Pair("a", photo[::-1], photo), Pair("b", photo, photo[::-1, ::-1])]
    report = evaluate(checkpoint, pairs)
    wanted = {key: getattr(report, key) for key in ("psnr_db", "psnr_blurred_db", "ssim_matlab", "ssim_skimage")}
    quality = artifact_quality(checkpoint, pairs)
    assert quality == wanted | {"evaluation_images": 2}
    net = load_network(checkpoint).train()
    assert network_quality(net, pairs) == pytest.approx(quality, abs=1e-9)
    assert net.training


def test_a_table_and_a_summary_are_written(use_fake: UseFake, checkpoint: Artifact, tmp_path: Path) -> None:
    use_fake(4)
    report = evaluate(checkpoint, [Pair("seq/a.png", flat(100), flat(110)), Pair("b.png", flat(60), flat(64))])
    assert write_report(report, tmp_path / "new" / "scores.csv") == tmp_path / "new" / "scores.json"
    with (tmp_path / "new" / "scores.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == ["name", *FIGURES]
    assert first["name"] == "seq/a.png"
    assert float(first["psnr_db"]) == pytest.approx(psnr(6))
    assert second["psnr_db"] == ""  # infinite
    summary = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert summary["images"] == 2
    assert summary["runtime"] == "fake"
    assert summary["ssim_matlab_blurred"] == pytest.approx(report.ssim_matlab_blurred)
    assert summary["psnr_blurred_db"] == pytest.approx((psnr(10) + psnr(4)) / 2)
    assert "per_image" not in summary


def test_a_full_disk_keeps_the_older_table(
    use_fake: UseFake, checkpoint: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake(4)
    report = evaluate(checkpoint, [Pair("a.png", flat(100), flat(110))])
    write_report(report, tmp_path / "scores.csv")
    before = (tmp_path / "scores.csv").read_bytes()

    def full(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text.encode()[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ArtifactError, match=r"scores\.csv cannot be written.*No space left"):
        write_report(report, tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*scores*")) == ["scores.csv", "scores.json"]


def test_a_table_named_json_is_refused(use_fake: UseFake, checkpoint: Artifact, tmp_path: Path) -> None:
    use_fake(4)
    report = evaluate(checkpoint, [Pair("a.png", flat(100), flat(110))])
    with pytest.raises(ConfigError, match="both the table and its summary"):
        write_report(report, tmp_path / "scores.json")


def test_alignment_forgives_a_shift_and_says_so(use_fake: UseFake, checkpoint: Artifact, photo: Image8) -> None:
    use_fake(0)
    pairs = [Pair("a.png", np.roll(photo, (1, 2), axis=(0, 1)), photo)]
    plain = evaluate(checkpoint, pairs)
    aligned = evaluate(checkpoint, pairs, config=EvalConfig(align=True))
    assert aligned.psnr_db > plain.psnr_db + 10
    assert aligned.ssim_skimage > plain.ssim_skimage
    assert aligned.psnr_blurred_db == aligned.psnr_db
    assert aligned.as_json()["aligned"]


def test_lpips_that_cannot_be_imported_is_skipped_with_the_reason(
    use_fake: UseFake, checkpoint: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake(4)
    monkeypatch.setitem(sys.modules, "lpips", None)
    report = evaluate(checkpoint, [Pair("a.png", flat(100), flat(110))], config=EvalConfig(lpips=True))
    plain = report.as_json()
    assert plain["lpips"] is None
    assert "deblur-deploy[lpips]" in plain["lpips_skipped"]
    assert plain["per_image"][0]["lpips"] is None
    assert report.psnr_db == pytest.approx(psnr(6))


def test_lpips_is_measured_where_package_and_weights_are(
    use_fake: UseFake, checkpoint: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class MeanDifference(torch.nn.Module):
        """In the place of LPIPS: pictures come in its range, from -1 to 1."""

        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            assert net == "alex"

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return (first - second).abs().mean().view(1, 1, 1, 1)

    use_fake(4)
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=MeanDifference))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    pairs = [Pair("a.png", flat(100), flat(110))]
    missing = evaluate(checkpoint, pairs, config=EvalConfig(lpips=True))
    assert "would have to download" in (missing.lpips_skipped or "")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    report = evaluate(checkpoint, pairs, config=EvalConfig(lpips=True))
    assert report.lpips_skipped is None
    assert report.as_json()["lpips"] == pytest.approx(2 * 6 / 255, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_gives_no_numbers_is_refused(photo: Image8, value: float) -> None:
    class Broken(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.where(image > 0.1, value)

    pairs = [Pair("dark.png", photo, photo)]
    for measure in (evaluate_network, network_quality):
        with pytest.raises(VerificationError, match=r"gives NaN or infinite values for dark\.png on torch"):
            measure(Broken(), pairs)
