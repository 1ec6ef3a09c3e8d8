"""NAFNet: its published sizes, its arithmetic, and its checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deblur_deploy.network.architectures import find_architecture
from deblur_deploy.network.checkpoint import import_checkpoint, load_network
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.nafnet import LayerNorm2d, NAFBlock, NAFNet, NAFNetConfig

SMALL = NAFNetConfig(8, (1, 2), 1, (2, 1))


def trained(config: NAFNetConfig = SMALL) -> NAFNet:
    torch.manual_seed(0)
    net = NAFNet(config).eval()
    for name, parameter in net.named_parameters():
        if name.endswith(("beta", "gamma")):
            nn.init.normal_(parameter, std=0.3)
    return net


@pytest.mark.parametrize(("width", "millions", "gmacs_256"), [(32, 17.1, 16.0), (64, 67.9, 63.2)])
def test_the_published_networks_for_gopro_have_their_published_size(width, millions, gmacs_256):
    """Table 6 of the paper has 16 and 63.5 GMACs for 256x256; the files have 17.1 and 67.9 million parameters."""
    with torch.device("meta"):
        net = NAFNet(NAFNetConfig(width))

    cost = measure_cost(net)
    assert round(cost["params"] / 1e6, 1) == millions
    assert cost["gmacs"] * 256 * 256 / (640 * 368) == pytest.approx(gmacs_256, rel=0.02)


def test_a_block_is_that_of_the_paper():
    torch.manual_seed(0)
    block = NAFBlock(4)
    for parameter in (block.beta, block.gamma):
        nn.init.normal_(parameter)
    x = torch.rand(1, 4, 6, 5)
    with torch.no_grad():
        y = F.conv2d(block.norm1(x), block.conv1.weight, block.conv1.bias)
        y = F.conv2d(y, block.conv2.weight, block.conv2.bias, padding=1, groups=8)
        y = y[:, :4] * y[:, 4:]
        y = y * F.conv2d(y.mean((2, 3), keepdim=True), block.sca[1].weight, block.sca[1].bias)
        x1 = x + block.beta * F.conv2d(y, block.conv3.weight, block.conv3.bias)
        z = F.conv2d(block.norm2(x1), block.conv4.weight, block.conv4.bias)
        z = F.conv2d(z[:, :4] * z[:, 4:], block.conv5.weight, block.conv5.bias)

        torch.testing.assert_close(block(x), x1 + block.gamma * z)


def test_the_norm_is_layer_norm_over_channels():
    torch.manual_seed(0)
    norm = LayerNorm2d(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.rand(2, 6, 5, 7)

    wanted = F.layer_norm(x.permute(0, 2, 3, 1), (6,), norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)

    torch.testing.assert_close(norm(x), wanted)


@pytest.mark.parametrize(
    "config", [SMALL, NAFNetConfig(4, (2,), 3, (1,)), NAFNetConfig(4, (1, 1, 1, 2), 1, (1, 1, 1, 1))]
)
def test_width_and_depth_are_read_off_the_weights(config, tmp_path):
    net = trained(config)
    torch.save({"params": net.state_dict()}, tmp_path / "NAFNet.pth")

    artifact = import_checkpoint(tmp_path / "NAFNet.pth", "nafnet", tmp_path / "artifact")

    assert tuple(artifact.network.config["encoder_blocks"]) == config.encoder_blocks
    assert artifact.image.multiple_of == 2 ** len(config.encoder_blocks)
    picture = torch.rand(1, 3, 21, 35)
    with torch.no_grad():
        assert torch.equal(load_network(artifact)(picture), net(picture))


def test_pruned_widths_are_read_too():
    net = trained()
    net.encoders[0][0].conv1 = nn.Conv2d(8, 12, 1)
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}

    config = find_architecture("nafnet").read_config(shapes)

    assert config.widths["encoders.0.0.conv1.weight"] == (12, 8, 1, 1)


def test_blocks_that_go_leave_the_others_as_they_are():
    net = trained()
    chains = net.block_chains()
    assert chains[:3] == (("encoders.0.0",), ("encoders.1.0", "encoders.1.1"), ("middle_blks.0",))
    assert chains[3:] == (("decoders.0.0", "decoders.0.1"), ("decoders.1.0",))
    gone = {"encoders.0.0", "encoders.1.1", "middle_blks.0"}
    shallow = net.without_blocks(gone)
    assert shallow.config == NAFNetConfig(8, (0, 1), 0, (2, 1))
    frame = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        assert not torch.allclose(net(frame), shallow(frame), atol=1e-3)
        for name in gone:
            block = net.get_submodule(name)
            block.beta.zero_()
            block.gamma.zero_()
        assert torch.allclose(net(frame), shallow(frame), atol=1e-5)
