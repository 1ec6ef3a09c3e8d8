"""SRN-DeblurNet with a deformable bottleneck: the generator that this toolkit deploys.

Scale-recurrent network (Tao et al., *Scale-recurrent Network for Deep Image Deblurring*, CVPR 2018): one
encoder-decoder works through three sizes of the same photograph, coarse to fine, with shared weights. Each pass takes
the blurred image of its scale and the upsampled estimate of the pass before, and a recurrent state travels along::

    blurred/4 ─┐          blurred/2 ─┐            blurred ─┐
    blurred/4 ─┴ one ──── estimate ──┴ one ────── estimate ┴ one ──── estimate
                scale ──── state ───── scale ───── state ──── scale

Within one scale: residual blocks with dilated convolutions (three levels, strides 1, 2, 4), a deformable block, a gated
recurrent unit, and a feature pyramid that comes back up through transposed convolutions. There is no normalisation
layer, and the network predicts what to add to the blurred image.

Every width is a field of :class:`SRNConfig`, since after pruning no two need be alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.network.deform_conv import DeformConv2dPack
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.scales import Scales

SCALES = 3
"""Sizes of the image pyramid: 1/4, 1/2 and 1."""

MULTIPLE_OF = 16
"""Height and width that the unpadded graph needs: 2**(SCALES - 1) for the pyramid times 4 for the encoder."""


@dataclass(frozen=True)
class SRNConfig:
    """Widths and depths of an SRN.

    Args:
        level_channels: Residual streams of the three encoder levels.
        block_channels: For each level, the inner width of each of its residual blocks; its length is the depth.
        recurrent_channels: Candidate, gate and state of the gated unit.
        pyramid_channels: Lateral sums of the feature pyramid, fine to coarse.
        smooth_channels: Outputs of the smoothing convolutions, fine to coarse.
        stem: Side of the blocks of pixels that become channels before the first convolution and pixels again behind
            the last (Shi et al., CVPR 2016). With 2 every level works at half the resolution.
        temporal: Whether the network also takes over from the frame before (see ``network/temporal.py``).
    """

    level_channels: tuple[int, int, int]
    block_channels: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    recurrent_channels: int
    pyramid_channels: tuple[int, int, int]
    smooth_channels: tuple[int, int, int]
    stem: int = 1
    temporal: bool = False

    @property
    def pictures(self) -> int:
        """How many pictures a scale sees: its blurred image, the coarser estimate, and the frame before if temporal."""
        return 3 if self.temporal else 2

    @classmethod
    def from_base(cls, base: int, depths: Sequence[int] = (2, 2, 1), stem: int = 1) -> SRNConfig:
        """The unpruned family: widths base, 2*base, 4*base and ``depths[k]`` residual blocks on level k."""
        one, two, three = base, 2 * base, 4 * base
        widths = (one, two, three)
        blocks = ((one,) * depths[0], (two,) * depths[1], (three,) * depths[2])
        return cls(widths, blocks, three, widths, widths, stem)

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> SRNConfig:
        """Read every width off the weight shapes of a (possibly pruned) checkpoint.

        Raises:
            KeyError: A tensor that every SRN has is missing; the exception names it.
        """

        def out_channels(name: str) -> int:
            return shapes[f"{name}.weight"][0]

        def blocks(level: int) -> Iterator[int]:
            for index in count():
                name = f"levels.{level}.blocks.{index}.conv1"
                if f"{name}.weight" not in shapes:
                    return
                yield out_channels(name)

        stem = max(1, math.isqrt(out_channels("head") // 3))
        return cls(
            (out_channels("levels.0.enter"), out_channels("levels.1.enter"), out_channels("levels.2.enter")),
            (tuple(blocks(0)), tuple(blocks(1)), tuple(blocks(2))),
            out_channels("recurrent.candidate"),
            (out_channels("pyramid.lateral.0"), out_channels("pyramid.lateral.1"), out_channels("pyramid.lateral.2")),
            (out_channels("pyramid.smooth.0"), out_channels("pyramid.smooth.1"), out_channels("pyramid.smooth.2")),
            stem,
            shapes["levels.0.enter.weight"][1] > 6 * stem**2,
        )


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, or divides it by its stride."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation)


class ResBlock(nn.Module):
    """``x + conv(relu(conv(x)))``, the first convolution dilated."""

    def __init__(self, channels: int, inner: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, inner, dilation=dilation)
        self.conv2 = conv3x3(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        return x + self.conv2(F.relu(self.conv1(x)))  # type: ignore[no-any-return]


class Level(nn.Module):
    """One level of the encoder: a convolution into its width, then residual blocks with dilations 1, 2, 1, 2, …."""

    def __init__(self, in_channels: int, channels: int, inner: Sequence[int], stride: int) -> None:
        super().__init__()
        self.enter = conv3x3(in_channels, channels, stride)
        self.blocks = nn.Sequential(*(ResBlock(channels, width, 1 + index % 2) for index, width in enumerate(inner)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H/stride, W/stride)."""
        return self.blocks(F.relu(self.enter(x)))  # type: ignore[no-any-return]


