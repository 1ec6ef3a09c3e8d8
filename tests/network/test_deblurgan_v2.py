"""DeblurGAN-v2: the published files, names and result under both normalisations, any size, and what is refused."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.network.architectures import ImportOptions
from deblur_deploy.network.checkpoint import build_network, import_checkpoint, load_network, spec_of
from deblur_deploy.network.deblurgan_v2 import (
    DeblurGANv2Config,
    DeblurGANv2Inception,
    DeblurGANv2MobileNet,
    InceptionPyramid,
)
from deblur_deploy.network.inception_resnet_v2 import FEATURES, InceptionResNetV2
from deblur_deploy.network.widths import shapes_of

# Channel, row and column to what the published code gives there for these weights and this picture: with its
# normalisation in training mode, and with the backbone's in evaluation mode.
MOBILE_IMAGE = {(0, 0, 0): 0.756823, (1, 10, 15): 0.655164, (2, 33, 40): 0.725953, (0, 63, 63): 0.564218}
MOBILE_FOLDED = {(0, 0, 0): 0.864959, (1, 10, 15): 0.847806, (2, 33, 40): 0.372028, (0, 63, 63): 0.453869}
INCEPTION_IMAGE = {(0, 0, 0): 0.628026, (1, 10, 15): 0.637879, (2, 33, 40): 0.939435, (0, 63, 63): 0.31917}
INCEPTION_FOLDED = {(0, 0, 0): 0.803417, (1, 10, 15): 0.093714, (2, 33, 40): 0.712758, (0, 63, 63): 0.524969}

STAGES = {
    DeblurGANv2MobileNet: {
        **{f"features.{index}": f"enc0.{index}" for index in (0, 1)},
        **{f"features.{index}": f"enc1.{index - 2}" for index in (2, 3)},
        **{f"features.{index}": f"enc2.{index - 4}" for index in range(4, 7)},
        **{f"features.{index}": f"enc3.{index - 7}" for index in range(7, 11)},
        **{f"features.{index}": f"enc4.{index - 11}" for index in range(11, 16)},
    },
    DeblurGANv2Inception: {
        "inception.conv2d_1a": "enc0",
        "inception.conv2d_2a": "enc1.0",
        "inception.conv2d_2b": "enc1.1",
        "inception.conv2d_3b": "enc2.0",
        "inception.conv2d_4a": "enc2.1",
        "inception.mixed_5b": "enc3.0",
        "inception.repeat": "enc3.1",
        "inception.mixed_6a": "enc3.2",
        "inception.repeat_1": "enc4.0",
        "inception.mixed_7a": "enc4.1",
    },
}
"""Layers by their names in the backbone to those under which the published files hold them a second time."""

UNUSED = {
    DeblurGANv2MobileNet: {
        "fpn.features.16.conv.0.weight": (960, 160, 1, 1),
        "fpn.features.18.0.weight": (1280, 320, 1, 1),
    },
    DeblurGANv2Inception: {
        "fpn.inception.block8.conv2d.weight": (8, 8, 1, 1),
        "fpn.inception.last_linear.bias": (1000,),
    },
}
"""Some of the arrays that the published files hold beyond the pyramid."""


def published(network, fill) -> dict[str, Tensor]:
    """A state_dict as in the published files: statistics, the encoder twice, layers beyond the pyramid, ``module.``."""
    with torch.device("meta"):
        net = network()
    shapes = shapes_of(net)
    norms = {name: module.num_features for name, module in net.named_modules() if isinstance(module, nn.InstanceNorm2d)}
    norms |= {f"fpn.td{index}.1": 2 * network.channels for index in (1, 2, 3)}
    norms |= {"smooth.1": network.channels, "smooth2.1": network.channels // 2}
    for norm, channels in norms.items():
        shapes |= {f"{norm}.running_mean": (channels,), f"{norm}.running_var": (channels,)}
        shapes[f"{norm}.num_batches_tracked"] = ()
    state = fill(shapes | UNUSED[network])
    for layer, stage in STAGES[network].items():
        state |= {
            name.replace(f"fpn.{layer}.", f"fpn.{stage}."): tensor
            for name, tensor in list(state.items())
            if name.startswith(f"fpn.{layer}.")
        }
    return {f"module.{name}": tensor for name, tensor in state.items()}


def restored_by(network, state, options, folder, image) -> Tensor:
    torch.save({"model": state}, folder / "best_fpn.h5")
    artifact = import_checkpoint(folder / "best_fpn.h5", network.arch, folder / "artifact", options)
    assert artifact.network.config["norm"] == (options.norm or "image")
    assert artifact.image.multiple_of == 32
    with torch.inference_mode():
        return load_network(artifact)(image)[0]


@pytest.mark.parametrize(("norm", "golden"), [(None, MOBILE_IMAGE), ("folded", MOBILE_FOLDED)])
def test_the_published_mobilenet_code_gives_the_same_picture(norm, golden, fill, picture, tmp_path):
    state = published(DeblurGANv2MobileNet, fill)
    restored = restored_by(DeblurGANv2MobileNet, state, ImportOptions(norm=norm), tmp_path, picture[..., :64, :64])
    assert {place: restored[place].item() for place in golden} == pytest.approx(golden, abs=1e-4)


@pytest.mark.parametrize(
    ("norm", "golden"), [("image", INCEPTION_IMAGE), pytest.param("folded", INCEPTION_FOLDED, marks=pytest.mark.slow)]
)
def test_the_published_inception_code_gives_the_same_picture(norm, golden, fill, picture):
    state = {
        name.removeprefix("module."): tensor
        for name, tensor in published(DeblurGANv2Inception, fill).items()
        if ".enc" not in name
    }
    with torch.device("meta"):
        net = DeblurGANv2Inception(DeblurGANv2Config(norm)).eval()
    net.load_state_dict(DeblurGANv2Inception.from_published(state, norm), assign=True)
    with torch.inference_mode():
        restored = net(picture)[0]
    assert {place: restored[place].item() for place in golden} == pytest.approx(golden, abs=1e-4)


def test_the_parameters_of_the_published_pyramids():
    """3,312,707 and 60,929,291 with the layers behind the pyramid, which restore nothing."""
    with torch.device("meta"):
        mobile, inception = DeblurGANv2MobileNet(), DeblurGANv2Inception()
    beyond_mobile = (
        160 * 960 + 9 * 960 + 960 * 160 + 2 * (960 + 960 + 160)  # the third block of 160
        + 160 * 960 + 9 * 960 + 960 * 320 + 2 * (960 + 960 + 320)  # the block of 320
        + 320 * 1280 + 2 * 1280  # the last convolution
    )  # fmt: skip
    assert sum(p.numel() for p in mobile.parameters()) == 3_312_707 - beyond_mobile
    assert sum(p.numel() for p in inception.parameters()) == 35_840_099


@pytest.mark.parametrize("network", [DeblurGANv2MobileNet, DeblurGANv2Inception])
def test_names_of_the_stages_stand_for_those_of_the_backbone(network):
    def empty(shapes):
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}

    with torch.device("meta"):
        wanted = shapes_of(network())
    backbone = tuple(f"fpn.{layer}." for layer in STAGES[network])
    state = {
        name.removeprefix("module."): tensor
        for name, tensor in published(network, empty).items()
        if not name.removeprefix("module.").startswith(backbone)
    }
    assert not wanted.keys() <= state.keys()

    named = network.from_published(state, "image")

    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == wanted


def test_folding_needs_the_gathered_statistics(fill, tmp_path):
    state = published(DeblurGANv2MobileNet, fill)
    del state["module.fpn.features.3.conv.4.running_var"], state["module.fpn.enc1.1.conv.4.running_var"]
    torch.save({"model": state}, tmp_path / "best_fpn.h5")

    with pytest.raises(ArtifactError, match=r"lacks fpn\.features\.3\.conv\.4\.running_var"):
        import_checkpoint(
            tmp_path / "best_fpn.h5", "deblurgan-v2-mobilenet", tmp_path / "artifact", ImportOptions(norm="folded")
        )


def test_other_networks_take_no_norm(tmp_path):
    with pytest.raises(ConfigError, match="--arch mimo-unet takes no --norm"):
        import_checkpoint(tmp_path / "x.pth", "mimo-unet", tmp_path / "artifact", ImportOptions(norm="folded"))


def test_pictures_come_and_go_between_0_and_1_at_any_size():
    torch.manual_seed(0)
    net = DeblurGANv2MobileNet().eval()
    assert net.padded_size(1, 33) == (64, 64)
    assert net.padded_size(65, 96) == (96, 96)
    with torch.inference_mode():
        for size in ((1, 1), (20, 70)):
            restored = net(torch.rand(2, 3, *size))
            assert restored.shape == (2, 3, *size)
            assert restored.min() >= 0
            assert restored.max() <= 1
        nn.init.zeros_(net.final.weight)
        nn.init.zeros_(net.final.bias)
        image = torch.rand(1, 3, 64, 64)
        torch.testing.assert_close(net.forward_scales(image), [image])


def test_one_picture_does_not_change_another_of_its_batch():
    torch.manual_seed(0)
    net = DeblurGANv2MobileNet().eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(net(images)[:1], net(images[:1]), atol=1e-3, rtol=0)


def test_inceptions_maps_lack_their_borders_and_the_pyramid_gives_them_back():
    with torch.device("meta"):
        image = torch.empty(1, 3, 160, 128)
        maps = InceptionResNetV2("folded")(image)
        pyramid = InceptionPyramid(16, "folded")(image)
    assert [tuple(found.shape[1:]) for found in maps] == [
        (channels, height, width)
        for channels, height, width in zip(FEATURES, (79, 38, 17, 8, 3), (63, 30, 13, 6, 2), strict=True)
    ]
    assert [tuple(found.shape[2:]) for found in pyramid] == [(80, 64), (40, 32), (20, 16), (10, 8), (5, 4)]


def test_pruned_networks_are_rebuilt_from_plain_data():
    narrow = {
        # An inverted residual: the depthwise convolution keeps one filter a channel.
        "fpn.features.3.conv.0.weight": (96, 24, 1, 1),
        "fpn.features.3.conv.0.bias": (96,),
        "fpn.features.3.conv.3.weight": (96, 1, 3, 3),
        "fpn.features.3.conv.3.bias": (96,),
        "fpn.features.3.conv.6.weight": (24, 96, 1, 1),
        "head2.block0.weight": (40, 128, 3, 3),
        "head2.block1.weight": (64, 40, 3, 3),
    }
    torch.manual_seed(0)
    net = DeblurGANv2MobileNet(DeblurGANv2Config("folded", narrow)).eval()
    again = build_network(spec_of(net)).eval()
    again.load_state_dict(net.state_dict())

    assert spec_of(net).config == {"norm": "folded", "widths": narrow}
    assert again.fpn.features[3].conv[3].groups == 96
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(again(image), net(image))


def test_normalised_networks_can_be_narrower_too():
    narrow = {
        "fpn.features.3.conv.0.weight": (96, 24, 1, 1),
        "fpn.features.3.conv.3.weight": (96, 1, 3, 3),
        "fpn.features.3.conv.6.weight": (24, 96, 1, 1),
        **{f"fpn.features.3.conv.{norm}.{kind}": (96,) for norm in (1, 4) for kind in ("weight", "bias")},
    }
    net = DeblurGANv2MobileNet(DeblurGANv2Config("image", narrow)).eval()
    assert net.fpn.features[3].conv[1].num_features == 96
    with torch.inference_mode():
        assert net(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_names_are_the_published_ones():
    with torch.device("meta"):
        names = set(shapes_of(DeblurGANv2Inception()))
    assert {
        "fpn.inception.mixed_5b.branch3.1.conv.weight",
        "fpn.inception.repeat.9.branch2.2.bn.bias",
        "fpn.inception.repeat_1.19.conv2d.bias",
        "fpn.inception.mixed_7a.branch2.2.conv.weight",
        "fpn.lateral0.weight",
        "fpn.td3.0.bias",
        "head4.block1.weight",
        "smooth2.0.weight",
        "final.bias",
    } <= names
    assert not any(re.search(r"running_|smooth\.1|td1\.1", name) for name in names)
