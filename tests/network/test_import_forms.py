"""Forms in which people have their networks: wrappers, prefixes, computed and tied weights, programs, sizes."""

from __future__ import annotations

import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn

from deblur_deploy.compress.plan import Frames, prune_network
from deblur_deploy.config import PruneConfig
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import Resolution
from deblur_deploy.network.architectures import ImportOptions
from deblur_deploy.network.checkpoint import import_checkpoint, load_network

NETWORKS = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm as old_spectral, weight_norm as old_weight
from torch.nn.utils.parametrizations import spectral_norm as new_spectral, weight_norm as new_weight

class Plain(nn.Module):
    def __init__(self, wrap=lambda layer: layer):
        super().__init__()
        self.first, self.mid = wrap(nn.Conv2d(3, 8, 3, padding=1)), wrap(nn.Conv2d(8, 8, 3, padding=1))
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        return x + self.last(F.relu(self.mid(F.relu(self.first(x)))))

def plain(): return Plain()
def weight_norm_older(): return Plain(old_weight)
def weight_norm(): return Plain(new_weight)
def spectral_norm_older(): return Plain(old_spectral)
def spectral_norm(): return Plain(new_spectral)

class Tied(Plain):
    def __init__(self):
        super().__init__()
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.again.weight = self.mid.weight

    def forward(self, x):
        return x + self.last(F.relu(self.again(F.relu(self.mid(F.relu(self.first(x)))))))

class Named(Plain):
    def forward(self, x):
        return {"coarse": F.avg_pool2d(x, 2), "restored": super().forward(x)}

class Halving(Plain):
    def forward(self, x):
        y = F.relu(self.first(x))
        z = F.interpolate(F.avg_pool2d(F.avg_pool2d(y, 2), 2), scale_factor=4.0)
        return x + self.last(F.relu(self.mid(y + z)))

class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = self.first(x)
        rows = y.flatten(2).transpose(1, 2)
        rows = self.attention(rows, rows, rows, need_weights=False)[0]
        return x + self.last(y + rows.transpose(1, 2).reshape(y.shape))
"""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes a network of the file above, with random weights that are the same every time."""
    (tmp_path / "forms_of_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str) -> nn.Module:
        torch.manual_seed(0)
        return getattr(__import__("forms_of_networks"), name)().eval()

    yield make
    sys.modules.pop("forms_of_networks", None)


def taken(saved, name: str, folder, options: ImportOptions | None = None):
    """The artifact of what was saved, under one of the names above."""
    torch.save(saved, folder / "saved.pth")
    return import_checkpoint(folder / "saved.pth", f"forms_of_networks:{name}", folder / "artifact", options)


def pictures(*nets):
    frame = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return [net(frame) for net in nets]


WRAPPED = {
    "lightning": lambda state: {
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "epoch": 3,
        "hyper_parameters": {"lr": 1e-4},
    },
    "lightning, compiled": lambda state: {
        "state_dict": {f"model._orig_mod.{name}": tensor for name, tensor in state.items()}
    },
    "lightning with a discriminator": lambda state: {
        "state_dict": {f"net.{name}": tensor for name, tensor in state.items()}
        | {"critic.0.weight": torch.rand(4, 3, 3, 3), "vgg.mean": torch.rand(3)}
    },
    "tutorial": lambda state: {
        "model_state_dict": OrderedDict(state),
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []},
        "epoch": 1,
    },
    "parallel and compiled": lambda state: {
        "model": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
    },
    "compiled part": lambda state: {name.replace("mid.", "mid._orig_mod."): tensor for name, tensor in state.items()},
    "a key of one's own": lambda state: {"best weights": dict(state), "step": 7},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_what_frameworks_put_around_weights_is_taken_off(form, made, tmp_path):
    net = made("plain")

    one, other = pictures(net, load_network(taken(WRAPPED[form](net.state_dict()), "plain", tmp_path)))

    assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["weight_norm_older", "weight_norm", "spectral_norm_older", "spectral_norm"])
