"""Tiny artifacts to measure, and a measurement of them."""

from __future__ import annotations

import pytest
import torch

from deblur_deploy.bench.entries import all_entries
from deblur_deploy.bench.measure import BenchConfig, BenchReport, measure
from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.core.images import Resolution
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny SRN of random weights."""
    torch.manual_seed(0)
    net = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval()
    return save_network(tmp_path_factory.mktemp("tiny") / "net", net, spec_of(net), new_step("import", {}, None, {}))


@pytest.fixture(scope="session")
def tiny_graph(tiny_checkpoint: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The tiny SRN as ONNX, for 32x16."""
    return export_onnx(tiny_checkpoint, ExportConfig(32, 16), tmp_path_factory.mktemp("tiny") / "onnx")


@pytest.fixture(scope="session")
def quick() -> BenchConfig:
    """Six inferences of 32x16, which always agree."""
    return BenchConfig(Resolution(32, 16), threads=1, warmup_ms=0, duration_ms=0, min_iterations=6, tolerance=9)


@pytest.fixture(scope="session")
def tiny_report(tiny_checkpoint: Artifact, quick: BenchConfig) -> BenchReport:
    """The tiny SRN in PyTorch."""
    return measure(all_entries([tiny_checkpoint]), quick)