class DeformBlock(nn.Module):
    """``x + relu(deform(x))``: samples where the blur came from instead of on a fixed grid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.deform = DeformConv2dPack(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        return x + F.relu(self.deform(x))


class GatedUnit(nn.Module):
    """The recurrence over scales: ``f = relu(conv(x)); g = sigmoid(conv([f, h])); h = g*f + (1 - g)*h``."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.candidate = conv3x3(in_channels, channels)
        self.gate = conv3x3(2 * channels, channels)

    def forward(self, x: Tensor, state: Tensor | None, trust: Tensor | None = None) -> Tensor:
        """New state from ``x`` (N, in_channels, H, W) and the old state (N, channels, H, W).

        The coarsest scale has no state yet. It takes its candidate as both, and then any gate gives the candidate. So
        does an old state as far as it is not trusted, where ``trust`` (N, 1, H, W) from 0 to 1 says so.
        """
        candidate = self.propose(x)
        if state is None:
            return candidate
        return self.blend(candidate, state if trust is None else candidate + trust * (state - candidate))

    def propose(self, x: Tensor) -> Tensor:
        """The candidate ``f``: (N, in_channels, H, W) to (N, channels, H, W)."""
        return F.relu(self.candidate(x))

    def blend(self, candidate: Tensor, state: Tensor) -> Tensor:
        """The gate's mixture of candidate and state, all (N, channels, H, W)."""
        gate = torch.sigmoid(self.gate(torch.cat([candidate, state], dim=1)))
        return gate * candidate + (1 - gate) * state


