"""Instance normalisations with gathered statistics: in evaluation a fixed scale and shift, on the whole way."""

from __future__ import annotations

import logging
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from deblur_deploy.compress.plan import Frames, prune_network
from deblur_deploy.compress.quantize import quantize_network
from deblur_deploy.config import PruneConfig
from deblur_deploy.core.images import Resolution
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.network.checkpoint import build_network, import_checkpoint, load_network, spec_of
from deblur_deploy.network.conv_norm import write_gathered_norms

SIZE = Resolution(56, 40)

MODULE = """
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, affine=True, gathers=True):
        super().__init__()
        norm = lambda channels: nn.InstanceNorm2d(channels, affine=affine, track_running_stats=gathers)
        self.enter = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), norm(16), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), norm(16), nn.ReLU())
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        y = self.enter(x)
        return x + 0.1 * self.last(y + self.inner(y))

def without_weights():
    return Net(affine=False)

def by_picture():
    return Net(gathers=False)
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes one of the networks above, with statistics of random pictures."""
    (tmp_path / "gathered_networks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def made(name: str) -> nn.Module:
        torch.manual_seed(0)
        net = getattr(__import__("gathered_networks"), name)().train()
        with torch.no_grad():
            for _ in range(5):
                net(torch.rand(2, 3, 32, 32))
        return net.eval()

    yield made
    sys.modules.pop("gathered_networks", None)


def imported(net: nn.Module, name: str, folder):
    torch.save(net.state_dict(), folder / "trained.pth")
    return load_network(import_checkpoint(folder / "trained.pth", f"gathered_networks:{name}", folder / "artifact"))


def frame() -> torch.Tensor:
    return torch.rand(1, 3, SIZE.height, SIZE.width, generator=torch.Generator().manual_seed(1))


def run(model, batch: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: batch.numpy()})[0])


@pytest.mark.parametrize("name", ["Net", "without_weights"])
def test_they_are_what_pytorch_makes_of_them_in_evaluation(name, make, tmp_path):
    net = make(name)

    loaded = imported(net, name, tmp_path)

    with torch.no_grad():
        picture = net(frame())
        torch.testing.assert_close(loaded(frame()), picture)
        assert (make("by_picture")(frame()) - picture).abs().max() > 1e-3  # the statistics matter


@pytest.mark.parametrize("name", ["Net", "without_weights"])
@torch.no_grad()
def test_they_are_pruned_rebuilt_and_folded(name, make, tmp_path):
    loaded = imported(make(name), name, tmp_path)

    small, _ = prune_network(
        loaded, PruneConfig(keep=0.5, round_to=1, importance="l2"), frames=Frames(Resolution(32, 32))
    )

    assert small.net.enter[1].running_mean.shape == small.net.inner[1].running_var.shape == (8,)
    again = build_network(spec_of(small)).eval()
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(frame()), small(frame()))
    for size in (SIZE, None):
        model = network_to_onnx(small, size)
        assert not any("Normalization" in node.op_type for node in model.graph.node)
        assert sum(node.op_type in ("Mul", "Add") for node in model.graph.node) == 3  # those of the network's own code
        torch.testing.assert_close(run(model, frame()), small(frame()), atol=1e-6, rtol=0)


@torch.no_grad()
def test_behind_quantized_layers_they_are_a_scale_and_a_shift(make, tmp_path):
    net = imported(make("Net"), "Net", tmp_path)
    quantize_network(net, {"exempt": ("net.enter.0", "net.last")}, [frame().numpy()])

    model = network_to_onnx(net, SIZE)

    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert not any("Normalization" in node.op_type for node in model.graph.node)
    apart = (run(model, frame()) - net(frame())).abs()
    assert (apart <= 1 / 255).float().mean() >= 0.999


def test_a_layer_of_two_names_stays_one():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
            self.other = self.one

    net = Twice()
    write_gathered_norms(net)

    assert isinstance(net.one, nn.BatchNorm2d)
    assert net.other is net.one


def test_statistics_that_the_code_does_not_use_are_left_out_and_named(make, tmp_path, caplog):
    trained = make("Net").state_dict()
    net = make("by_picture")
    net.load_state_dict(trained, strict=False)
    torch.save(trained, tmp_path / "trained.pth")

    with caplog.at_level(logging.WARNING):
        artifact = import_checkpoint(tmp_path / "trained.pth", "gathered_networks:by_picture", tmp_path / "artifact")

    (said,) = [record.getMessage() for record in caplog.records if "gathered statistics" in record.getMessage()]
    assert "enter.1, inner.1" in said
    with torch.no_grad():
        np.testing.assert_allclose(load_network(artifact)(frame()), net(frame()), atol=1e-6)
