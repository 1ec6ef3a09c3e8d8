"""Parameters and GMACs against a count by hand."""

from __future__ import annotations

import torch
from torch import nn

from deblur_deploy.core.images import Resolution
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.deform_conv import DeformConv2dPack
from deblur_deploy.network.srn import SRN, SRNConfig


def test_convolutions_deformable_ones_included_are_counted_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), DeformConv2dPack(8, 4, 3, padding=1), nn.Conv2d(4, 3, 1))

    cost = measure_cost(net, Resolution(20, 10))

    first, offsets, deformable, last = 3 * 8 * 9, 8 * 18 * 9, 8 * 4 * 9, 4 * 3
    assert cost["gmacs"] == round(200 * (first + offsets + deformable + last) / 1e9, 4)
    assert cost["params"] == first + 8 + offsets + 18 + deformable + last + 3


def test_counting_touches_neither_the_network_nor_its_device(tiny_config):
    net = SRN(tiny_config)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    measure_cost(net)

    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_twice_the_pixels_are_twice_the_work():
    net = SRN(SRNConfig.from_base(16))

    small, large = (measure_cost(net, Resolution(width, 160))["gmacs"] for width in (160, 320))

    assert abs(large / small - 2) < 1e-3
