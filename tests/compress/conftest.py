"""Small networks of other kinds than the one that is shipped: what prunes one generator must prune them all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.compress.plan import Frames
from deblur_deploy.core.images import Resolution
from deblur_deploy.network.deform_conv import DeformConv2dPack, deform_conv2d
from deblur_deploy.network.srn import SRN, SRNConfig


class UNet(nn.Module):
    """Encoder and decoder joined by concatenation, with batch norm, PReLU and a depthwise layer on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.PReLU(16))
        self.down2 = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.LeakyReLU(0.1))
        self.mix = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 32, 1), nn.ReLU())
        self.up = nn.ConvTranspose2d(32, 24, 2, stride=2)
        self.fuse = nn.Conv2d(16 + 24, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x)
        coarse = self.mix(self.down2(fine))
        return self.head(F.relu(self.fuse(torch.cat([fine, self.up(coarse)], dim=1))))


class FPN(nn.Module):
    """Two pictures from a pyramid with additions and a channel attention; a deformable layer in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.coarse = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.deform = DeformConv2dPack(32, 32, 3, padding=1)
        self.squeeze = nn.Conv2d(32, 8, 1)
        self.excite = nn.Conv2d(8, 32, 1)
        self.lateral1 = nn.Conv2d(16, 24, 1)
        self.lateral2 = nn.Conv2d(32, 24, 1)
        self.small = nn.Conv2d(24, 3, 3, padding=1)
        self.large = nn.Conv2d(24, 3, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = F.silu(self.stem(x))
        coarse = F.relu(self.deform(F.relu(self.coarse(fine))))
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(coarse, 1)))))
        top = self.lateral2(coarse * scale)
        merged = self.lateral1(fine) + F.interpolate(top, scale_factor=2.0, mode="nearest")
        return [self.small(top), x + self.large(merged)]


class ModulatedPack(DeformConv2dPack):
    """A deformable layer with a bias whose inner convolution predicts 18 offsets and 9 more values, as DCNv2's does."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.conv_offset = nn.Conv2d(channels, 27, 3, padding=1)
        self.bias = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        predicted = self.conv_offset(x)
        taps = predicted[:, 18:].sigmoid().repeat_interleave(2, dim=1)
        out = deform_conv2d(x, predicted[:, :18] * taps, self.weight, padding=1)
        return out if self.bias is None else out + self.bias[:, None, None]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def new_srn(base: int = 24) -> SRN:
    torch.manual_seed(2)
    net = SRN(SRNConfig.from_base(base)).eval()
    nn.init.normal_(net.head.weight, std=0.05)
    nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.02)
    return net


def new_unet() -> UNet:
    torch.manual_seed(3)
    net = UNet()
    for _ in range(3):  # so that running statistics are no longer those of a fresh layer
        net(torch.rand(2, 3, 16, 16))
    return net.eval()


def new_fpn() -> FPN:
    torch.manual_seed(4)
    net = FPN().eval()
    nn.init.normal_(net.deform.conv_offset.weight, std=0.05)
    return net


MAKERS: dict[str, Callable[[], nn.Module]] = {"srn": lambda: new_srn(8), "unet": new_unet, "fpn": new_fpn}


@pytest.fixture(params=MAKERS)
def any_net(request) -> nn.Module:
    """One network of each kind in turn."""
    return MAKERS[request.param]()


@pytest.fixture
def frames() -> Frames:
    """Frames that all of these networks take."""
    return Frames(Resolution(32, 32), Resolution(32, 32))


@pytest.fixture
def unet() -> UNet:
    return new_unet()


@pytest.fixture
def fpn() -> FPN:
    return new_fpn()


@pytest.fixture
def modulated() -> nn.Module:
    """A network around a modulated deformable layer, whose inner convolution predicts 27 values."""

    class Modulated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Conv2d(3, 16, 3, padding=1)
            self.pack = ModulatedPack(16)
            self.leave = nn.Conv2d(16, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.enter(x))
            return self.leave(x + F.relu(self.pack(x)))

    torch.manual_seed(5)
    return Modulated().eval()


@pytest.fixture
def net() -> SRN:
    """An SRN of base 24 in which every part has an effect."""
    return new_srn()
