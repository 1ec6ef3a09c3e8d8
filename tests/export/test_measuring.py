"""The quality of an exported file is in its manifest, or the reason why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.config import ExportConfig, PrecisionConfig
from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.core.images import save_rgb
from deblur_deploy.data.pairs import load_pairs
from deblur_deploy.export.precision import lower_precision
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.quality.evaluate import evaluate


@pytest.fixture
def source(tmp_path: Path, tiny_config: SRNConfig) -> Artifact:
    torch.manual_seed(0)
    net = SRN(tiny_config)
    return save_network(tmp_path / "source", net, spec_of(net), new_step("import", {}, None, {}))


@pytest.fixture
def photos(tmp_path: Path, photo: NDArray[np.uint8]) -> Path:
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "a.png", photo)
    return tmp_path / "photos"


def test_an_export_is_evaluated_on_the_folder_that_it_is_given(source: Artifact, photos: Path, tmp_path: Path) -> None:
    config = ExportConfig(48, 32, evaluate=True, evaluation=str(photos))
    exported = export_onnx(source, config, tmp_path / "onnx")
    report = evaluate(exported, load_pairs(photos), "onnxruntime")
    figures = exported.history[-1].figures
    assert figures["evaluation_images"] == 1
    for name in ("psnr_db", "psnr_blurred_db", "ssim_matlab", "ssim_skimage"):
        assert figures[name] == pytest.approx(getattr(report, name), abs=1e-9)
    lowered = lower_precision(exported, PrecisionConfig(evaluate=True, evaluation=str(photos)), tmp_path / "fp16")
    assert lowered.history[-1].figures["psnr_db"] == pytest.approx(figures["psnr_db"], abs=0.05)


def test_a_graph_larger_than_the_photographs_says_why_it_has_no_figure(
    source: Artifact, photos: Path, tmp_path: Path
) -> None:
    config = ExportConfig(640, 48, evaluate=True, evaluation=str(photos))
    figures = export_onnx(source, config, tmp_path / "onnx").history[-1].figures
    assert "too few for a crop of 640x48" in figures["quality_skipped"]
    assert "psnr_db" not in figures


def test_without_being_asked_nothing_is_evaluated(source: Artifact, tmp_path: Path) -> None:
    figures = export_onnx(source, ExportConfig(48, 32), tmp_path / "onnx").history[-1].figures
    assert not {"psnr_db", "quality_skipped"} & figures.keys()
