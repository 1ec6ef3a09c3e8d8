"""A user's own network: found by name, imported, padded, rebuilt; and what is no network."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from deblur_deploy.compress.plan import Frames, prune_network
from deblur_deploy.config import PruneConfig
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import Resolution
from deblur_deploy.network.architectures import ImportOptions
from deblur_deploy.network.checkpoint import build_network, import_checkpoint, load_network, spec_of

MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.down = nn.Conv2d(3, width, 4, stride=4)
        self.norm = nn.GroupNorm(1, width)
        self.up = nn.ConvTranspose2d(width, 3, 4, stride=4)

    def forward(self, x):
        return x + self.up(torch.relu(self.norm(self.down(x))))

def wide():
    return Net(12)

class Scales(Net):
    def forward(self, x):
        y = super().forward(x)
        return [y[..., ::2, ::2], y]

class WithFeatures(Net):
    def forward(self, x):
        y = super().forward(x)
        return self.down(x), y.mean(1, keepdim=True), y

class FineFirst(Net):
    def forward(self, x):
        y = super().forward(x)
        return [y, y[..., ::2, ::2]]

class AllFull(Net):
    def forward(self, x):
        y = super().forward(x)
        return [x, y]

class Tokens(nn.Module):
    # Parameters whose channels are not along the first two axes.

    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 16)
        self.gain = nn.Parameter(torch.rand(1, 1, 1, 16))
        self.outer, self.last = nn.Linear(16, 8), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        y = self.inner(self.first(x).permute(0, 2, 3, 1))
        y = y + self.gain * y * y.norm(dim=(1, 2), keepdim=True)
        return x + self.last(self.outer(y).permute(0, 3, 1, 2))

class TwoPictures(Net):
    def forward(self, x, other):
        return super().forward(x)

class OnGPU(Net):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(1).cuda()

class OneSize(Net):
    def forward(self, x):
        return super().forward(x).view(1, 3, 8, 8)

class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.LazyConv2d(3, 1)

def misspelt():
    return Nett()

class Smaller(Net):
    def forward(self, x):
        return self.down(x)

def nothing():
    return 3

class Sized(Net):
    def __init__(self, width):
        super().__init__(width)

class Computing(Net):
    # Computes while it is made, as networks with stochastic depth do.

    def __init__(self):
        super().__init__(int(torch.linspace(0, 8, 2)[-1].item()))

from platform import node

number = 4
"""


@pytest.fixture
def users_code(tmp_path, monkeypatch) -> Path:
    (tmp_path / "users_networks.py").write_text(MODULE)
    (tmp_path / "broken_networks.py").write_text("class Net(nn.Module): pass")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("users_networks", None)
    sys.modules.pop("broken_networks", None)


def saved(factory: str, folder: Path) -> tuple[nn.Module, Path]:
    import users_networks

    torch.manual_seed(0)
    net = getattr(users_networks, factory)()
    torch.save(net.state_dict(), folder / "own.pth")
    return net, folder / "own.pth"


@pytest.mark.parametrize("factory", ["Net", "wide", "Computing"])
def test_a_class_or_a_function_makes_the_network(factory, users_code):
    own, path = saved(factory, users_code)
    arch = f"users_networks:{factory}"

    artifact = import_checkpoint(path, arch, users_code / "artifact", ImportOptions(multiple_of=4))

    assert artifact.network.arch == arch
    assert artifact.image.multiple_of == 4
    net = load_network(artifact)
    image = torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        assert torch.equal(net(image), own(image))
        assert net(image[..., :13, :9]).shape == (1, 3, 13, 9)
    assert spec_of(net).config == {"multiple_of": 4, "widths": {}}


def test_the_last_of_several_estimates_is_the_picture(users_code):
    own, path = saved("Scales", users_code)
    net = load_network(
        import_checkpoint(path, "users_networks:Scales", users_code / "artifact", ImportOptions(multiple_of=8))
    )
    image = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        assert len(net.forward_scales(image)) == 2
        assert torch.equal(net(image), own(image)[-1])


