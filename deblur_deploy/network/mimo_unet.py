"""MIMO-UNet and MIMO-UNet+: one U-shaped network that takes and gives the picture in three sizes.

Source: Cho et al., *Rethinking Coarse-to-Fine Approach in Single Image Deblurring*, ICCV 2021. Smaller copies of the
blurred picture pass through a shallow module (SCM) and are merged into the encoder by a product (FAM, equation 2);
features of all encoder levels are fused into each skip (AFF, equation 3); each decoder level predicts what to add to
the blurred picture of its size::

    blurred ── enter ── encoder 1 ─────┬─ AFF ─────────┬ decoder 1 ── + blurred
    blurred/2 ── SCM2 ── FAM2 ── encoder 2 ┬─ AFF ──── ┬ decoder 2 ── + blurred/2
    blurred/4 ── SCM1 ── FAM1 ── encoder 3 ┴────────── decoder 3 ── + blurred/4

Names of the layers are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.network.generator import Generator
from deblur_deploy.network.widths import Shapes, apply_widths, changed_widths

CHANNELS = (32, 64, 128)
"""Widths of the three levels, fine to coarse."""


@dataclass(frozen=True)
class MIMOUNetConfig:
    """Depth of a MIMO-UNet, and widths that differ from the published ones.

    Args:
        blocks: Residual blocks in each of the six stages.
        widths: Shapes of arrays that pruning has changed.
    """

    blocks: int = 8
    widths: dict[str, tuple[int, ...]] = field(default_factory=dict)


class BasicConv(nn.Module):
    """A convolution that keeps the size or halves it, or a transposed one that doubles it; with or without ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2))
        if relu:
            self.main.append(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        return self.main(x)  # type: ignore[no-any-return]


class UpConv(nn.Module):
    """``relu(transposed conv)``, which doubles the size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, 2H, 2W)."""
        return self.main(x)  # type: ignore[no-any-return]


class MimoResBlock(nn.Module):
    """``x + conv(relu(conv(x)))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(BasicConv(channels, channels, 3), BasicConv(channels, channels, 3, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        return self.main(x) + x  # type: ignore[no-any-return]


class Stage(nn.Module):
    """Residual blocks in a row: an encoder block (EB) or decoder block (DB) of the paper."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(MimoResBlock(channels) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        return self.layers(x)  # type: ignore[no-any-return]


class ShallowModule(nn.Module):
    """SCM: features of a smaller picture, which itself stays among them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            BasicConv(3, channels // 4, 3),
            BasicConv(channels // 4, channels // 2, 1),
            BasicConv(channels // 2, channels // 2, 3),
            BasicConv(channels // 2, channels - 3, 1),
        )
        self.conv = BasicConv(channels, channels, 1, relu=False)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, h, w) to (N, channels, h, w)."""
        return self.conv(torch.cat([image, self.main(image)], dim=1))  # type: ignore[no-any-return]


class AttentionModule(nn.Module):
    """FAM: ``x + conv(x * shallow)``, by which the smaller picture strengthens or dampens the encoder's features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge = BasicConv(channels, channels, 3, relu=False)

    def forward(self, x: Tensor, shallow: Tensor) -> Tensor:
        """Both (N, channels, h, w), as is the result."""
        return x + self.merge(x * shallow)  # type: ignore[no-any-return]


class Fusion(nn.Module):
    """AFF: features of all three levels, brought to one size, into one skip."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            BasicConv(sum(CHANNELS), out_channels, 1), BasicConv(out_channels, out_channels, 3, relu=False)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Three (N, C, h, w) to (N, out_channels, h, w)."""
        return self.conv(torch.cat(list(features), dim=1))  # type: ignore[no-any-return]


class MIMOUNet(Generator):
    """The base network of the paper, with eight residual blocks a stage.

    Args:
        config: Depth and widths.
    """

    arch = "mimo-unet"
    multiple_of = 4
    published_blocks: ClassVar[int] = 8
    dropout: ClassVar[float] = 0.0

    def __init__(self, config: MIMOUNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MIMOUNetConfig(self.published_blocks)
        one, two, three = CHANNELS
        self.Encoder = nn.ModuleList(Stage(channels, config.blocks) for channels in CHANNELS)
        self.feat_extract = nn.ModuleList(
            [
                BasicConv(3, one, 3),
                BasicConv(one, two, 3, stride=2),
                BasicConv(two, three, 3, stride=2),
                UpConv(three, two),
                UpConv(two, one),
                BasicConv(one, 3, 3, relu=False),
            ]
        )
        self.Decoder = nn.ModuleList(Stage(channels, config.blocks) for channels in reversed(CHANNELS))
        self.Convs = nn.ModuleList([BasicConv(three, two, 1), BasicConv(two, one, 1)])
        self.ConvsOut = nn.ModuleList([BasicConv(three, 3, 3, relu=False), BasicConv(two, 3, 3, relu=False)])
        self.AFFs = nn.ModuleList([Fusion(one), Fusion(two)])
        self.FAM1, self.SCM1 = AttentionModule(three), ShallowModule(three)
        self.FAM2, self.SCM2 = AttentionModule(two), ShallowModule(two)
        self.drop = nn.Dropout2d(self.dropout)
        apply_widths(self, config.widths)

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        """Estimates at 1/4, 1/2 and full size, for H and W that are multiples of 4.

        Smaller pictures are every second pixel of larger ones.
        """
        half = _halved(blurred)
        quarter = _halved(half)
        fine, middle, coarse = self._encode(blurred, half, quarter)
        skips = [
            self.AFFs[0]([fine, _doubled(middle), _doubled(_doubled(coarse))]),
            self.AFFs[1]([_halved(fine), middle, _doubled(coarse)]),
        ]
        x = self.Decoder[0](coarse)
        estimates = [self.ConvsOut[0](x) + quarter]
        x = torch.cat([self.feat_extract[3](x), self.drop(skips[1])], dim=1)
        x = self.Decoder[1](self.Convs[0](x))
        estimates.append(self.ConvsOut[1](x) + half)
        x = torch.cat([self.feat_extract[4](x), self.drop(skips[0])], dim=1)
        x = self.Decoder[2](self.Convs[1](x))
        estimates.append(self.feat_extract[5](x) + blurred)
        return estimates

    def _encode(self, blurred: Tensor, half: Tensor, quarter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features fine to coarse: (N, 32, H, W), (N, 64, H/2, W/2), (N, 128, H/4, W/4)."""
        fine = self.Encoder[0](self.feat_extract[0](blurred))
        middle = self.Encoder[1](self.FAM2(self.feat_extract[1](fine), self.SCM2(half)))
        coarse = self.Encoder[2](self.FAM1(self.feat_extract[2](middle), self.SCM1(quarter)))
        return fine, middle, coarse

    @classmethod
    def read_config(cls, shapes: Shapes) -> MIMOUNetConfig:
        """Depth and widths of the network whose arrays have these shapes.

        Raises:
            KeyError: An array that every MIMO-UNet has is missing; the exception names it.
        """
        blocks = next(n for n in count() if f"Encoder.0.layers.{n}.main.0.main.0.weight" not in shapes)
        with torch.device("meta"):
            published = cls(MIMOUNetConfig(blocks or cls.published_blocks))
        return MIMOUNetConfig(published.config.blocks, changed_widths(published, shapes))


class MIMOUNetPlus(MIMOUNet):
    """MIMO-UNet+: twenty residual blocks a stage; while it trains, a tenth of the skips' channels is dropped."""

    arch = "mimo-unet-plus"
    published_blocks = 20
    dropout = 0.1


def _halved(x: Tensor) -> Tensor:
    """Every second row and column: (N, C, H, W) to (N, C, H/2, W/2)."""
    return F.interpolate(x, scale_factor=0.5, mode="nearest")


def _doubled(x: Tensor) -> Tensor:
    """Every row and column twice: (N, C, h, w) to (N, C, 2h, 2w)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
