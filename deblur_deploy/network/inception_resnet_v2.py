"""Inception-ResNet-v2 up to its stride of 32, as a pyramid of features.

Source: Szegedy et al., *Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning*, AAAI 2017.
Names of the layers are those of the published weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.network.conv_norm import ConvForm, Norm, conv_norm

EPS = 1e-3

FEATURES = (32, 64, 192, 1088, 2080)
"""Channels of the five maps, at strides of about 2, 4, 8, 16 and 32: most convolutions here do not pad."""

_STAGES = (
    ("conv2d_1a",),
    ("conv2d_2a", "conv2d_2b", "maxpool_3a"),
    ("conv2d_3b", "conv2d_4a", "maxpool_5a"),
    ("mixed_5b", "repeat", "mixed_6a"),
    ("repeat_1", "mixed_7a"),
)
"""Layers of each of the five maps."""

_UNUSED = ("repeat_2", "block8", "conv2d_7b", "last_linear")
"""Layers of the published weights that come after the pyramid."""


class ConvNormReLU(nn.Module):
    """A convolution, its normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, form: ConvForm, norm: Norm) -> None:
        super().__init__()
        self.conv, self.bn = conv_norm(in_channels, out_channels, form, norm, EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H', W')."""
        return F.relu(self.bn(self.conv(x)))


_POINT = ConvForm()
_THREE, _FIVE = ConvForm((3, 3), 1, (1, 1)), ConvForm((5, 5), 1, (2, 2))
_SHRINK, _HALVE = ConvForm((3, 3)), ConvForm((3, 3), 2)
_ROW_7, _COLUMN_7 = ConvForm((1, 7), 1, (0, 3)), ConvForm((7, 1), 1, (3, 0))

Row = Sequence[tuple[int, ConvForm]]
"""Output channels and forms of convolutions, one after the other."""


def _branch(in_channels: int, row: Row, norm: Norm) -> nn.Module:
    """Convolutions in a row; a single one stands by itself, as in the published names."""
    layers = []
    for channels, form in row:
        layers.append(ConvNormReLU(in_channels, channels, form, norm))
        in_channels = channels
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


class Mixed(nn.Module):
    """Branches side by side, their channels joined.

    Args:
        branches: What they are, in the order of their channels.
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, sum of the branches' channels, H', W')."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


class Block(nn.Module):
    """``relu(x + scale * conv(branches of x))``.

    Args:
        channels: In and out.
        rows: The branches.
        scale: Share of the branches in the sum.
        norm: How channels are normalised.
    """

    def __init__(self, channels: int, rows: Sequence[Row], scale: float, norm: Norm) -> None:
        super().__init__()
        self.scale = scale
        self.branches = len(rows)
        for index, row in enumerate(rows):
            self.add_module(f"branch{index}", _branch(channels, row, norm))
        self.conv2d = nn.Conv2d(sum(row[-1][0] for row in rows), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        branches = [self.get_submodule(f"branch{index}")(x) for index in range(self.branches)]
        return F.relu(x + self.scale * self.conv2d(torch.cat(branches, dim=1)))


_BLOCK_35: Sequence[Row] = (
    [(32, _POINT)],
    [(32, _POINT), (32, _THREE)],
    [(32, _POINT), (48, _THREE), (64, _THREE)],
)
_BLOCK_17: Sequence[Row] = ([(192, _POINT)], [(128, _POINT), (160, _ROW_7), (192, _COLUMN_7)])


class InceptionResNetV2(nn.Module):
    """The trunk; the call gives the five maps.

    Args:
        norm: How channels are normalised.
    """

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.conv2d_1a = ConvNormReLU(3, 32, _HALVE, norm)
        self.conv2d_2a = ConvNormReLU(32, 32, _SHRINK, norm)
        self.conv2d_2b = ConvNormReLU(32, 64, _THREE, norm)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = ConvNormReLU(64, 80, _POINT, norm)
        self.conv2d_4a = ConvNormReLU(80, 192, _SHRINK, norm)
        self.maxpool_5a = nn.MaxPool2d(3, stride=2)
        pooled = nn.Sequential(
            nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), ConvNormReLU(192, 64, _POINT, norm)
        )
        self.mixed_5b = Mixed(
            [
                _branch(192, [(96, _POINT)], norm),
                _branch(192, [(48, _POINT), (64, _FIVE)], norm),
                _branch(192, [(64, _POINT), (96, _THREE), (96, _THREE)], norm),
                pooled,
            ]
        )
        self.repeat = nn.Sequential(*(Block(320, _BLOCK_35, 0.17, norm) for _ in range(10)))
        self.mixed_6a = Mixed(
            [
                _branch(320, [(384, _HALVE)], norm),
                _branch(320, [(256, _POINT), (256, _THREE), (384, _HALVE)], norm),
                nn.MaxPool2d(3, stride=2),
            ]
        )
        self.repeat_1 = nn.Sequential(*(Block(1088, _BLOCK_17, 0.10, norm) for _ in range(20)))
        self.mixed_7a = Mixed(
            [
                _branch(1088, [(256, _POINT), (384, _HALVE)], norm),
                _branch(1088, [(256, _POINT), (288, _HALVE)], norm),
                _branch(1088, [(256, _POINT), (288, _THREE), (320, _HALVE)], norm),
                nn.MaxPool2d(3, stride=2),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, 32k, 32l) in [-1, 1] to maps whose height is 16k-1, 8k-2, 4k-3, 2k-2 and k-2, and so their width."""
        maps = []
        for stage in _STAGES:
            for name in stage:
                x = self.get_submodule(name)(x)
            maps.append(x)
        return maps


def published_name(name: str) -> str:
    """A layer of the pyramid by its name in the whole network, where it is named by its stage (``enc1.0`` is 2a)."""
    stage, _, rest = name.partition(".")
    if stage == "enc0":
        return f"inception.{_STAGES[0][0]}.{rest}"
    if not (stage.startswith("enc") and stage[3:] in {"1", "2", "3", "4"}):
        return name
    index, _, rest = rest.partition(".")
    return f"inception.{_STAGES[int(stage[3:])][int(index)]}.{rest}"


def is_unused(name: str) -> bool:
    """Whether a layer, by its name in the whole network, comes after the pyramid."""
    stage, _, rest = name.partition(".")
    return stage == "inception" and rest.partition(".")[0] in _UNUSED


def convolution_before(norm: str) -> str:
    """The convolution that a normalisation follows."""
    return f"{norm.removesuffix('.bn')}.conv"