def test_pruned_widths_are_read_off_the_weights(users_code):
    _, path = saved("wide", users_code)

    artifact = import_checkpoint(path, "users_networks:Net", users_code / "artifact", ImportOptions(multiple_of=4))

    assert artifact.network.config["widths"]["net.up.weight"] == [12, 3, 4, 4]
    net = load_network(artifact)
    assert net.net.norm.num_channels == 12
    again = build_network(spec_of(net)).eval()
    again.load_state_dict(net.state_dict())
    image = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(net(image), again(image))


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("no_such_module:Net", "cannot be imported"),
        (":Net", "cannot be imported"),
        ("users_networks:Missing", "is neither a function nor a class of networks"),
        ("users_networks:number", "is neither a function nor a class of networks"),
        ("os:getcwd", "is part of Python"),
        ("subprocess:getoutput", "is part of Python"),
        ("builtins:exit", "is part of Python"),
        ("users_networks:node", "is part of Python"),
        ("deblur_deploy.cli:main", "is part of deblur-deploy"),
        ("users_networks:Sized", "needs arguments: missing a required argument: 'width'"),
        ("users_networks:nothing", "gives 'int', not a network"),
        ("users_networks:misspelt", r"cannot be called: NameError: name 'Nett' is not defined \(.*users_networks\.py:"),
        ("users_networks:Lazy", r"arrays that have no shape yet: last\.weight"),
        ("users_networks:TwoPictures", "does not take a picture of 640x360: TypeError: .* missing 1 required"),
        ("users_networks:OneSize", r"does not take a picture of 640x360: RuntimeError: .*users_networks\.py:"),
        ("broken_networks:Net", r"cannot be imported: NameError: name 'nn' is not defined \(.*broken_networks\.py:1\)"),
        ("users_networks:Smaller", r"gives \(1, 8, 90, 160\) for a picture of \(1, 3, 360, 640\)"),
    ],
)
def test_what_is_no_network_is_said_to_be_none(arch, said, users_code):
    _, path = saved("Net", users_code)

    with pytest.raises(ConfigError, match=said):
        import_checkpoint(path, arch, users_code / "artifact")
    assert not (users_code / "artifact").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is put on a GPU fails where there is none")
def test_code_that_needs_a_gpu_is_told_that_none_is_needed(users_code):
    _, path = saved("Net", users_code)

    with pytest.raises(ConfigError, match="users_networks:OnGPU cannot be called: ") as caught:
        import_checkpoint(path, "users_networks:OnGPU", users_code / "artifact")

    assert ".cuda()" in caught.value.hint


@pytest.mark.parametrize(("factory", "place", "estimates"), [("WithFeatures", 2, 1), ("FineFirst", 0, 2)])
def test_the_picture_is_found_among_other_outputs(factory, place, estimates, users_code):
    own, path = saved(factory, users_code)
    options = ImportOptions(multiple_of=8)
    net = load_network(import_checkpoint(path, f"users_networks:{factory}", users_code / "artifact", options))
    image = torch.rand(1, 3, 8, 16)
    with torch.inference_mode():
        assert torch.equal(net(image), own(image)[place])
        found = net.forward_scales(image)
    assert len(found) == estimates
    assert all(estimate.shape[1] == 3 for estimate in found)


@pytest.mark.parametrize(("factory", "said"), [("AllFull", ["gives 2 pictures of full size"]), ("Scales", [])])
def test_several_pictures_of_full_size_are_told(factory, said, users_code, caplog):
    _, path = saved(factory, users_code)

    with caplog.at_level(logging.WARNING):
        import_checkpoint(path, f"users_networks:{factory}", users_code / "artifact", ImportOptions(multiple_of=8))

    notes = [record.getMessage() for record in caplog.records if "of full size" in record.getMessage()]
    assert len(notes) == len(said)
    assert all(text in note for text, note in zip(said, notes, strict=True))


def test_a_parameter_with_its_channels_along_any_axis_is_pruned_and_rebuilt(users_code):
    _, path = saved("Tokens", users_code)
    net = load_network(import_checkpoint(path, "users_networks:Tokens", users_code / "artifact"))

    small, _ = prune_network(net, PruneConfig(keep=0.5, round_to=1, importance="l2"), frames=Frames(Resolution(32, 32)))

    assert small.net.gain.shape == (1, 1, 1, 8)
    again = build_network(spec_of(small)).eval()
    again.load_state_dict(small.state_dict())
    image = torch.rand(1, 3, 24, 24)
    with torch.inference_mode():
        assert torch.equal(again(image), small(image))


def test_weights_of_another_network_are_named(users_code):
    torch.save({"head.weight": torch.zeros(3, 3)}, users_code / "other.pth")

    with pytest.raises(ArtifactError, match=r"not a users_networks:Net checkpoint: it lacks down\.weight"):
        import_checkpoint(users_code / "other.pth", "users_networks:Net", users_code / "artifact")
