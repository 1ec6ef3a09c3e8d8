"""Networks other than the one that is shipped, each on the whole way from a checkpoint to an engine and a latency."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.artifact import Artifact, new_step
from deblur_deploy.bench.measure import BenchConfig, all_entries, measure
from deblur_deploy.compress.prune import prune
from deblur_deploy.compress.quantize import qat
from deblur_deploy.config import (
    EngineConfig,
    ExportConfig,
    FitConfig,
    PrecisionConfig,
    PruneConfig,
    QatConfig,
    ShakeConfig,
    TuningConfig,
)
from deblur_deploy.engine.build import build_engine
from deblur_deploy.export.precision import lower_precision
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.images import Resolution, save_rgb
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.deblurgan_v2 import DeblurGANv2Config, DeblurGANv2Inception, DeblurGANv2MobileNet
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.mimo_unet import MIMOUNet, MIMOUNetPlus
from deblur_deploy.network.own_network import OwnConfig, OwnNetwork
from deblur_deploy.network.srn_cvpr18 import SRNCVPR18, SRNCVPR18Config
from deblur_deploy.runtime.runner import open_runner

pytestmark = pytest.mark.rtx

OWN = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    '''Every layer and operation that pruning follows beyond those of the networks here.'''

    def __init__(self, width=24):
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.InstanceNorm2d(2 * width), nn.LeakyReLU(0.2))
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(2 * width, 2 * width, 3),
            nn.BatchNorm2d(2 * width),
            nn.PReLU(2 * width),
        )
        self.up = nn.ConvTranspose2d(2 * width, width, 4, 2, 1)
        self.fuse = nn.Conv2d(2 * width + 3, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        fine = F.relu(self.enter(x))
        coarse = self.down(fine)
        coarse = F.instance_norm(coarse + self.body(coarse))
        return x + self.last(F.silu(self.fuse(torch.cat([x, fine, self.up(coarse)], dim=1))))
"""

NETWORKS: dict[str, Callable[[], Generator]] = {
    "srn-cvpr18 color": lambda: SRNCVPR18(SRNCVPR18Config("color")),
    "srn-cvpr18 gray": lambda: SRNCVPR18(SRNCVPR18Config("gray")),
    "srn-cvpr18 lstm": lambda: SRNCVPR18(SRNCVPR18Config("lstm")),
    "mimo-unet": MIMOUNet,
    "mimo-unet-plus": MIMOUNetPlus,
    "deblurgan-v2-mobilenet image": lambda: DeblurGANv2MobileNet(DeblurGANv2Config("image")),
    "deblurgan-v2-mobilenet folded": lambda: DeblurGANv2MobileNet(DeblurGANv2Config("folded")),
    "deblurgan-v2-inception": DeblurGANv2Inception,
    "own": lambda: OwnNetwork("others_network:Net", OwnConfig(multiple_of=2)),
}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Generator]]:
    """Makes one of the networks with random weights, the same every time."""
    (tmp_path / "others_network.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def make_network(name: str) -> Generator:
        torch.manual_seed(0)
        return NETWORKS[name]().eval()

    yield make_network
    sys.modules.pop("others_network", None)


@pytest.fixture
def tuning(photo: NDArray[np.uint8], tmp_path: Path) -> TuningConfig:
    """One step on one crop: what is tested is that it can be done."""
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "drawn.png", photo)
    folder = str(tmp_path / "photos")
    fit = FitConfig(1, batch=1, crop=64, lr=1e-6, lr_final=1e-7, warmup=0, ema_decay=0)
    return TuningConfig(folder, folder, ShakeConfig(length_px=(3.0, 6.0)), fit)


def go_the_whole_way(net: Generator, tuning: TuningConfig, size: Resolution, folder: Path) -> dict[str, Artifact]:
    """Every stage, and what holds after each."""
    step = new_step("import", {}, None, measure_cost(net))
    source = save_network(folder / "source", net, spec_of(net), step)
    pruned = prune(source, PruneConfig(keep=0.5, tuning=tuning), folder / "pruned")
    quantized = qat(pruned, QatConfig(tuning=tuning, calibration_images=1), folder / "quantized")
    onnx = export_onnx(quantized, ExportConfig(size.width, size.height), folder / "onnx")
    half = lower_precision(onnx, PrecisionConfig(), folder / "half")
    engine = build_engine(half, EngineConfig("sm75", flavour="rtx"), folder / "engine")
    return {artifact.directory.name: artifact for artifact in (source, pruned, quantized, onnx, half, engine)}


def check(made: dict[str, Artifact], size: Resolution) -> None:
    """What holds for every network that has gone the whole way."""
    assert made["pruned"].figures["params"] < 0.5 * made["source"].figures["params"]
    assert made["onnx"].figures["precision"]["int8"] > 0.5
    assert made["half"].figures["precision"]["fp16"] > 0.9
    assert made["engine"].figures["precision"]["fp16"] >= 0.9
    assert made["engine"].figures["capability"] == "7.5"
    quick = BenchConfig(size, duration_ms=0, warmup_ms=0, min_iterations=1, windows=1, max_windows=1)
    rows = measure(all_entries(made[name] for name in ("onnx", "half", "engine")), quick).rows
    measured = {(Path(row.artifact).name, row.runtime) for row in rows if row.latency_ms is not None}
    assert {(name, runtime) for name in ("onnx", "half") for runtime in ("onnxruntime", "openvino")} <= measured
    # Random weights behind a normalisation make much of a rounding step that falls the other way: by how much is seen
    # from noise that no picture shows.
    rng = np.random.default_rng(0)
    frame = rng.random((1, 3, size.height, size.width), dtype=np.float32)
    noise = np.float32(1e-6) * rng.standard_normal(frame.shape, dtype=np.float32)
    simulated = restored(made["quantized"], "torch", frame)
    shaken = np.abs(restored(made["quantized"], "torch", frame + noise) - simulated).mean()
    assert np.abs(restored(made["onnx"], "onnxruntime", frame) - simulated).mean() < 2 * shaken + 1e-3


def restored(artifact: Artifact, runtime: str, frame: NDArray[np.float32]) -> NDArray[np.float32]:
    with open_runner(artifact, runtime) as runner:
        return runner.infer(frame)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_goes_the_whole_way(name, make, tuning, tmp_path):
    size = Resolution(256, 256)
    check(go_the_whole_way(make(name), tuning, size, tmp_path / "made"), size)


def test_a_network_of_ones_own_goes_the_whole_way(make, tuning, tmp_path):
    size = Resolution(50, 38)
    check(go_the_whole_way(make("own"), tuning, size, tmp_path / "made"), size)
