"""Restormer: a U-shaped transformer whose attention is between channels instead of pixels.

Source: Zamir et al., *Restormer: Efficient Transformer for High-Resolution Image Restoration*, CVPR 2022, figure 2. A
block normalises each pixel's channels, lets the channels of each head attend to each other by their pictures
(equation 1), and gates one half of a depthwise convolution by the other (equation 2). Levels go down by a pixel
unshuffle and up by a pixel shuffle; features of the encoder are joined to those of the decoder.

Names of the layers are those of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.network.generator import Generator
from deblur_deploy.network.widths import Shapes, apply_widths, changed_widths

_EXPANSION = 2.66
"""Channels of the gated half over those of a block."""


@dataclass(frozen=True)
class RestormerConfig:
    """Width, depth and heads of a Restormer, and widths that differ from the published ones.

    Args:
        dim: Channels of the finest level.
        blocks: Blocks in each level on the way down, fine to coarse; the last is the latent one.
        refinement: Blocks at full size behind the decoder.
        heads: Heads of the attention in each level.
        norm_bias: Whether normalisation has a shift; networks for denoising do without.
        widths: Shapes of arrays that pruning has changed.
    """

    dim: int = 48
    blocks: tuple[int, ...] = (4, 6, 6, 8)
    refinement: int = 4
    heads: tuple[int, ...] = (1, 2, 4, 8)
    norm_bias: bool = True
    widths: dict[str, tuple[int, ...]] = field(default_factory=dict)


class ChannelNorm(nn.Module):
    """Each pixel's channels to variance 1, and to mean 0 where there is a shift."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        centred = x - x.mean(1, keepdim=True)
        deviation = (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        weight = self.weight.view(1, -1, 1, 1)
        if self.bias is None:
            return x / deviation * weight
        return centred / deviation * weight + self.bias.view(1, -1, 1, 1)


class Norm(nn.Module):
    """The published name of a normalisation: ``body``."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.body = ChannelNorm(channels, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        return self.body(x)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-Dconv head transposed attention (MDTA)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        size = x.shape[-2:]
        query, key, value = (
            part.reshape(part.shape[0], self.heads, part.shape[1] // self.heads, -1)
            for part in self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1)
        )
        likeness = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        attended = (likeness * self.temperature).softmax(-1) @ value  # (N, heads, channels of a head, H W)
        return self.project_out(attended.flatten(1, 2).unflatten(-1, size))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Gated-Dconv feed-forward network (GDFN)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = int(channels * _EXPANSION)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        gate, features = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * features)  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention and feed-forward network, each on normalised channels and added to what came in."""

    def __init__(self, channels: int, heads: int, norm_bias: bool) -> None:
        super().__init__()
        self.norm1, self.attn = Norm(channels, norm_bias), Attention(channels, heads)
        self.norm2, self.ffn = Norm(channels, norm_bias), FeedForward(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))  # type: ignore[no-any-return]


class Rescale(nn.Module):
    """A 3x3 convolution and a pixel (un)shuffle: half the size with twice the channels, or the other way round."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        made = 2 * channels if up else channels // 2
        shuffle = nn.PixelShuffle(2) if up else nn.PixelUnshuffle(2)
        self.body = nn.Sequential(nn.Conv2d(channels, made, 3, padding=1, bias=False), shuffle)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 2 channels, H/2, W/2) or (N, channels/2, 2H, 2W)."""
        return self.body(x)  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """The published name of the first convolution: ``proj``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, channels, H, W)."""
        return self.proj(x)  # type: ignore[no-any-return]


class Restormer(Generator):
    """The network of the paper, for one picture of RGB.

    Args:
        config: Width, depth and heads.
    """

    arch = "restormer"
    multiple_of = 8

    def __init__(self, config: RestormerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RestormerConfig()
        one, two, three, four = (config.dim * 2**level for level in range(4))

        def stage(channels: int, level: int, depth: int) -> nn.Sequential:
            blocks = (TransformerBlock(channels, config.heads[level], config.norm_bias) for _ in range(depth))
            return nn.Sequential(*blocks)

        self.patch_embed = PatchEmbed(one)
        self.encoder_level1, self.down1_2 = stage(one, 0, config.blocks[0]), Rescale(one, up=False)
        self.encoder_level2, self.down2_3 = stage(two, 1, config.blocks[1]), Rescale(two, up=False)
        self.encoder_level3, self.down3_4 = stage(three, 2, config.blocks[2]), Rescale(three, up=False)
        self.latent = stage(four, 3, config.blocks[3])
        self.up4_3, self.reduce_chan_level3 = Rescale(four, up=True), nn.Conv2d(2 * three, three, 1, bias=False)
        self.decoder_level3 = stage(three, 2, config.blocks[2])
        self.up3_2, self.reduce_chan_level2 = Rescale(three, up=True), nn.Conv2d(2 * two, two, 1, bias=False)
        self.decoder_level2 = stage(two, 1, config.blocks[1])
        self.up2_1 = Rescale(two, up=True)
        self.decoder_level1 = stage(two, 0, config.blocks[0])
        self.refinement = stage(two, 0, config.refinement)
        self.output = nn.Conv2d(two, 3, 3, padding=1, bias=False)
        apply_widths(self, config.widths)

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        """The restored picture alone, for H and W that are multiples of 8."""
        one = self.encoder_level1(self.patch_embed(blurred))
        two = self.encoder_level2(self.down1_2(one))
        three = self.encoder_level3(self.down2_3(two))
        x = self.up4_3(self.latent(self.down3_4(three)))
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([x, three], dim=1)))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(x), two], dim=1)))
        x = self.decoder_level1(torch.cat([self.up2_1(x), one], dim=1))
        return [self.output(self.refinement(x)) + blurred]

    @classmethod
    def read_config(cls, shapes: Shapes) -> RestormerConfig:
        """Width, depth, heads and changed arrays of the network whose arrays have these shapes.

        Raises:
            KeyError: An array that every Restormer has is missing; the exception names it.
        """
        stages = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
        config = RestormerConfig(
            int(shapes["patch_embed.proj.weight"][0]),
            tuple(_depth(shapes, stage) for stage in stages),
            _depth(shapes, "refinement"),
            tuple(int(shapes[f"{stage}.0.attn.temperature"][0]) for stage in stages),
            "encoder_level1.0.norm1.body.bias" in shapes,
        )
        with torch.device("meta"):
            published = cls(config)
        widths = changed_widths(published, shapes)
        return RestormerConfig(config.dim, config.blocks, config.refinement, config.heads, config.norm_bias, widths)


def _depth(shapes: Shapes, stage: str) -> int:
    """Blocks of a stage."""
    return next(n for n in count() if f"{stage}.{n}.attn.temperature" not in shapes)
