"""NAFNet: a U-shaped network of blocks without activation functions.

Source: Chen et al., *Simple Baselines for Image Restoration*, ECCV 2022, figures 2 to 4. A block multiplies the halves
of its channels with each other (SimpleGate) where others have an activation, scales channels by their mean over the
picture (simplified channel attention), and adds what it has made times a weight per channel. Levels go down by a
convolution of stride 2 that doubles the channels, and up by a pixel shuffle.

Names of the layers are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor, nn

from deblur_deploy.network.generator import Generator
from deblur_deploy.network.widths import Shapes, apply_widths, changed_widths


@dataclass(frozen=True)
class NAFNetConfig:
    """Width and depth of a NAFNet, and widths that differ from the published ones.

    Args:
        width: Channels of the finest level; 32 and 64 are published.
        encoder_blocks: Blocks in each level on the way down, fine to coarse.
        middle_blocks: Blocks at the coarsest size.
        decoder_blocks: Blocks in each level on the way up, coarse to fine.
        widths: Shapes of arrays that differ, by pruning or another expansion in the blocks.
    """

    width: int = 32
    encoder_blocks: tuple[int, ...] = (1, 1, 1, 28)
    middle_blocks: int = 1
    decoder_blocks: tuple[int, ...] = (1, 1, 1, 1)
    widths: dict[str, tuple[int, ...]] = field(default_factory=dict)


class LayerNorm2d(nn.Module):
    """Each pixel's channels to mean 0 and variance 1, then scaled and shifted.

    Args:
        channels: How many.
        eps: What is added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        centred = x - x.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + self.eps).sqrt()
        return normed * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class NAFBlock(nn.Module):
    """Figure 3d of the paper.

    Args:
        channels: Of what it reads and adds to.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm2d(channels), LayerNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.conv4, self.conv5 = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        gated = _gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.conv3(gated * self.sca(gated)) * self.beta
        return x + self.conv5(_gate(self.conv4(self.norm2(x)))) * self.gamma  # type: ignore[no-any-return]


def _gate(x: Tensor) -> Tensor:
    """SimpleGate: (N, 2C, H, W) to (N, C, H, W)."""
    one, other = x.chunk(2, dim=1)
    return one * other


def _stages(channels: Sequence[int], blocks: Sequence[int]) -> nn.ModuleList:
    stages = [
        nn.Sequential(*(NAFBlock(width) for _ in range(depth))) for width, depth in zip(channels, blocks, strict=True)
    ]
    return nn.ModuleList(stages)


class NAFNet(Generator):
    """The network of the paper, with attention over the whole picture.

    Args:
        config: Width and depth.
    """

    arch = "nafnet"

    def __init__(self, config: NAFNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NAFNetConfig()
        levels = len(config.encoder_blocks)
        self.multiple_of = 2**levels
        channels = [config.width * 2**level for level in range(levels + 1)]
        *fine, middle = channels
        self.intro = nn.Conv2d(3, config.width, 3, padding=1)
        self.ending = nn.Conv2d(config.width, 3, 3, padding=1)
        self.encoders = _stages(fine, config.encoder_blocks)
        self.decoders = _stages(fine[::-1], config.decoder_blocks)
        self.middle_blks = nn.Sequential(*(NAFBlock(middle) for _ in range(config.middle_blocks)))
        self.downs = nn.ModuleList(nn.Conv2d(width, 2 * width, 2, stride=2) for width in fine)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.PixelShuffle(2)) for width in channels[:0:-1]
        )
        apply_widths(self, config.widths)

    def block_chains(self) -> tuple[tuple[str, ...], ...]:
        """The blocks of every level, of the middle, and of every level on the way up."""
        stages = [(f"encoders.{level}", depth) for level, depth in enumerate(self.config.encoder_blocks)]
        stages += [("middle_blks", self.config.middle_blocks)]
        stages += [(f"decoders.{level}", depth) for level, depth in enumerate(self.config.decoder_blocks)]
        return tuple(tuple(f"{stage}.{index}" for index in range(depth)) for stage, depth in stages if depth)

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        """The restored picture alone, for H and W that are multiples of :attr:`multiple_of`."""
        x, skips = self.intro(blurred), []
        for encode, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encode(x))
            x = down(skips[-1])
        x = self.middle_blks(x)
        for decode, up in zip(self.decoders, self.ups, strict=True):
            x = decode(up(x) + skips.pop())
        return [self.ending(x) + blurred]

    @classmethod
    def read_config(cls, shapes: Shapes) -> NAFNetConfig:
        """Width, depth and changed arrays of the network whose arrays have these shapes.

        Raises:
            KeyError: An array that every NAFNet has is missing; the exception names it.
        """
        levels = _count(shapes, "downs.{}.weight")
        config = NAFNetConfig(
            int(shapes["intro.weight"][0]),
            tuple(_count(shapes, f"encoders.{level}.{{}}.conv1.weight") for level in range(levels)),
            _count(shapes, "middle_blks.{}.conv1.weight"),
            tuple(_count(shapes, f"decoders.{level}.{{}}.conv1.weight") for level in range(levels)),
        )
        with torch.device("meta"):
            published = cls(config)
        return NAFNetConfig(
            config.width,
            config.encoder_blocks,
            config.middle_blocks,
            config.decoder_blocks,
            changed_widths(published, shapes),
        )


def _count(shapes: Shapes, name: str) -> int:
    """How many arrays there are of a numbered name, from 0 without a gap."""
    return next(n for n in count() if name.format(n) not in shapes)
