"""The generators of DeblurGAN-v2: a feature pyramid on MobileNetV2 or Inception-ResNet-v2.

Source: Kupyn et al., *DeblurGAN-v2: Deblurring (Orders-of-Magnitude) Faster and Better*, ICCV 2019. Five maps of a
classification backbone go through 1x1 convolutions and come back up (Lin et al., CVPR 2017); four of them are brought
to one size, joined, and smoothed; the network adds the result to the blurred picture. It works on pictures in [-1, 1];
here they come and go in [0, 1] as everywhere.

The published code runs with its normalisation in training mode, so by the statistics of the picture at hand; ``norm``
of the config chooses between that and gathered statistics (see ``conv_norm.py``). Normalisation outside the backbone
has no weights and is always by the picture's own statistics. At the border the published code pads with mid-gray, and
always by at least one pixel; here the border is repeated, and only where it must be.

Names of the layers are those of the published checkpoints, whose layers behind the pyramid are left out.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.network import inception_resnet_v2, mobilenet_v2
from deblur_deploy.network.conv_norm import Norm, PictureNorm, drop_statistics, fold_norms
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.widths import Shapes, apply_widths, changed_widths

_NORM_EPS = 1e-5


@dataclass(frozen=True)
class DeblurGANv2Config:
    """How the backbone is normalised, and widths that differ from the published ones.

    Args:
        norm: ``image`` normalises by each picture's own statistics, as the published code does; ``folded`` has the
            gathered statistics in its convolutions.
        widths: Shapes of arrays that pruning has changed.
    """

    norm: Norm = "image"
    widths: dict[str, tuple[int, ...]] = field(default_factory=dict)


def smoothing(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 3x3 convolution, normalised, with ReLU."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), PictureNorm(_NORM_EPS), nn.ReLU())


class Head(nn.Module):
    """Two 3x3 convolutions with ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.block0 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.block1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H, W)."""
        return F.relu(self.block1(F.relu(self.block0(x))))


class Pyramid(nn.Module):
    """The way down through the backbone and up again.

    Args:
        features: Channels of the backbone's five maps, fine to coarse.
        channels: Channels of the pyramid.
        borders: Reflected rows and columns that each map lacks: left, right, top, bottom.
    """

    def __init__(self, features: Sequence[int], channels: int, borders: Sequence[tuple[int, int, int, int]]) -> None:
        super().__init__()
        self.borders = borders
        for level, width in enumerate(features):
            lateral = nn.Conv2d(width, channels if level else channels // 2, 1, bias=False)
            self.add_module(f"lateral{level}", lateral)
        for index in (1, 2, 3):
            self.add_module(f"td{index}", smoothing(channels, channels))

    @abstractmethod
    def encode(self, x: Tensor) -> list[Tensor]:
        """The backbone's five maps, fine to coarse."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [-1, 1] to five maps, of H/2, H/4, H/8, H/16 and H/32 rows."""
        laterals = [self._lateral(level, found) for level, found in enumerate(self.encode(x))]
        maps = [laterals[4]]
        for level in (3, 2, 1):
            top_down = self.get_submodule(f"td{4 - level}")
            maps.insert(0, top_down(laterals[level] + _enlarged(maps[0], 2)))
        return [laterals[0], *maps]

    def _lateral(self, level: int, found: Tensor) -> Tensor:
        x = self.get_submodule(f"lateral{level}")(found)
        border = self.borders[level]
        return F.pad(x, border, mode="reflect") if any(border) else x


class MobileNetPyramid(Pyramid):
    """The pyramid on MobileNetV2, whose maps have their full size."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__(mobilenet_v2.FEATURES, channels, [(0, 0, 0, 0)] * 5)
        self.features = mobilenet_v2.MobileNetV2(norm)

    def encode(self, x: Tensor) -> list[Tensor]:
        """The backbone's five maps, fine to coarse."""
        return self.features(x)  # type: ignore[no-any-return]


class InceptionPyramid(Pyramid):
    """The pyramid on Inception-ResNet-v2, whose maps lack one row, two, three, two, two."""

    def __init__(self, channels: int, norm: Norm) -> None:
        borders = [(0, 1, 0, 1), (1, 1, 1, 1), (1, 2, 1, 2), (1, 1, 1, 1), (1, 1, 1, 1)]
        super().__init__(inception_resnet_v2.FEATURES, channels, borders)
        self.inception = inception_resnet_v2.InceptionResNetV2(norm)

    def encode(self, x: Tensor) -> list[Tensor]:
        """The backbone's five maps, fine to coarse."""
        return self.inception(x)  # type: ignore[no-any-return]


