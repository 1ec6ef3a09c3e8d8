"""Networks by way of spandrel: detected, imported, rebuilt from plain data; and what it does not know."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deblur_deploy.compress.plan import prune_network
from deblur_deploy.config import ExportConfig, PruneConfig
from deblur_deploy.core.errors import ArtifactError, MissingDependencyError
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.network.architectures import find_architecture
from deblur_deploy.network.checkpoint import build_network, import_checkpoint, load_network, spec_of
from deblur_deploy.network.nafnet import NAFNet, NAFNetConfig
from deblur_deploy.runtime.runner import open_runner

needs_spandrel = pytest.mark.skipif(find_spec("spandrel") is None, reason="needs spandrel")


class DnCNN(nn.Module):
    """Convolutions in a row that predict the noise (Zhang et al., 2017), with the names of the published weights."""

    def __init__(self, layers: int = 17) -> None:
        super().__init__()
        inner = [layer for _ in range(layers - 2) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())]
        first, last = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
        self.model = nn.Sequential(first, nn.ReLU(), *inner, last)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.model(x)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[DnCNN, Path]:
    torch.manual_seed(0)
    net = DnCNN()
    torch.save({"params_ema": net.state_dict()}, tmp_path / "dncnn.pth")
    return net, tmp_path / "dncnn.pth"


@needs_spandrel
def test_what_spandrel_detects_is_imported_and_rebuilt(saved, tmp_path):
    theirs, path = saved

    artifact = import_checkpoint(path, "spandrel", tmp_path / "artifact")

    assert artifact.network.config["architecture"] == "DnCNN"
    net = load_network(artifact)
    image = torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        torch.testing.assert_close(net(image), theirs(image))
    assert json.loads(json.dumps(spec_of(net).config)) == artifact.network.config


def small_nafnet() -> tuple[nn.Module, str]:
    torch.manual_seed(0)
    net = NAFNet(NAFNetConfig(8, (1, 2), 1, (1, 1)))
    for name, parameter in net.named_parameters():
        if name.endswith(("beta", "gamma")):
            nn.init.normal_(parameter, std=0.3)
    return net, "NAFNet"


def dncnn() -> tuple[nn.Module, str]:
    torch.manual_seed(0)
    return DnCNN(), "DnCNN"


@needs_spandrel
@pytest.mark.parametrize("make", [small_nafnet, dncnn])
def test_known_networks_give_their_own_pictures_in_torch_and_in_onnx(make, tmp_path):
    theirs, name = make()
    torch.save({"params": theirs.eval().state_dict()}, tmp_path / "net.pth")

    artifact = import_checkpoint(tmp_path / "net.pth", "spandrel", tmp_path / "artifact")
    graph = export_onnx(artifact, ExportConfig(40, 24), tmp_path / "graph")

    assert artifact.network.config["architecture"] == name
    picture = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(load_network(artifact)(picture), theirs(picture), rtol=1e-4, atol=1e-5)
    with open_runner(graph, "onnxruntime", threads=1) as runner:
        assert np.abs(runner.infer(picture.numpy()) - theirs(picture).detach().numpy()).max() < 1e-4


@needs_spandrel
def test_a_pruned_one_is_rebuilt_too(saved, tmp_path):
    net = load_network(import_checkpoint(saved[1], "spandrel", tmp_path / "artifact"))

    small, _ = prune_network(net, PruneConfig(keep=0.5, importance="l2"))

    again = build_network(spec_of(small)).eval()
    again.load_state_dict(small.state_dict())
    image = torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        assert torch.equal(again(image), small(image))
    assert spec_of(small).config["widths"]["net.model.0.weight"] == (32, 3, 3, 3)


@needs_spandrel
@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"head.weight": torch.zeros(3, 3)}, "knows no network with arrays such as head.weight"),
        ({name: t[:, :1] if name == "model.0.weight" else t for name, t in DnCNN().state_dict().items()}, "channel"),
    ],
)
def test_what_it_does_not_know_and_what_restores_no_photograph(weights, said, tmp_path):
    torch.save(weights, tmp_path / "net.pth")

    with pytest.raises(ArtifactError, match=said):
        import_checkpoint(tmp_path / "net.pth", "spandrel", tmp_path / "artifact")


@needs_spandrel
def test_half_of_one_says_so(saved, tmp_path):
    half = dict(list(saved[0].state_dict().items())[:-3])
    torch.save(half, tmp_path / "half.pth")

    with pytest.raises(ArtifactError, match=r"spandrel"):
        import_checkpoint(tmp_path / "half.pth", "spandrel", tmp_path / "artifact")


def test_without_spandrel_the_extra_is_named(saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)

    with pytest.raises(MissingDependencyError, match="needs spandrel") as caught:
        import_checkpoint(saved[1], "spandrel", tmp_path / "artifact")

    assert caught.value.hint == "pip install 'deblur-deploy[zoo]'"


def test_the_table_of_networks_does_not_load_it():
    code = (
        "import sys; import deblur_deploy.network.checkpoint; "
        "assert not {'spandrel', 'torchvision', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert find_architecture("spandrel").title == "a network that spandrel knows"
