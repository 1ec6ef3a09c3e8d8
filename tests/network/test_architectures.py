"""The table of networks: what each offers to the stages, and what a checkpoint of another network is told."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.network.architectures import (
    ImportOptions,
    example_names,
    find_architecture,
    recognise_unsupported,
)
from deblur_deploy.network.checkpoint import build_network, import_checkpoint, load_network, spec_of
from deblur_deploy.network.mimo_unet import MIMOUNet, MIMOUNetConfig, MIMOUNetPlus
from deblur_deploy.network.srn import SRN
from deblur_deploy.network.srn_cvpr18 import SRNCVPR18
from deblur_deploy.network.table import ARCHITECTURES, recognise

PORTS = {
    "the PyTorch port of SRN by iwtw": ("inblock.conv.0.weight", "outblock.conv.0.weight", "convlstm.conv.weight"),
    "the PyTorch port of SRN in SimDeblur": (
        "in_block.in_conv.weight",
        "out_block.out_conv.weight",
        "conv_lstm.conv.weight",
    ),
}
"""Some of the arrays in checkpoints of either."""


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_network_offers_what_the_stages_use(arch):
    with torch.device("meta"):
        net = find_architecture(arch).example()
        side = net.padded_size(128, 128)[0]
        estimates = net.forward_scales(torch.empty(1, 3, side, side))
        restored = net(torch.empty(2, 3, 21, 35))
        once = net.forward_once(torch.empty(1, 3, side, side))

    assert net.arch == arch
    assert estimates[-1].shape == (1, 3, side, side)
    assert [e.shape[-1] * 2 for e in estimates[:-1]] == [e.shape[-1] for e in estimates[1:]]
    assert restored.shape == (2, 3, 21, 35)
    assert once.shape[-2:] == (side, side)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_network_is_rebuilt_from_plain_data(arch):
    with torch.device("meta"):
        net = find_architecture(arch).example()
        spec = spec_of(net)
        again = build_network(type(spec)(spec.arch, json.loads(json.dumps(spec.config))))

    assert spec.arch == arch
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in net.state_dict().items()}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_network_is_recognised_by_its_names(arch):
    assert recognise(example_names(find_architecture(arch))) == arch


def test_networks_that_are_not_here_are_known_by_name():
    for port, names in PORTS.items():
        assert recognise(names) is None
        assert recognise_unsupported(names) == port
    assert recognise_unsupported(["conv.weight"]) is None


@pytest.mark.parametrize(("arch", "other"), [("srn", MIMOUNet), ("mimo-unet", SRNCVPR18)])
def test_a_checkpoint_of_another_network_says_which(arch, other, tmp_path):
    net = other(MIMOUNetConfig(1)) if other is MIMOUNet else other()
    torch.save({"model": net.state_dict()}, tmp_path / "net.pkl")

    with pytest.raises(ArtifactError, match=f"is not {arch}: by its names it is {net.arch}") as caught:
        import_checkpoint(tmp_path / "net.pkl", arch, tmp_path / "artifact")
    assert caught.value.hint == f"--arch {net.arch}"


def test_the_smaller_variant_is_not_the_larger(tmp_path):
    with torch.device("meta"):
        names = MIMOUNetPlus().state_dict()
    state = {name: torch.zeros(1) for name in names}
    torch.save({"model": state}, tmp_path / "plus.pkl")

    with pytest.raises(ArtifactError, match="is not mimo-unet: by its names it is mimo-unet-plus"):
        import_checkpoint(tmp_path / "plus.pkl", "mimo-unet", tmp_path / "artifact")


@pytest.mark.parametrize("port", PORTS)
def test_the_ports_of_srn_are_refused_by_name(port, tmp_path):
    torch.save({name: torch.zeros(1) for name in PORTS[port]}, tmp_path / "port.pth")

    with pytest.raises(ArtifactError, match=f"by its names it is {port}, which is not"):
        import_checkpoint(tmp_path / "port.pth", "srn-cvpr18", tmp_path / "artifact")


def test_half_a_checkpoint_says_what_is_missing(tmp_path):
    state = MIMOUNet(MIMOUNetConfig(1)).state_dict()
    half = {name: tensor for name, tensor in state.items() if not name.startswith(("Decoder", "AFFs", "SCM"))}
    torch.save({"model": half}, tmp_path / "half.pkl")

    with pytest.raises(ArtifactError, match="is not a mimo-unet checkpoint: it lacks Decoder") as caught:
        import_checkpoint(tmp_path / "half.pkl", "mimo-unet", tmp_path / "artifact")
    assert "it has nothing else" in caught.value.message


@pytest.mark.parametrize("option", [{"variant": "gray"}, {"norm": "folded"}, {"multiple_of": 4}])
def test_options_of_other_networks_are_refused(option, tmp_path):
    with pytest.raises(ConfigError, match=r"--arch srn takes no --(variant|norm|multiple-of)"):
        import_checkpoint(tmp_path / "net.pth", "srn", tmp_path / "artifact", ImportOptions(**option))


def test_unknown_names_are_told_the_known_ones():
    with pytest.raises(ConfigError, match="'unet' is unknown") as caught:
        find_architecture("unet")
    assert all(arch in caught.value.hint for arch in ARCHITECTURES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_parallel_training_leave_no_trace(dtype, tmp_path):
    torch.manual_seed(0)
    net = MIMOUNet(MIMOUNetConfig(1)).to(dtype)
    torch.save({"model": nn.DataParallel(net).state_dict()}, tmp_path / "net.pkl")

    loaded = load_network(import_checkpoint(tmp_path / "net.pkl", "mimo-unet", tmp_path / "artifact"))

    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name].float())


def test_the_history_says_what_was_imported_and_how(tiny_config, tmp_path):
    net = SRN(tiny_config)
    torch.save({"params": net.state_dict(), "params_ema": net.state_dict()}, tmp_path / "net.pth")

    import_checkpoint(tmp_path / "net.pth", "srn", tmp_path / "artifact")

    (step,) = load_artifact(tmp_path / "artifact").history
    assert step.config == {"file": "net.pth", "arch": "srn", "average": "params_ema"}


@pytest.mark.parametrize("other", ARCHITECTURES)
def test_a_checkpoint_is_told_from_those_of_all_other_networks(other, tmp_path):
    """Wrapped, with the prefix of parallel training, and in half precision: none of it hides what it is."""
    names = example_names(find_architecture(other))
    state = {f"module.{name}": torch.zeros(1, dtype=torch.float16) for name in names}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "net.pth")

    for arch in ARCHITECTURES.keys() - {other}:
        with pytest.raises(ArtifactError, match=f"is not {arch}: by its names it is {other}") as caught:
            import_checkpoint(tmp_path / "net.pth", arch, tmp_path / "artifact")
        assert caught.value.hint == f"--arch {other}"


@pytest.mark.parametrize("given", ["deblur.model-1", "deblur.model-1.index", "deblur.model-1.data-00000-of-00001"])
@pytest.mark.parametrize("arch", ["srn", "mimo-unet", "deblurgan-v2-inception"])
@pytest.mark.parametrize("parts", [("index", "data-00000-of-00001"), ("data-00000-of-00001",)])
def test_a_checkpoint_of_tensorflow_is_known_without_it(parts, given, arch, tmp_path):
    for part in parts:
        (tmp_path / f"deblur.model-1.{part}").write_bytes(b"x")

    with pytest.raises(ArtifactError, match="is a TensorFlow checkpoint") as caught:
        import_checkpoint(tmp_path / given, arch, tmp_path / "artifact")
    assert caught.value.hint == "--arch srn-cvpr18"


@pytest.mark.parametrize("arch", ["srn", "srn-cvpr18", "deblurgan-v2-mobilenet", "deblurgan-v2-inception"])
def test_half_of_any_checkpoint_is_refused(arch, tmp_path):
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in find_architecture(arch).example().state_dict().items()}
    half = dict(list(shapes.items())[: len(shapes) // 2])
    torch.save({name: torch.zeros(shape) for name, shape in half.items()}, tmp_path / "half.pth")

    with pytest.raises(ArtifactError, match=r"(lacks|missing)"):
        import_checkpoint(tmp_path / "half.pth", arch, tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize(
    ("held", "taken"),
    [
        (lambda raw, average: {"params": raw, "params_ema": average}, "params_ema"),
        (
            lambda raw, average: {
                **{f"module.generator.{name}": tensor for name, tensor in raw.items()},
                **{f"module.generator_ema.{name}": tensor for name, tensor in average.items()},
            },
            None,
        ),
    ],
)
def test_of_twins_the_average_is_taken_from_any_network(held, taken, tmp_path):
    raw = MIMOUNet(MIMOUNetConfig(1)).state_dict()
    average = {name: tensor * 0.5 for name, tensor in raw.items()}
    torch.save(held(raw, average), tmp_path / "net.pth")

    artifact = import_checkpoint(tmp_path / "net.pth", "mimo-unet", tmp_path / "artifact")

    assert artifact.history[-1].config["average"] == (taken or "generator_ema.")
    loaded = load_network(artifact).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in average.items())