class DeblurGANv2(Generator):
    """What the two generators share: heads, smoothing, and the residual.

    Args:
        config: Normalisation and widths.
    """

    multiple_of = 32
    channels: ClassVar[int]
    pyramid: ClassVar[type[MobileNetPyramid] | type[InceptionPyramid]]
    backbone: ClassVar[ModuleType]
    norms: ClassVar[re.Pattern[str]]

    def __init__(self, config: DeblurGANv2Config | None = None) -> None:
        super().__init__()
        self.config: DeblurGANv2Config = config or DeblurGANv2Config()
        channels = self.channels
        self.fpn = self.pyramid(2 * channels, self.config.norm)
        for level in (1, 2, 3, 4):
            self.add_module(f"head{level}", Head(2 * channels, channels))
        self.smooth = smoothing(4 * channels, channels)
        self.smooth2 = smoothing(channels, channels // 2)
        self.final = nn.Conv2d(channels // 2, 3, 3, padding=1)
        apply_widths(self, self.config.widths)

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        """One estimate at full size, clamped to [0, 1]."""
        signed = 2 * blurred - 1
        finest, *maps = self.fpn(signed)
        heads = [
            _enlarged(self.get_submodule(f"head{level}")(maps[level - 1]), 2 ** (level - 1)) for level in (4, 3, 2, 1)
        ]
        x = _enlarged(self.smooth(torch.cat(heads, dim=1)), 2)
        x = _enlarged(self.smooth2(x + finest), 2)
        restored = torch.clamp(torch.tanh(self.final(x)) + signed, -1, 1)
        return [(restored + 1) / 2]

    @classmethod
    def read_config(cls, shapes: Shapes) -> DeblurGANv2Config:
        """Normalisation and widths of the network whose arrays have these shapes.

        Raises:
            KeyError: An array that the network has is missing; the exception names it.
        """
        norm: Norm = "image" if any(cls.norms.fullmatch(name) for name in shapes) else "folded"
        with torch.device("meta"):
            published = cls(DeblurGANv2Config(norm))
        return DeblurGANv2Config(norm, changed_widths(published, shapes))

    @classmethod
    def from_published(cls, weights: Mapping[str, Tensor], norm: Norm | None = None) -> dict[str, Tensor]:
        """The state_dict that a published checkpoint stands for.

        The encoder is in these files twice, by its own names and by those of the pyramid's stages.

        Args:
            weights: The checkpoint's.
            norm: How its backbone is to be normalised; by each picture's own statistics unless told otherwise.

        Raises:
            KeyError: Something that folding needs is missing; the exception names it.
        """
        named: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            inner = name.removeprefix("fpn.")
            if inner != name:
                inner = cls.backbone.published_name(inner)
                if cls.backbone.is_unused(inner):
                    continue
                named[f"fpn.{inner}"] = tensor
            else:
                named[name] = tensor
        if norm == "folded":
            norms = {found[1] for name in named if (found := cls.norms.fullmatch(name))}
            convolutions = {found: cls.backbone.convolution_before(found) for found in norms}
            named = fold_norms(named, convolutions, cls.backbone.EPS)
        return drop_statistics(named)


class DeblurGANv2MobileNet(DeblurGANv2):
    """On MobileNetV2: small and fast."""

    arch = "deblurgan-v2-mobilenet"
    smallest_side = 64
    channels = 64
    pyramid = MobileNetPyramid
    backbone: ClassVar[ModuleType] = mobilenet_v2
    norms = re.compile(r"(fpn\.features\.\d+\.(?:conv\.)?[147])\.\w+")


class DeblurGANv2Inception(DeblurGANv2):
    """On Inception-ResNet-v2: the best picture of the two."""

    arch = "deblurgan-v2-inception"
    smallest_side = 128
    channels = 128
    pyramid = InceptionPyramid
    backbone: ClassVar[ModuleType] = inception_resnet_v2
    norms = re.compile(r"(fpn\.inception\..+\.bn)\.\w+")


def _enlarged(x: Tensor, times: int) -> Tensor:
    """Every row and column so many times: (N, C, h, w) to (N, C, times h, times w)."""
    return F.interpolate(x, scale_factor=float(times), mode="nearest") if times > 1 else x