class FeaturePyramid(nn.Module):
    """Top-down pathway (Lin et al., *Feature Pyramid Networks*, CVPR 2017), upsampling by transposed convolutions."""

    def __init__(self, in_channels: Sequence[int], lateral: Sequence[int], smooth: Sequence[int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(in_channels, lateral, strict=True))
        self.smooth = nn.ModuleList(conv3x3(a, b) for a, b in zip(lateral, smooth, strict=True))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in zip(smooth[1:], lateral[:-1], strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features fine to coarse, each half the size of the one before, to the finest smoothed map."""
        coarsest = len(features) - 1
        x = F.relu(self.smooth[coarsest](self.lateral[coarsest](features[coarsest])))
        for level in reversed(range(coarsest)):
            x = self.lateral[level](features[level]) + self.up[level](x)
            x = F.relu(self.smooth[level](x))
        return x


class SRN(Generator):
    """The generator: blurred RGB in [0, 1] to restored RGB, any size from 1x1.

    Args:
        config: Widths and depths.
    """

    arch = "srn"
    multiple_of = MULTIPLE_OF
    feature_layers = ("levels.0", "levels.1", "levels.2", "recurrent")
    """Layers that a student follows in its teacher: the encoder's levels and the state."""

    def __init__(self, config: SRNConfig) -> None:
        super().__init__()
        self.config = config
        self.multiple_of = MULTIPLE_OF * config.stem
        first, second, third = config.level_channels
        self.levels = nn.ModuleList(
            [
                Level(3 * config.pictures * config.stem**2, first, config.block_channels[0], stride=1),
                Level(first, second, config.block_channels[1], stride=2),
                Level(second, third, config.block_channels[2], stride=2),
            ]
        )
        self.deform = DeformBlock(third)
        self.recurrent = GatedUnit(third, config.recurrent_channels)
        self.pyramid = FeaturePyramid(
            (first, second, config.recurrent_channels), config.pyramid_channels, config.smooth_channels
        )
        self.head = conv3x3(config.smooth_channels[0], 3 * config.stem**2)
        self._start()

    def _start(self) -> None:
        """Random weights that keep the size of signals from layer to layer (He et al., ICCV 2015).

        There is no normalisation layer to do that. With PyTorch's own starting weights a signal shrinks at every layer,
        and training leaves the coarse levels, which are the furthest from the output, all but unused.
        """
        if self.head.weight.is_meta:  # there is nothing to fill, and PyTorch would load its compiler to find that out
            return
        offsets = [module.conv_offset for module in self.modules() if isinstance(module, DeformConv2dPack)]
        for layer in self.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                # Each output sees a quarter of the 4x4 kernel, and no ReLU takes half of it.
                nn.init.normal_(layer.weight, std=(4 * layer.in_channels) ** -0.5)
            elif isinstance(layer, (nn.Conv2d, DeformConv2dPack)) and layer not in offsets:  # these start at zero
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        for block in (module for module in self.modules() if isinstance(module, ResBlock)):
            block.conv2.weight.data *= 0.5  # a sum of many blocks should not grow
        # A fresh network should start close to the blurred image, which is already a fair estimate.
        nn.init.normal_(self.head.weight, std=1e-3)

    def block_chains(self) -> tuple[tuple[str, ...], ...]:
        """The residual blocks of every level."""
        depths = [len(blocks) for blocks in self.config.block_channels]
        return tuple(
            tuple(f"levels.{level}.blocks.{index}" for index in range(depth))
            for level, depth in enumerate(depths)
            if depth
        )

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        """The estimates of all scales, coarse to fine, for H and W that are multiples of 16."""
        return self.forward_recurrent(blurred, None, None)[0]

    def forward_recurrent(
        self, blurred: Tensor, prior: Tensor | None, carried: tuple[Tensor, Tensor] | None
    ) -> tuple[list[Tensor], Tensor]:
        """All scales, from what is known before the first of them.

        Args:
            blurred: (N, 3, H, W), H and W multiples of :attr:`multiple_of`.
            prior: By how much an earlier estimate differs from ``blurred``, (N, 3, H, W), of a temporal network alone;
                None is 0 everywhere.
            carried: A state (N, R, h, w) for the coarsest scale and how far it is trusted, (N, 1, h, w) from 0 to 1;
                the candidate fills the rest. None is the candidate alone.

        Returns:
            The estimates of all scales, coarse to fine, and the state of the coarsest.
        """
        images = _pyramid(blurred)
        priors = [None] * SCALES if prior is None else _pyramid(prior)
        state, trust = carried or (None, None)
        estimate, state = self.forward_one_scale(images[-1], images[-1], state, priors[-1], trust)
        estimates, coarsest = [estimate], state
        for image, known in zip(reversed(images[:-1]), reversed(priors[:-1]), strict=True):
            estimate, state = self.forward_one_scale(image, double_size(estimate), double_size(state), known)
            estimates.append(estimate)
        return estimates, coarsest

    @property
    def scales(self) -> Scales:
        """How its scales fit together, for :meth:`run_scale`."""
        strides = [self.config.stem * 2**level for level in range(3)]
        depths = [len(blocks) for blocks in self.config.block_channels]
        # A convolution into each level, at the resolution before it, and two for each block, of dilation 1 or 2 and 1.
        reach = sum(strides[max(0, level - 1)] for level in range(3))
        reach += sum(stride * (2 * depth + depth // 2) for stride, depth in zip(strides, depths, strict=True))
        # Offsets, deformable layer, candidate and gate; doubling the state; smoothing, upsampling and the head.
        reach += 4 * strides[2] + 2 * strides[2] + sum(strides) + sum(strides[1:]) + strides[0]
        return Scales(SCALES, strides[2], self.config.recurrent_channels, reach)

    def run_scale(self, image: Tensor, coarser: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """One scale by itself, as :class:`~deblur_deploy.network.generator.ScaleRecurrent` has it."""
        if coarser is None:
            return self.forward_one_scale(image, image, None)
        return self.forward_one_scale(image, double_size(coarser[0]), double_size(coarser[1]))

    def forward_one_scale(
        self,
        image: Tensor,
        previous: Tensor,
        state: Tensor | None,
        prior: Tensor | None = None,
        trust: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One pass of the shared encoder-decoder.

        Args:
            image: Blurred image of this scale, (N, 3, h, w).
            previous: Estimate of the coarser scale brought to this size, (N, 3, h, w).
            state: State of the coarser scale brought to this size, (N, R, h/4, w/4), or None on the coarsest.
            prior: By how much an earlier estimate differs from ``image``; see :meth:`forward_recurrent`.
            trust: How far ``state`` is trusted, (N, 1, h/4, w/4); None is 1 everywhere.

        Returns:
            The estimate (N, 3, h, w) and the state (N, R, h/4, w/4).
        """
        features = self.encode(image, previous, prior)
        state = self.recurrent(features[-1], state, trust)  # (N, R, h/4, w/4)
        return self.decode(image, features, state), state

    def encode(self, image: Tensor, previous: Tensor, prior: Tensor | None = None) -> list[Tensor]:
        """Features of the three levels, fine to coarse: (N, C1, h, w), (N, C2, h/2, w/2), (N, C3, h/4, w/4)."""
        seen = [image, previous]
        if self.config.temporal:
            seen.append(torch.zeros_like(image) if prior is None else prior)
        x = torch.cat(seen, dim=1)  # (N, 6 or 9, h, w)
        if self.config.stem > 1:
            x = F.pixel_unshuffle(x, self.config.stem)
        features: list[Tensor] = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        features[-1] = self.deform(x)
        return features

    def decode(self, image: Tensor, features: list[Tensor], state: Tensor) -> Tensor:
        """The estimate (N, 3, h, w) from the two finer levels' features and the state that replaces the coarsest."""
        restored = self.pyramid([*features[:-1], state])  # (N, S1, h, w)
        residual = self.head(restored)
        if self.config.stem > 1:
            residual = F.pixel_shuffle(residual, self.config.stem)
        return image + residual  # type: ignore[no-any-return]

    @classmethod
    def example(cls) -> Self:
        """A narrow one."""
        return cls(SRNConfig.from_base(8))

    @classmethod
    def read_config(cls, shapes: Mapping[str, Sequence[int]]) -> SRNConfig:
        """Widths and depths of the network whose arrays have these shapes (see :meth:`SRNConfig.from_shapes`)."""
        return SRNConfig.from_shapes(shapes)

    def forward_once(self, image: Tensor) -> Tensor:
        """One scale in which every layer runs exactly once, for tools that trace which channels depend on which.

        The candidate stands in for the state of the coarser scale, which ties the state's channels to the gate's as the
        real recurrence does. Layers shared by unrolled scales would make such a trace grow without bound.
        """
        features = self.encode(image, image)
        candidate = self.recurrent.propose(features[-1])
        return self.decode(image, features, self.recurrent.blend(candidate, candidate))


def _pyramid(image: Tensor) -> list[Tensor]:
    """The image (N, 3, H, W), then its means at half and at a quarter of the size."""
    pyramid = [image]
    for _ in range(SCALES - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def double_size(x: Tensor) -> Tensor:
    """Bilinear upsampling by two: (N, C, h, w) to (N, C, 2h, 2w)."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
