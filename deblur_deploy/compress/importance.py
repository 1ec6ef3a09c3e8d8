"""How much a channel matters: the magnitude of the weights that it touches, or the loss that they stand for.

A score for every single weight, averaged over what a channel touches in every layer of its group. Each layer is
scaled to a mean of one before that, which makes layers comparable without any batch normalisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from deblur_deploy.compress.groups import ChannelGroup
from deblur_deploy.compress.operations import outputs_of
from deblur_deploy.config import FitConfig
from deblur_deploy.core.errors import ConfigError, DeblurDeployError
from deblur_deploy.training.losses import Objective

Batches = Iterable[tuple[Tensor, Tensor]]
Scores = Mapping[str, Tensor]
"""By array, a float64 score of at least 0 for each of its weights."""

_SMALLEST = 1e-290
"""Stands for the mean of a layer whose scores are all zero."""


def magnitude_scores(net: nn.Module, power: Literal[1, 2]) -> Scores:
    """Every weight's magnitude, or its square.

    Source: Li et al., *Pruning Filters for Efficient ConvNets*, ICLR 2017.
    """
    return {name: weight.detach().double().abs() ** power for name, weight in _weights(net)}


def taylor_scores(net: nn.Module, batches: Batches, fit: FitConfig) -> Scores:
    """First-order estimate of what zeroing a weight does to the training loss, squared: mean of ``(w * dL/dw)**2``.

    Args:
        net: A float network; its gradients are used and dropped. ``forward_scales`` is called where it has that.
        batches: Blurred and sharp crops, each (N, 3, H, W) float32 in [0, 1].
        fit: Weights of the loss.

    Raises:
        ConfigError: There are no batches.
        DeblurDeployError: A layer's output, the loss or a gradient is NaN or infinite.

    Source: Molchanov et al., *Importance Estimation for Neural Network Pruning*, CVPR 2019, equation 8.
    """
    objective = Objective(fit)
    scores = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in _weights(net)}
    count = 0
    with _gradients_of(net), _finite_outputs(net):
        for blurred, sharp in batches:
            net.zero_grad(set_to_none=True)
            estimates = outputs_of(getattr(net, "forward_scales", net)(blurred))
            loss = torch.stack(list(objective.terms(estimates, blurred, sharp).values())).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            for name, weight in _weights(net):
                if weight.grad is not None:
                    scores[name] += (weight.detach().double() * weight.grad.double()).square()
            count += 1
        net.zero_grad(set_to_none=True)
    if not count:
        raise ConfigError("Taylor importance has no crops to look at", hint="give a folder of photographs to --data")
    for name, total in scores.items():
        _check_finite(total, f"the gradient of {name}")
    return {name: total / count for name, total in scores.items()}


def channel_strength(group: ChannelGroup, scores: Scores) -> Tensor:
    """Strength of every channel of a group: (channels,) float64, mean 1 unless all scores are zero.

    Args:
        group: One of a network's groups.
        scores: Of the weights of its layers.
    """
    total, layers = torch.zeros(group.channels, dtype=torch.float64), 0
    for member in group.members:
        if member.array not in scores:
            continue
        per_place = scores[member.array].cpu().movedim(member.axis, 0).flatten(1).mean(1)
        per_channel = per_place[torch.tensor(member.places)].mean(1)
        total += per_channel / per_channel.mean().clamp_min(_SMALLEST)
        layers += 1
    return total / max(1, layers)


def _weights(net: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that make channels out of channels, or are spread over a kernel; not scales and shifts."""
    return ((name, tensor) for name, tensor in net.named_parameters() if sum(size > 1 for size in tensor.shape) > 1)


def _weighted(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers that hold such parameters."""
    owners = dict.fromkeys(name.rpartition(".")[0] for name, _ in _weights(net))
    return ((name, net.get_submodule(name)) for name in owners)


@contextmanager
def _gradients_of(net: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients for all weights, and everything restored afterwards."""
    training, wanted = net.training, [parameter.requires_grad for parameter in net.parameters()]
    net.eval().requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        net.train(training)
        for parameter, requires_grad in zip(net.parameters(), wanted, strict=True):
            parameter.requires_grad_(requires_grad)


@contextmanager
def _finite_outputs(net: nn.Module) -> Iterator[None]:
    """Watch every weighted layer; the error names the first whose output is not finite."""
    with ExitStack() as stack:
        for name, layer in _weighted(net):

            def check(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                for tensor in tree_iter(output):
                    if isinstance(tensor, Tensor):
                        _check_finite(tensor, f"the output of {name}")

            stack.callback(layer.register_forward_hook(check).remove)
        yield


def _check_finite(tensor: Tensor, what: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise DeblurDeployError(
            f"{what} is NaN or infinite on a calibration crop",
            hint="the weights or the photographs are damaged; `deblur-deploy eval` shows whether the network works",
        )
