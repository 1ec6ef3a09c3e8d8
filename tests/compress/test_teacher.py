"""Teachers that do harm are told before they teach, and pairs that come out exactly equal break nothing."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.compress.prune import prune
from deblur_deploy.compress.prune import scan as scan_channels
from deblur_deploy.compress.quantize import qat, require_max_drop
from deblur_deploy.compress.quantize import scan as scan_layers
from deblur_deploy.compress.scan_files import write_scan
from deblur_deploy.config import FitConfig, PruneConfig, QatConfig, ShakeConfig, TuningConfig
from deblur_deploy.core.artifact import MANIFEST, Artifact, new_step
from deblur_deploy.core.images import save_rgb
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig

FIT = FitConfig(steps=1, batch=1, crop=32, lr=1e-9, lr_final=1e-9, warmup=1)


def write_pairs(folder: Path, photo: NDArray[np.uint8], blurred: NDArray[np.uint8]) -> None:
    for kind, picture in (("blur", blurred), ("sharp", photo)):
        for name in ("one.png", "two.png"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            save_rgb(folder / kind / name, picture[:64, :64] if name == "one.png" else picture[:48, :64])


def tuning(tmp_path: Path) -> TuningConfig:
    return TuningConfig(str(tmp_path / "pairs"), str(tmp_path / "pairs"), ShakeConfig(length_px=(2.0, 4.0)), FIT)


def save(tmp_path: Path, std: float) -> Artifact:
    """An SRN whose residual is nothing, or noise."""
    torch.manual_seed(1)
    net = SRN(SRNConfig.from_base(16, (1, 1, 1))).eval()
    with torch.no_grad():
        net.head.weight.normal_(std=std) if std else net.head.weight.zero_()
        assert net.head.bias is not None
        net.head.bias.zero_()
    return save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))


@pytest.fixture
def equal(tmp_path: Path, photo: NDArray[np.uint8]) -> tuple[Artifact, TuningConfig]:
    """A network that restores its pairs exactly, for they are not blurred and it changes nothing."""
    write_pairs(tmp_path / "pairs", photo, photo)
    return save(tmp_path, 0.0), tuning(tmp_path)


def manifest(artifact: Artifact) -> dict[str, Any]:
    text = (artifact.directory / MANIFEST).read_text()
    assert "Infinity" not in text
    assert "NaN" not in text
    return dict(json.loads(text)["history"][-1]["figures"])


def test_pruning_ends_where_every_picture_comes_out_equal(
    equal: tuple[Artifact, TuningConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, settings = equal
    config = PruneConfig(keep=0.6, allocation="sensitivity", rounds=2, tuning=settings, importance="l2")
    figures = manifest(prune(source, config, tmp_path / "pruned"))
    assert figures["psnr_db"] is figures["psnr_blurred_db"] is figures["psnr_untuned_db"] is None
    assert (figures["drop_db"], figures["gain_kept"]) == (0.0, None)
    assert {row["drop_db"] for row in figures["scan"]["rows"]} == {0.0}
    assert not caplog.records


def test_quantization_ends_where_every_picture_comes_out_equal(
    equal: tuple[Artifact, TuningConfig], tmp_path: Path
) -> None:
    source, settings = equal
    config = QatConfig(max_drop=0.0, calibration_images=1, tuning=settings)
    quantized = qat(source, config, tmp_path / "qat")
    figures = manifest(quantized)
    assert figures["psnr_db"] is figures["psnr_float_db"] is None
    assert (figures["drop_db"], figures["drops_db"], figures["exempted"]) == (0.0, [0.0], [])
    require_max_drop(quantized, config)


def test_scans_of_equal_pictures_are_written_as_json(equal: tuple[Artifact, TuningConfig], tmp_path: Path) -> None:
    source, settings = equal
    channels = scan_channels(source, PruneConfig(tuning=settings, importance="l2"))
    assert channels.psnr_db == math.inf
    _, plain, chart = write_scan(channels, tmp_path / "scan")
    assert json.loads(plain.read_text())["psnr_db"] is None
    assert "from ∞ dB" in chart.read_text()
    layers = scan_layers(source, QatConfig(calibration_images=1, tuning=settings))
    assert {item.drop_db for item in layers.layers} == {0.0}


def test_a_teacher_that_does_harm_is_told_before_the_first_step(
    tmp_path: Path, photo: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    write_pairs(tmp_path / "pairs", photo, np.roll(photo, 1, axis=1))
    source = save(tmp_path, 0.2)
    told: list[int] = []

    def on_step(step: int, *_: object) -> None:
        told.append(len(caplog.records))

    with caplog.at_level(logging.WARNING):
        pruned = prune(
            source, PruneConfig(keep=0.6, tuning=tuning(tmp_path), importance="l2"), tmp_path / "pruned", on_step
        )
        (record,) = caplog.records
        assert "does harm: what it restores has" in record.getMessage()
        assert "(mean of 2)" in record.getMessage()
        qat(source, QatConfig(calibration_images=1, tuning=tuning(tmp_path)), tmp_path / "qat", on_step)
    assert told == [1, 2]
    figures = manifest(pruned)
    assert figures["gain_kept"] is None
    assert figures["psnr_original_db"] < figures["psnr_blurred_db"]


def test_the_gain_of_a_network_that_was_compressed_twice_is_the_first_one_s(
    tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    write_pairs(tmp_path / "pairs", photo, np.roll(photo, 1, axis=1))
    source, settings = save(tmp_path, 0.01), tuning(tmp_path)
    pruned = prune(source, PruneConfig(keep=0.6, tuning=settings, importance="l2"), tmp_path / "pruned")
    again = qat(pruned, QatConfig(calibration_images=1, tuning=settings), tmp_path / "qat")
    first, second = manifest(pruned), manifest(again)
    assert second["psnr_original_db"] == first["psnr_original_db"] != first["psnr_db"]
    assert second["drop_db"] == pytest.approx(first["psnr_db"] - second["psnr_db"])

    (tmp_path / "pairs" / "blur" / "two.png").unlink()
    (tmp_path / "pairs" / "sharp" / "two.png").unlink()
    elsewhere = qat(pruned, QatConfig(calibration_images=1, tuning=replace(settings)), tmp_path / "other")
    figures = manifest(elsewhere)  # on other pairs the first network is not known, and its source stands in
    assert figures["psnr_original_db"] == figures["psnr_float_db"]
