"""MobileNetV2 up to its stride of 32, as a pyramid of features.

Source: Sandler et al., *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, CVPR 2018, table 2. Numbers of the
layers are those of the published weights.
"""

from __future__ import annotations

from torch import Tensor, nn

from deblur_deploy.network.conv_norm import ConvForm, Norm, conv_norm

EPS = 1e-5

FEATURES = (16, 24, 32, 64, 160)
"""Channels of the five maps, at strides 2, 4, 8, 16 and 32."""

_STEM = 32

_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 2, 2))
"""Expansion, channels, repetitions and stride. The table's last 160, its 320 and what classifies are not used."""

_STAGE_ENDS = (1, 3, 6, 10, 15)
"""The last layer of each of the five maps."""


class InvertedResidual(nn.Module):
    """A wide depthwise convolution between two pointwise ones, the last without activation."""

    def __init__(self, channels: tuple[int, int], stride: int, expansion: int, norm: Norm) -> None:
        super().__init__()
        in_channels, out_channels = channels
        hidden = in_channels * expansion
        self.adds = stride == 1 and in_channels == out_channels
        depthwise = ConvForm((3, 3), stride, (1, 1), depthwise=True)
        widen = [*conv_norm(in_channels, hidden, ConvForm(), norm, EPS), nn.ReLU6()] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen,
            *conv_norm(hidden, hidden, depthwise, norm, EPS),
            nn.ReLU6(),
            *conv_norm(hidden, out_channels, ConvForm(), norm, EPS),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H/stride, W/stride)."""
        inner: Tensor = self.conv(x)
        return x + inner if self.adds else inner


class MobileNetV2(nn.Sequential):
    """The layers in a row; the call gives the five maps.

    Args:
        norm: How channels are normalised.
    """

    def __init__(self, norm: Norm) -> None:
        super().__init__(nn.Sequential(*conv_norm(3, _STEM, ConvForm((3, 3), 2, (1, 1)), norm, EPS), nn.ReLU6()))
        width = _STEM
        for expansion, channels, repetitions, stride in _BLOCKS:
            for index in range(repetitions):
                self.append(InvertedResidual((width, channels), 1 if index else stride, expansion, norm))
                width = channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [-1, 1] to five maps at strides 2, 4, 8, 16 and 32."""
        maps = []
        for index, layer in enumerate(self):
            x = layer(x)
            if index in _STAGE_ENDS:
                maps.append(x)
        return maps


def published_name(name: str) -> str:
    """A layer of the pyramid by its number in the whole network, where it is named by its stage (``enc1.0`` is 2)."""
    stage, _, rest = name.partition(".")
    starts = dict(zip((f"enc{k}" for k in range(5)), (0, *(end + 1 for end in _STAGE_ENDS)), strict=False))
    if stage not in starts:
        return name
    index, _, rest = rest.partition(".")
    return f"features.{starts[stage] + int(index)}.{rest}"


def is_unused(name: str) -> bool:
    """Whether a layer, named by its number, comes after the pyramid."""
    stage, _, rest = name.partition(".")
    return stage == "features" and int(rest.partition(".")[0]) > _STAGE_ENDS[-1]


def convolution_before(norm: str) -> str:
    """The convolution that a normalisation follows: the layer before it in its row."""
    row, _, index = norm.rpartition(".")
    return f"{row}.{int(index) - 1}"
