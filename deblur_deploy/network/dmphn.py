"""DMPHN: a pyramid of patches, each level restoring what the finer one has left, without any change of scale.

Source: Zhang et al., *Deep Stacked Hierarchical Multi-Patch Network for Image Deblurring*, CVPR 2019, figure 2. Each
level has an encoder and a decoder of its own. Level 1 sees the whole picture, level 2 its upper and lower halves, level
3 their left and right halves, and so on. From the finest level up, the features of the patches are joined, decoded to
a residual for the patch that they make up, and added to that patch and its features in the level above::

    quarters ── encoder 3 ── join by width ───┬── decoder 3 ── residuals of the halves
    halves + residuals ── encoder 2 ──────── + ── join by height ──┬── decoder 2 ── residual of the whole
    whole + residual ── encoder 1 ─────────────────────────────── + ── decoder 1 ── restored

Names of the layers are those of the published files, each behind the name of its file: ``encoder_lv1.layer1.weight``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor, nn

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.widths import Shapes, apply_widths, changed_widths

CHANNELS = (32, 64, 128)
"""Widths of the encoder at full, half and quarter size."""

_MIDDLE = 0.5
"""Gray, which the published code takes from a picture in [0, 1] before the network and adds after it."""

_MOST_LEVELS = 4


@dataclass(frozen=True)
class DMPHNConfig:
    """Levels of a DMPHN, and widths that differ from the published ones.

    Args:
        levels: 2 for the paper's DMPHN(1-2), 3 for (1-2-4), 4 for (1-2-4-8).
        widths: Shapes of arrays that pruning has changed.
    """

    levels: int = 3
    widths: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= _MOST_LEVELS:
            raise ConfigError(f"a DMPHN has 1 to {_MOST_LEVELS} levels, not {self.levels}", hint="give 3 for (1-2-4)")


class Residual(nn.Sequential):
    """``x + conv(relu(conv(x)))``."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        return x + super().forward(x)  # type: ignore[no-any-return,no-untyped-call]


class Encoder(nn.Module):
    """A patch to its features at a quarter of its size. There is no activation but those of the residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        one, two, three = CHANNELS
        self.layer1 = nn.Conv2d(3, one, 3, padding=1)
        self.layer2, self.layer3 = Residual(one), Residual(one)
        self.layer5 = nn.Conv2d(one, two, 3, stride=2, padding=1)
        self.layer6, self.layer7 = Residual(two), Residual(two)
        self.layer9 = nn.Conv2d(two, three, 3, stride=2, padding=1)
        self.layer10, self.layer11 = Residual(three), Residual(three)

    def forward(self, patch: Tensor) -> Tensor:
        """(N, 3, h, w) to (N, 128, h/4, w/4)."""
        x = self.layer3(self.layer2(self.layer1(patch)))
        x = self.layer7(self.layer6(self.layer5(x)))
        return self.layer11(self.layer10(self.layer9(x)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Features to what is added to the patch: the encoder backwards."""

    def __init__(self) -> None:
        super().__init__()
        one, two, three = CHANNELS
        self.layer13, self.layer14 = Residual(three), Residual(three)
        self.layer16 = nn.ConvTranspose2d(three, two, 4, stride=2, padding=1)
        self.layer17, self.layer18 = Residual(two), Residual(two)
        self.layer20 = nn.ConvTranspose2d(two, one, 4, stride=2, padding=1)
        self.layer21, self.layer22 = Residual(one), Residual(one)
        self.layer24 = nn.Conv2d(one, 3, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, 128, h/4, w/4) to (N, 3, h, w)."""
        x = self.layer16(self.layer14(self.layer13(features)))
        x = self.layer20(self.layer18(self.layer17(x)))
        return self.layer24(self.layer22(self.layer21(x)))  # type: ignore[no-any-return]


class DMPHN(Generator):
    """The network of the paper.

    Args:
        config: Levels and widths.
    """

    arch = "dmphn"

    def __init__(self, config: DMPHNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DMPHNConfig()
        self.multiple_of = 4 * 2 ** (config.levels // 2)  # the most that one axis is halved by patches, and by layers
        for level in range(1, config.levels + 1):
            self.add_module(f"encoder_lv{level}", Encoder())
            self.add_module(f"decoder_lv{level}", Decoder())
        apply_widths(self, config.widths)

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        """The restored picture alone, for H and W that are multiples of :attr:`multiple_of`."""
        features = self._features(blurred - _MIDDLE, 1)
        return [self.get_submodule("decoder_lv1")(features) + _MIDDLE]

    def _features(self, patch: Tensor, level: int) -> Tensor:
        """The output of a level and the finer ones for a patch.

        Args:
            patch: (N, 3, h, w) of the picture, with the residual of no level yet.
            level: From 1 for the whole picture.

        Returns:
            (N, 128, h/4, w/4).
        """
        encode = self.get_submodule(f"encoder_lv{level}")
        if level == self.config.levels:
            return encode(patch)  # type: ignore[no-any-return]
        axis = 2 if level % 2 else 3
        middle = patch.shape[axis] // 2
        halves = (patch.narrow(axis, 0, middle), patch.narrow(axis, middle, middle))
        joined = torch.cat([self._features(half, level + 1) for half in halves], dim=axis)
        residual = self.get_submodule(f"decoder_lv{level + 1}")(joined)
        return encode(patch + residual) + joined  # type: ignore[no-any-return]

    @classmethod
    def read_config(cls, shapes: Shapes) -> DMPHNConfig:
        """Levels and widths of the network whose arrays have these shapes.

        Raises:
            KeyError: An array that every DMPHN has is missing; the exception names it.
            ConfigError: There are more levels than the paper has.
        """
        levels = next(n for n in count() if f"encoder_lv{n + 1}.layer1.weight" not in shapes)
        with torch.device("meta"):
            published = cls(DMPHNConfig(levels or DMPHNConfig.levels))
        return DMPHNConfig(published.config.levels, changed_widths(published, shapes))
