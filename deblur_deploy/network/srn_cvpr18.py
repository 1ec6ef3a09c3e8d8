"""SRN-DeblurNet as published: three variants of one scale-recurrent encoder-decoder.

Source: Tao et al., *Scale-recurrent Network for Deep Image Deblurring*, CVPR 2018. One pass takes the blurred picture
of its scale and the estimate of the coarser scale; the coarsest takes the blurred picture twice. All convolutions are
5x5 with ReLU but the last, transposed ones are 4x4; there is no normalisation, and the network predicts the picture
itself.

- ``color``: RGB in, RGB out.
- ``gray``: one channel; R, G and B go through it as three pictures.
- ``lstm``: ``gray`` with a convolutional LSTM (Shi et al., NeurIPS 2015) between encoder and decoder, whose state
  travels from scale to scale.

The published weights are TensorFlow's, and what TensorFlow 1 did is kept: a 5x5 convolution of stride 2 pads one pixel
before and two after, and resizing samples at ``scale * index``, without half a pixel's shift.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.network.generator import Generator
from deblur_deploy.network.widths import Shapes, apply_widths, changed_widths

CHANNELS = (32, 64, 128)
"""Widths of the three levels, fine to coarse."""

BLOCKS = 3
"""Residual blocks of each stage."""

STEPS = (4, 2, 1)
"""Distance of the pixels of each scale in the full picture, coarse to fine."""

Variant = Literal["color", "gray", "lstm"]

_GATES = ("input", "candidate", "forget", "output")
"""The order in which TensorFlow's cell keeps its four convolutions, stacked into one."""

_FORGET_BIAS = 1.0
"""What TensorFlow's cell adds to the forget gate; here it is part of the bias."""


@dataclass(frozen=True)
class SRNCVPR18Config:
    """Variant of the network, and widths that differ from the published ones.

    Args:
        variant: ``color``, ``gray`` or ``lstm``.
        widths: Shapes of arrays that pruning has changed.
    """

    variant: Variant = "color"
    widths: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def image_channels(self) -> int:
        """Channels of one picture that goes through the network."""
        return 3 if self.variant == "color" else 1


class PlainResBlock(nn.Module):
    """``x + conv(relu(conv(x)))``, both 5x5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 5, padding=2)
        self.conv2 = nn.Conv2d(channels, channels, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        return x + self.conv2(F.relu(self.conv1(x)))  # type: ignore[no-any-return]


class EncoderLevel(nn.Module):
    """A convolution into the level's width, then residual blocks."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        # TensorFlow's SAME padding of an even size at stride 2: three pixels, of which two come after.
        self.pad = nn.ZeroPad2d((1, 2, 1, 2) if stride == 2 else 2)
        self.enter = nn.Conv2d(in_channels, channels, 5, stride)
        self.blocks = nn.Sequential(*(PlainResBlock(channels) for _ in range(BLOCKS)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H/stride, W/stride)."""
        return self.blocks(F.relu(self.enter(self.pad(x))))  # type: ignore[no-any-return]


class DecoderLevel(nn.Module):
    """A transposed convolution that doubles the size, the skip added, then residual blocks."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, channels, 4, stride=2, padding=1)
        self.blocks = nn.Sequential(*(PlainResBlock(channels) for _ in range(BLOCKS)))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, in_channels, h, w) and (N, channels, 2h, 2w) to the latter shape."""
        return self.blocks(F.relu(self.up(x)) + skip)  # type: ignore[no-any-return]


class ConvLSTM(nn.Module):
    """``c = sigmoid(f) c + sigmoid(i) tanh(j)``, ``h = tanh(c) sigmoid(o)``; i, j, f, o are convolutions of [x, h].

    The published cell computes the four in one convolution. Here they are four, so that each keeps its channels apart.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        for gate in _GATES:
            self.add_module(gate, nn.Conv2d(2 * channels, channels, 3, padding=1))
        nn.init.constant_(cast(Tensor, self.get_submodule("forget").bias), _FORGET_BIAS)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """New cell and hidden state from ``x`` and the old ones, all (N, channels, h, w)."""
        cell, hidden = state
        joined = torch.cat([x, hidden], dim=1)
        i, j, f, o = (self.get_submodule(gate)(joined) for gate in _GATES)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(j)
        return cell, torch.tanh(cell) * torch.sigmoid(o)


