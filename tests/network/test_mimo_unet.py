"""MIMO-UNet: the published parameters, names and result, three scales, and widths that are read back."""

from __future__ import annotations

import pytest
import torch

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.network.checkpoint import build_network, import_checkpoint, load_network, spec_of
from deblur_deploy.network.mimo_unet import AttentionModule, MIMOUNet, MIMOUNetConfig, MIMOUNetPlus, ShallowModule
from deblur_deploy.network.widths import shapes_of

PUBLISHED_NAMES = (
    "Encoder.2.layers.7.main.1.main.0.weight",
    "Decoder.0.layers.0.main.0.main.0.bias",
    "feat_extract.3.main.0.weight",
    "Convs.1.main.0.weight",
    "ConvsOut.0.main.0.bias",
    "AFFs.1.conv.1.main.0.weight",
    "FAM1.merge.main.0.weight",
    "SCM2.main.3.main.0.weight",
    "SCM1.conv.main.0.bias",
)

GOLDEN = {(0, 0, 0): 0.124122, (1, 10, 15): -0.999554, (2, 33, 40): 0.86419, (0, 63, 63): 0.017643}
"""Channel, row and column to what the published code gives there for these weights and this picture."""

GOLDEN_MEANS = (0.684492, 0.270026, -0.091357)
"""Means of its three estimates, coarse to fine."""


@pytest.fixture
def small() -> MIMOUNet:
    torch.manual_seed(0)
    return MIMOUNet(MIMOUNetConfig(blocks=1)).eval()


@pytest.mark.parametrize(
    ("network", "parameters", "tensors"), [(MIMOUNet, 6_807_171, 244), (MIMOUNetPlus, 16_107_651, 532)]
)
def test_the_published_parameters_and_names(network, parameters, tensors):
    with torch.device("meta"):
        net = network()
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert len(net.state_dict()) == tensors
    assert set(PUBLISHED_NAMES) <= net.state_dict().keys()


def test_the_published_code_gives_the_same_picture(fill, picture):
    with torch.device("meta"):
        net = MIMOUNet().eval()
    net.load_state_dict(fill(shapes_of(net), gain=0.7), assign=True)

    with torch.inference_mode():
        estimates = net.forward_scales(picture[..., :64, :64])
    assert {place: estimates[-1][0][place].item() for place in GOLDEN} == pytest.approx(GOLDEN, abs=2e-5)
    assert [estimate.mean().item() for estimate in estimates] == pytest.approx(GOLDEN_MEANS, abs=2e-5)


def test_each_estimate_adds_to_every_second_pixel_of_the_one_above(small):
    for name, parameter in small.named_parameters():
        if name.startswith(("ConvsOut", "feat_extract.5")):
            torch.nn.init.zeros_(parameter)
    image = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        estimates = small.forward_scales(image)
    for estimate, step in zip(estimates, (4, 2, 1), strict=True):
        assert torch.equal(estimate, image[..., ::step, ::step])


def test_any_size_comes_back_as_it_went_in(small):
    with torch.inference_mode():
        for size in ((1, 1), (5, 7), (33, 50)):
            assert small(torch.rand(2, 3, *size)).shape == (2, 3, *size)
        image = torch.rand(1, 3, 16, 20)
        assert torch.equal(small(image), small.forward_scales(image)[-1])


def test_no_layer_is_without_a_part_in_the_pass_that_traces(small):
    small.forward_once(torch.rand(1, 3, 16, 16)).mean().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_the_smaller_picture_multiplies_the_features_and_stays_among_its_own():
    torch.manual_seed(0)
    merge, shallow = AttentionModule(8), ShallowModule(16)
    x, factor, image = torch.rand(1, 8, 5, 5), torch.rand(1, 8, 5, 5), torch.rand(1, 3, 5, 5)
    with torch.inference_mode():
        assert torch.equal(merge(x, factor), x + merge.merge(x * factor))
        joined = torch.cat([image, shallow.main(image)], dim=1)
        assert joined.shape[1] == 16
        assert torch.equal(shallow(image), shallow.conv(joined))


def test_the_published_file_is_read(small, tmp_path):
    torch.save({"model": small.state_dict()}, tmp_path / "MIMO-UNet.pkl")
    net = load_network(import_checkpoint(tmp_path / "MIMO-UNet.pkl", "mimo-unet", tmp_path / "artifact"))
    image = torch.rand(1, 3, 16, 20)
    with torch.inference_mode():
        assert torch.equal(net(image), small(image))


def test_only_the_larger_network_drops_channels_and_only_in_training(fill):
    net = MIMOUNetPlus(MIMOUNetConfig(blocks=1))
    image = torch.rand(1, 3, 16, 16)
    torch.manual_seed(0)
    with torch.inference_mode():
        assert not torch.equal(net(image), net(image))
        net.eval()
        assert torch.equal(net(image), net(image))
        base = MIMOUNet(MIMOUNetConfig(blocks=1))
        assert torch.equal(base(image), base(image))


def test_pruned_and_shallow_networks_are_rebuilt_from_plain_data(small):
    narrow = {
        "Encoder.0.layers.0.main.0.main.0.weight": (24, 32, 3, 3),
        "Encoder.0.layers.0.main.0.main.0.bias": (24,),
        "Encoder.0.layers.0.main.1.main.0.weight": (32, 24, 3, 3),
        "feat_extract.4.main.0.weight": (64, 16, 4, 4),  # transposed: outputs second
        "feat_extract.4.main.0.bias": (16,),
        "Convs.1.main.0.weight": (32, 48, 1, 1),
        "SCM2.main.3.main.0.weight": (40, 32, 1, 1),
        "SCM2.main.3.main.0.bias": (40,),
        "SCM2.conv.main.0.weight": (64, 43, 1, 1),
    }
    net = MIMOUNet(MIMOUNetConfig(1, narrow)).eval()

    spec = spec_of(net)
    again = build_network(spec).eval()
    again.load_state_dict(net.state_dict())

    assert spec.config == {"blocks": 1, "widths": narrow}
    assert net.feat_extract[4].main[0].out_channels == 16
    image = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(again(image), net(image))


def test_widths_that_do_not_fit_each_other_are_refused(small, tmp_path):
    state = dict(small.state_dict())
    state["Convs.1.main.0.weight"] = torch.zeros(32, 60, 1, 1)
    torch.save({"model": state}, tmp_path / "odd.pkl")

    with pytest.raises(ArtifactError, match=r"weights in .*odd\.pkl do not fit each other"):
        import_checkpoint(tmp_path / "odd.pkl", "mimo-unet", tmp_path / "artifact")


def test_kernels_of_another_size_are_misshapen(small, tmp_path):
    state = dict(small.state_dict())
    state["Convs.1.main.0.weight"] = torch.zeros(32, 64, 3, 3)
    torch.save({"model": state}, tmp_path / "odd.pkl")

    with pytest.raises(ArtifactError, match=r"misshapen: Convs\.1\.main\.0\.weight \(32, 64, 3, 3\) instead of"):
        import_checkpoint(tmp_path / "odd.pkl", "mimo-unet", tmp_path / "artifact")
