"""Restormer: its published size, its arithmetic, its checkpoints, and pruning it."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deblur_deploy.compress.plan import Frames, prune_network
from deblur_deploy.config import PruneConfig
from deblur_deploy.core.images import Resolution
from deblur_deploy.network.checkpoint import import_checkpoint, load_network
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.restormer import Attention, ChannelNorm, FeedForward, Restormer, RestormerConfig

SMALL = RestormerConfig(8, (1, 2, 1, 1), 1, (1, 2, 2, 4))


def trained(config: RestormerConfig = SMALL) -> Restormer:
    torch.manual_seed(0)
    return Restormer(config).eval()


def test_the_published_network_has_its_published_size():
    """26.13 million parameters, and 140.99 GMACs for 256x256 (the paper and its code).

    The paper counts convolutions alone. Here the two matrix products of each attention count too.
    """
    blocks = ((4, 48, 1, 1), (12, 96, 2, 2), (12, 192, 4, 4), (8, 384, 8, 8), (4 + 4, 96, 1, 1))
    products = sum(
        depth * 2 * (256 // smaller) ** 2 * channels**2 / heads for depth, channels, heads, smaller in blocks
    )
    with torch.device("meta"):
        cost = measure_cost(Restormer(), Resolution(256, 256))

    assert cost["params"] == 26_126_644
    assert cost["gmacs"] - products / 1e9 == pytest.approx(140.99, abs=0.01)


@pytest.mark.parametrize("bias", [True, False])
def test_the_norm_is_that_of_the_paper(bias):
    torch.manual_seed(0)
    norm = ChannelNorm(6, bias)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = torch.rand(2, 6, 5, 7)
    rows = x.permute(0, 2, 3, 1)
    scale = norm.weight / torch.sqrt(rows.var(-1, keepdim=True, unbiased=False) + 1e-5)
    wanted = (rows - rows.mean(-1, keepdim=True)) * scale + norm.bias if bias else rows * scale

    torch.testing.assert_close(norm(x), wanted.permute(0, 3, 1, 2))


def test_channels_attend_to_each_other_within_a_head():
    torch.manual_seed(0)
    layer = Attention(6, 2)
    nn.init.normal_(layer.temperature)
    x = torch.rand(1, 6, 4, 5)
    made = F.conv2d(F.conv2d(x, layer.qkv.weight), layer.qkv_dwconv.weight, padding=1, groups=18)
    heads = []
    for head in range(2):
        q, k, v = (made[0, 6 * part + 3 * head : 6 * part + 3 * head + 3].reshape(3, 20) for part in range(3))
        q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
        heads.append(((q @ k.T) * layer.temperature[head, 0, 0]).softmax(1) @ v)
    wanted = F.conv2d(torch.cat(heads).reshape(1, 6, 4, 5), layer.project_out.weight)

    torch.testing.assert_close(layer(x), wanted)


def test_the_first_half_gates_the_second():
    torch.manual_seed(0)
    layer = FeedForward(6)
    x = torch.rand(1, 6, 4, 5)
    hidden = layer.project_out.in_channels
    made = F.conv2d(F.conv2d(x, layer.project_in.weight), layer.dwconv.weight, padding=1, groups=2 * hidden)

    assert hidden == int(6 * 2.66)
    torch.testing.assert_close(
        layer(x), F.conv2d(F.gelu(made[:, :hidden]) * made[:, hidden:], layer.project_out.weight)
    )


@pytest.mark.parametrize("config", [SMALL, RestormerConfig(8, (1, 1, 1, 1), 2, (1, 1, 2, 2), norm_bias=False)])
def test_width_depth_and_heads_are_read_off_the_weights(config, tmp_path):
    net = trained(config)
    torch.save({"params": net.state_dict()}, tmp_path / "deblurring.pth")

    artifact = import_checkpoint(tmp_path / "deblurring.pth", "restormer", tmp_path / "artifact")

    assert json.loads(json.dumps(artifact.network.config)) == json.loads(json.dumps(asdict(config)))
    picture = torch.rand(1, 3, 21, 35)
    with torch.no_grad():
        assert torch.equal(load_network(artifact)(picture), net(picture))


def test_pruning_leaves_every_head_equally_large():
    net = trained()

    small, plan = prune_network(
        net, PruneConfig(keep=0.5, round_to=1, importance="l2"), frames=Frames(Resolution(32, 32))
    )

    assert not plan.frozen
    for layer in small.modules():
        if isinstance(layer, Attention):
            assert layer.qkv.out_channels % (3 * layer.heads) == 0
            assert layer.temperature.shape[0] == layer.heads
    assert plan.params[1] < 0.4 * plan.params[0]
