"""Feature distillation: where a student and its teacher look, compared without any weights of its own.

A pruned student has fewer channels than its teacher, so not the features are compared but their attention maps: the
sum of squares over channels, scaled to unit length. Which layers are compared a network says itself, with a
``feature_layers`` attribute of module names.

Source: Zagoruyko and Komodakis, *Paying More Attention to Attention*, ICLR 2017, equations 1 and 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.core.errors import ConfigError


class FeatureTap:
    """Keeps what some layers of a network put out, in the order in which they ran.

    Args:
        net: The network.
        layers: Names of the layers; each puts out one tensor (N, C, H, W).
    """

    def __init__(self, net: nn.Module, layers: tuple[str, ...]) -> None:
        self._seen: list[Tensor] = []
        self._handles = [net.get_submodule(name).register_forward_hook(self._keep) for name in layers]

    def _keep(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self._seen.append(output)

    def take(self) -> list[Tensor]:
        """What was kept since the last call."""
        seen, self._seen = self._seen, []
        return seen

    def remove(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()


class FeatureMatch:
    """The distance between what a student and its teacher look at; a context manager, which watches both meanwhile.

    Args:
        student: The network that trains.
        teacher: The network that it is to follow.

    Raises:
        ConfigError: One of them does not say where its features are, or they say different things.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        names = [tuple(getattr(net, "feature_layers", ())) for net in (student, teacher)]
        if not names[0] or names[0] != names[1]:
            raise ConfigError(
                f"student and teacher have the feature layers {names[0]} and {names[1]}",
                hint="both need the same `feature_layers`; feature_weight = 0 does without",
            )
        self._student, self._teacher = FeatureTap(student, names[0]), FeatureTap(teacher, names[1])

    def __enter__(self) -> FeatureMatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._student.remove()
        self._teacher.remove()

    def loss(self) -> Tensor:
        """Distance for the pass of each network since the last call."""
        ours, theirs = self._student.take(), self._teacher.take()
        return torch.stack([attention_distance(one, other) for one, other in zip(ours, theirs, strict=True)]).mean()


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two attention maps, mean over the batch: 0 where they agree, at most 2.

    Args:
        student: (N, C, H, W).
        teacher: (N, any number of channels, H, W); no gradient goes into it.
    """
    return (_attention(student) - _attention(teacher.detach())).square().sum(1).mean()


def _attention(features: Tensor) -> Tensor:
    """The map as one vector of unit length per picture: (N, C, H, W) to (N, H * W)."""
    return F.normalize(features.float().square().sum(1).flatten(1), dim=1)
