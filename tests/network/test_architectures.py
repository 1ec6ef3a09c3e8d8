"""The table of networks: what each offers to the stages, and what a checkpoint of another network is told."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from deblur_deploy.artifact import load_artifact
from deblur_deploy.errors import ArtifactError, ConfigError
from deblur_deploy.network.architectures import (
    ARCHITECTURES,
    ImportOptions,
    example_names,
    find_architecture,
    recognise,
    recognise_unsupported,
)
from deblur_deploy.network.checkpoint import build_network, import_checkpoint, load_network, spec_of
from deblur_deploy.network.mimo_unet import MIMOUNet, MIMOUNetConfig, MIMOUNetPlus
from deblur_deploy.network.srn import SRN
from deblur_deploy.network.srn_cvpr18 import SRNCVPR18

SIMDEBLUR = ("in_block.in_conv.weight", "out_block.out_conv.weight", "conv_lstm.conv.weight")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_network_offers_what_the_stages_use(arch):
    with torch.device("meta"):
        net = ARCHITECTURES[arch].example()
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
        net = ARCHITECTURES[arch].example()
        spec = spec_of(net)
        again = build_network(type(spec)(spec.arch, json.loads(json.dumps(spec.config))))

    assert spec.arch == arch
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in net.state_dict().items()}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_network_is_recognised_by_its_names(arch):
    assert recognise(example_names(ARCHITECTURES[arch])) == arch


def test_networks_that_are_not_here_are_known_by_name():
    assert recognise(SIMDEBLUR) is None
    assert recognise_unsupported(SIMDEBLUR) == "the PyTorch port of SRN in SimDeblur"
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


def test_the_ports_of_srn_are_refused_by_name(tmp_path):
    torch.save({name: torch.zeros(1) for name in SIMDEBLUR}, tmp_path / "port.pth")

    with pytest.raises(ArtifactError, match="by its names it is the PyTorch port of SRN in SimDeblur, which is not"):
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