def test_computed_weights_are_written_down(name, made, tmp_path):
    net = made(name)

    loaded = load_network(taken(net.state_dict(), name, tmp_path))

    assert set(loaded.state_dict()) == {
        f"net.{layer}.{kind}" for layer in ("first", "mid", "last") for kind in ("weight", "bias")
    }
    one, other = pictures(net, loaded)
    torch.testing.assert_close(one, other)
    small, _ = prune_network(
        loaded, PruneConfig(keep=0.5, round_to=1, importance="l2"), frames=Frames(Resolution(32, 32))
    )
    assert small.net.mid.weight.shape == (4, 4, 3, 3)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_weights_that_were_written_down_before_are_taken_too(made, tmp_path):
    net = made("plain")

    one, other = pictures(net, load_network(taken(net.state_dict(), "weight_norm", tmp_path)))

    assert torch.equal(one, other)


def test_tied_weights_are_saved_and_stay_tied(made, tmp_path):
    net = made("Tied")

    loaded = load_network(taken(net.state_dict(), "Tied", tmp_path))

    assert loaded.net.again.weight is loaded.net.mid.weight
    assert torch.equal(*pictures(net, loaded))


def test_estimates_may_have_names(made, tmp_path):
    net = made("Named")
    loaded = load_network(taken(net.state_dict(), "Named", tmp_path))

    frame = torch.rand(1, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(loaded(frame), net(frame)["restored"])


def test_a_network_that_fails_at_odd_sizes_is_told_its_multiple(made, tmp_path):
    net = made("Halving")

    with pytest.raises(ConfigError, match="does not work at every size: at 35x33, The size of tensor a") as caught:
        taken(net.state_dict(), "Halving", tmp_path)
    assert "--multiple-of 4" in caught.value.hint

    loaded = load_network(taken(net.state_dict(), "Halving", tmp_path, ImportOptions(multiple_of=4)))
    assert loaded(torch.rand(1, 3, 33, 35)).shape == (1, 3, 33, 35)


def test_messages_have_the_names_of_the_file(made, tmp_path):
    state = made("plain").state_dict()
    del state["mid.weight"]
    with pytest.raises(ArtifactError, match=r"it lacks mid\.weight; it has nothing else"):
        taken(state, "plain", tmp_path)

    state = made("plain").state_dict() | {"extra.weight": torch.rand(2), "mid.weight": torch.rand(8, 8, 5, 5)}
    with pytest.raises(ArtifactError, match=r"unexpected: extra\.weight; misshapen: mid\.weight"):
        taken(state, "plain", tmp_path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_programs_are_named_and_the_way_to_their_weights_is_told(made, tmp_path):
    net = made("plain")
    torch.jit.trace(net, torch.rand(1, 3, 16, 16)).save(tmp_path / "script.pt")
    torch.export.save(torch.export.export(net, (torch.rand(1, 3, 16, 16),)), tmp_path / "program.pt2")

    for name, what in (("script.pt", "TorchScript"), ("program.pt2", r"torch\.export")):
        with pytest.raises(ArtifactError, match=f"is a (TorchScript )?program( of {what})?,") as caught:
            import_checkpoint(tmp_path / name, "forms_of_networks:plain", tmp_path / "artifact")
        assert name in caught.value.hint
        assert "state_dict" in caught.value.hint
    with pytest.raises(ArtifactError, match="is an ONNX file") as caught:
        import_checkpoint(tmp_path / "net.onnx", "forms_of_networks:plain", tmp_path / "artifact")
    assert "without --arch" in caught.value.hint


def test_attention_layers_are_followed(made, tmp_path):
    """In evaluation mode PyTorch makes one fused call of them, which nothing that looks at operations knows."""
    net = made("Attending")
    loaded = load_network(taken(net.state_dict(), "Attending", tmp_path, ImportOptions(multiple_of=1)))

    assert torch.allclose(*pictures(net, loaded))
    assert torch.backends.mha.get_fastpath_enabled()