class SRNCVPR18(Generator):
    """The published generator.

    Args:
        config: Variant and widths.
    """

    arch = "srn-cvpr18"
    multiple_of = 16

    def __init__(self, config: SRNCVPR18Config | None = None) -> None:
        super().__init__()
        self.config: SRNCVPR18Config = config or SRNCVPR18Config()
        one, two, three = CHANNELS
        image_channels = self.config.image_channels
        self.encoder = nn.ModuleList(
            [
                EncoderLevel(2 * image_channels, one, stride=1),
                EncoderLevel(one, two, stride=2),
                EncoderLevel(two, three, stride=2),
            ]
        )
        self.lstm = ConvLSTM(three) if self.config.variant == "lstm" else None
        self.bottom = nn.Sequential(*(PlainResBlock(three) for _ in range(BLOCKS)))
        self.decoder = nn.ModuleList([DecoderLevel(three, two), DecoderLevel(two, one)])
        self.head = nn.Conv2d(one, image_channels, 5, padding=2)
        apply_widths(self, self.config.widths)

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        """Estimates at 1/4, 1/2 and full size, for H and W that are multiples of 16."""
        batch, height, width = int(blurred.shape[0]), int(blurred.shape[2]), int(blurred.shape[3])
        channels = self.config.image_channels
        planes = blurred.reshape(3 * batch // channels, channels, height, width)
        estimates: list[Tensor] = []
        state = None
        for step in STEPS:
            image = planes[..., ::step, ::step]
            # As published, a finer scale does not train the coarser one through its estimate.
            previous = double_size(estimates[-1].detach()) if estimates else image
            if state is not None:
                state = double_size(state[0]), double_size(state[1])
            estimate, state = self.forward_one_scale(image, previous, state)
            estimates.append(estimate)
        return [e.reshape(batch, 3, height // step, width // step) for e, step in zip(estimates, STEPS, strict=True)]

    def forward_one_scale(
        self, image: Tensor, previous: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """One pass of the shared encoder-decoder.

        Args:
            image: Blurred picture of this scale, (N, C, h, w); C is 3 for ``color``, else 1.
            previous: Estimate of the coarser scale brought to this size, same shape.
            state: The LSTM's cell and hidden state, (N, 128, h/4, w/4) each, or None on the coarsest scale.

        Returns:
            The estimate (N, C, h, w) and the new state, None without an LSTM.
        """
        features = self._encode(image, previous)
        if self.lstm is not None:
            empty = torch.zeros_like(features[-1])
            state = self.lstm(features[-1], state or (empty, empty))
            features[-1] = state[1]
        return self._decode(features), state

    def forward_once(self, image: Tensor) -> Tensor:
        """One scale in which every layer runs exactly once; of a gray network, one plane.

        The coarsest features stand in for the LSTM's state, which ties the state's channels to theirs.
        """
        plane = image[:, : self.config.image_channels]
        features = self._encode(plane, plane)
        if self.lstm is not None:
            features[-1] = self.lstm(features[-1], (features[-1], features[-1]))[1]
        return self._decode(features)

    def _encode(self, image: Tensor, previous: Tensor) -> list[Tensor]:
        """Features fine to coarse: (N, 32, h, w), (N, 64, h/2, w/2), (N, 128, h/4, w/4)."""
        x = torch.cat([image, previous], dim=1)
        features = []
        for level in self.encoder:
            x = level(x)
            features.append(x)
        return features

    def _decode(self, features: list[Tensor]) -> Tensor:
        x = self.bottom(features[2])
        x = self.decoder[0](x, features[1])
        return self.head(self.decoder[1](x, features[0]))  # type: ignore[no-any-return]

    @classmethod
    def read_config(cls, shapes: Shapes) -> SRNCVPR18Config:
        """Variant and widths of the network whose arrays have these shapes.

        Raises:
            KeyError: An array that every variant has is missing; the exception names it.
        """
        variant: Variant = "color"
        if shapes["head.weight"][0] == 1:
            variant = "lstm" if any(name.startswith("lstm.") for name in shapes) else "gray"
        with torch.device("meta"):
            published = cls(SRNCVPR18Config(variant))
        return SRNCVPR18Config(variant, changed_widths(published, shapes))


def double_size(x: Tensor) -> Tensor:
    """Bilinear upsampling by two as TensorFlow 1 does it: (N, C, h, w) to (N, C, 2h, 2w).

    Even rows and columns are those of ``x``, odd ones the mean of their neighbours, and the last repeats its only one.
    With the border repeated once, that is sampling with aligned corners.
    """
    height, width = (int(side) for side in x.shape[-2:])
    x = torch.cat([x, x[..., -1:]], dim=-1)
    x = torch.cat([x, x[..., -1:, :]], dim=-2)
    size = (2 * height + 1, 2 * width + 1)
    return F.interpolate(x, size, mode="bilinear", align_corners=True)[..., :-1, :-1]


_VARIABLE = re.compile(r"g_net/(?P<layer>.+)/(?P<kind>weights|biases)")
"""Names of the network's own variables; the optimizer's slots have another end."""


def from_tensorflow(variables: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """The state_dict that TensorFlow's variables stand for.

    Args:
        variables: Names as in the published checkpoint to arrays; convolutions are (height, width, in, out), transposed
            ones (height, width, out, in). Slots of the optimizer and step counts are passed over, and so is what has
            no place in the network.
    """
    state: dict[str, Tensor] = {}
    for name, array in variables.items():
        found = _VARIABLE.fullmatch(name)
        if found is None:
            continue
        layer, kind = found["layer"], "weight" if found["kind"] == "weights" else "bias"
        values = np.asarray(array, np.float32)
        tensor = torch.from_numpy(np.array(values.transpose(3, 2, 0, 1) if values.ndim == 4 else values, order="C"))
        if layer == "convLSTM/LSTM_conv":
            state |= {f"lstm.{gate}.{kind}": part for gate, part in zip(_GATES, tensor.chunk(4), strict=True)}
        else:
            state[f"{_layer_name(layer)}.{kind}"] = tensor
    if "lstm.forget.bias" in state:
        state["lstm.forget.bias"] = state["lstm.forget.bias"] + _FORGET_BIAS
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _layer_name(layer: str) -> str:
    """``enc2_3/conv1`` as ``encoder.1.blocks.1.conv1``; a name of no known form stays."""
    if layer == "dec1_0":
        return "head"
    found = re.fullmatch(r"(?P<side>enc|dec)(?P<level>[123])_(?P<place>[1234])(?:/(?P<conv>conv[12]))?", layer)
    if found is None:
        return layer
    level, place, conv = int(found["level"]), int(found["place"]), found["conv"]
    if found["side"] == "enc":
        stage = f"encoder.{level - 1}"
        return f"{stage}.blocks.{place - 2}.{conv}" if conv else f"{stage}.enter"
    if level == 3:
        return f"bottom.{3 - place}.{conv}"
    return f"decoder.{2 - level}.blocks.{3 - place}.{conv}" if conv else f"decoder.{2 - level}.up"
