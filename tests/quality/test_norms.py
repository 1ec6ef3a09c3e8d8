"""The two normalisations of one published checkpoint, in dB."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deblur_deploy.data.pairs import Pair
from deblur_deploy.network.architectures import ImportOptions
from deblur_deploy.network.deblurgan_v2 import DeblurGANv2MobileNet
from deblur_deploy.network.mimo_unet import MIMOUNet, MIMOUNetConfig
from deblur_deploy.quality.evaluate import evaluate_network
from deblur_deploy.quality.norms import compare_norms

MOBILE = "deblurgan-v2-mobilenet"


def with_batch_norm(state: dict[str, Tensor], gathered: bool) -> nn.Module:
    """The network as it was published, with batch normalisation by gathered statistics or by the batch's own."""
    net = DeblurGANv2MobileNet()
    net.load_state_dict({name: tensor for name, tensor in state.items() if ".running_" not in name})
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.InstanceNorm2d):
            batch_norm = nn.BatchNorm2d(layer.num_features, layer.eps, track_running_stats=gathered)
            for part in ("weight", "bias", *(("running_mean", "running_var") if gathered else ())):
                getattr(batch_norm, part).data.copy_(state[f"{name}.{part}"])
            net.set_submodule(name, batch_norm)
    return net.eval()


@pytest.fixture
def pairs(photo: NDArray[np.uint8]) -> list[Pair]:
    return [Pair("drawn", np.roll(photo, 3, axis=1)[:64, :64], photo[:64, :64])]


def test_both_normalisations_are_measured(pairs, deblurgan_state, tmp_path):
    torch.save({"model": deblurgan_state}, tmp_path / "net.h5")

    norms = compare_norms(tmp_path / "net.h5", MOBILE, ImportOptions(), pairs)

    assert list(norms) == ["image", "folded"]
    assert norms["image"] != pytest.approx(norms["folded"], abs=0.01)
    for norm, gathered in (("image", False), ("folded", True)):
        expected = evaluate_network(with_batch_norm(deblurgan_state, gathered), pairs)
        assert norms[norm] == pytest.approx(expected, abs=1e-3), norm


def test_there_is_nothing_to_compare_without_a_choice(pairs, tmp_path):
    torch.save({"model": DeblurGANv2MobileNet().state_dict()}, tmp_path / "bare.h5")
    torch.save({"model": MIMOUNet(MIMOUNetConfig(1)).state_dict()}, tmp_path / "mimo.pkl")

    assert compare_norms(tmp_path / "bare.h5", MOBILE, ImportOptions(), pairs) == {}
    assert compare_norms(tmp_path / "mimo.pkl", "mimo-unet", ImportOptions(), pairs) == {}
