"""Networks by way of spandrel: detected, imported, rebuilt from plain data; and what it does not know."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deblur_deploy.compress.plan import prune_network
from deblur_deploy.config import PruneConfig
from deblur_deploy.core.errors import ArtifactError, MissingDependencyError
from deblur_deploy.network.architectures import find_architecture
from deblur_deploy.network.checkpoint import build_network, import_checkpoint, load_network, spec_of


def importable() -> bool:
    """Whether spandrel can be imported: a torchvision of another build than torch ends that only when it is tried."""
    return (
        find_spec("spandrel") is not None
        and not subprocess.run([sys.executable, "-c", "import spandrel"], capture_output=True, check=False).returncode
    )


needs_spandrel = pytest.mark.skipif(not importable(), reason="needs spandrel and a torchvision that fits torch")


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


@needs_spandrel
def test_a_pruned_one_is_rebuilt_too(saved, tmp_path):
    net = load_network(import_checkpoint(saved[1], "spandrel", tmp_path / "artifact"))

    small, _ = prune_network(net, PruneConfig(keep=0.5))

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
