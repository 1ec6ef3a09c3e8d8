"""Convolutions of classification backbones and what becomes of their batch normalisation in a generator.

A generator restores one picture at a time, and DeblurGAN-v2 is published to run with its normalisation in training
mode: every channel is normalised by its own mean and variance over that picture. That is ``image``. With the statistics
that training has gathered instead, a normalisation is a fixed scale and shift, and goes into the convolution before it:
``folded``. The two give different pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["image", "folded"]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class ConvForm:
    """Shape of a convolution's work.

    Args:
        kernel: Height and width.
        stride: Distance of the outputs.
        padding: Zeros above and below, left and right.
        depthwise: Whether every channel has its own filter.
    """

    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    depthwise: bool = False


class PictureNorm(nn.Module):
    """Every channel to mean 0 and variance 1 over the picture (Ulyanov et al., 2016), without weights.

    Unlike ``nn.InstanceNorm2d`` it counts no channels, so it fits any number that pruning leaves.

    Args:
        eps: What is added to the variance.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in and out."""
        return F.instance_norm(x, eps=self.eps)


def drop_channel_counts(net: nn.Module) -> None:
    """Replace instance normalisations without weights by :class:`PictureNorm`, in place; the pictures are the same.

    PyTorch's counts its channels all the same, and warns whenever the number that comes is another.
    """
    _replace_norms(net, lambda layer: None if layer.affine or layer.track_running_stats else PictureNorm(layer.eps))


def write_gathered_norms(net: nn.Module) -> None:
    """Replace instance normalisations that have gathered statistics by batch normalisations, in place.

    In evaluation both are the same fixed scale and shift per channel, and their arrays have the same names. As a batch
    normalisation it is followed, folded and exported like any other.
    """
    _replace_norms(net, lambda layer: _gathered(layer) if layer.track_running_stats else None)


def _gathered(layer: nn.InstanceNorm2d) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum, layer.affine)
    norm.load_state_dict(layer.state_dict(keep_vars=True), assign=True)
    return norm.train(layer.training)


def _replace_norms(net: nn.Module, make: Callable[[nn.InstanceNorm2d], nn.Module | None]) -> None:
    """Replace instance normalisations by what is made of them, in place; layers of several names stay one layer."""
    made: dict[nn.Module, nn.Module | None] = {}
    for name, layer in list(net.named_modules(remove_duplicate=False)):
        if isinstance(layer, nn.InstanceNorm2d):
            if layer not in made:
                made[layer] = make(layer)
            if (norm := made[layer]) is not None:
                net.set_submodule(name, norm)


def conv_norm(
    in_channels: int, out_channels: int, form: ConvForm, norm: Norm, eps: float
) -> tuple[nn.Module, nn.Module]:
    """A convolution and its normalisation; where that is folded, nothing follows and the convolution has a bias.

    Args:
        in_channels: Channels that are read.
        out_channels: Channels that are made.
        form: Kernel, stride, padding.
        norm: ``image`` or ``folded``.
        eps: What is added to the variance.
    """
    convolution = nn.Conv2d(
        in_channels,
        out_channels,
        form.kernel,
        form.stride,
        form.padding,
        groups=in_channels if form.depthwise else 1,
        bias=norm == "folded",
    )
    return convolution, nn.Identity() if norm == "folded" else nn.InstanceNorm2d(out_channels, eps, affine=True)


def drop_statistics(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without gathered means and variances."""
    return {name: tensor for name, tensor in weights.items() if name.rpartition(".")[2] not in _STATISTICS}


def idle_statistics(net: nn.Module, weights: Mapping[str, Tensor]) -> set[str]:
    """Names of gathered statistics of instance normalisations that keep none, and so do not use them.

    PyTorch before 0.4 saved them in any case, and code may be run with each picture's own where it was trained to
    gather them.

    Args:
        net: The network as its code makes it.
        weights: Its state_dict as it was saved.
    """
    layers = {
        name: layer for name, layer in net.named_modules(remove_duplicate=False) if isinstance(layer, nn.InstanceNorm2d)
    }
    parts = ((name, *name.rpartition(".")[::2]) for name in weights)
    return {
        name
        for name, layer, leaf in parts
        if leaf in _STATISTICS and layer in layers and not layers[layer].track_running_stats
    }


def fold_norms(weights: Mapping[str, Tensor], convolutions: Mapping[str, str], eps: float) -> dict[str, Tensor]:
    """Put batch normalisations with their gathered statistics into the convolutions before them.

    ``y = g (w x - mean) / sqrt(var + eps) + b`` is ``(s w) x + (b - s mean)`` with ``s = g / sqrt(var + eps)`` (Ioffe
    and Szegedy, ICML 2015, section 3.1).

    Args:
        weights: A state_dict.
        convolutions: Names of normalisations to those of the convolutions before them, which have no bias.
        eps: What is added to the variance.

    Returns:
        The state_dict without normalisations.

    Raises:
        KeyError: Something of a normalisation is missing; the exception names it.
    """
    folded = dict(weights)
    for norm, convolution in convolutions.items():
        mean, variance = folded.pop(f"{norm}.running_mean"), folded.pop(f"{norm}.running_var")
        scale = folded.pop(f"{norm}.weight") * torch.rsqrt(variance + eps)
        folded[f"{convolution}.weight"] = folded[f"{convolution}.weight"] * scale[:, None, None, None]
        folded[f"{convolution}.bias"] = folded.pop(f"{norm}.bias") - scale * mean
    return folded
