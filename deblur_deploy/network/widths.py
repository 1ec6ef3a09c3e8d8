"""Widths that differ from the published network's, as plain data, for networks with constants that were pruned.

A pruned network is the published one with smaller arrays. Which arrays, and their shapes, are all that is stored; the
network is rebuilt by making the published one and giving these arrays their shapes. So a network needs no field for
every width, and neither does one that a user brings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.network.conv_norm import drop_channel_counts
from deblur_deploy.network.deform_conv import DeformConv2d

Shapes = Mapping[str, Sequence[int]]
"""Names of parameters and buffers to their shapes."""

_CHANNEL_AXES = 2
"""Axes of a convolution's weight that count channels; what follows is the kernel."""

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_GROUPED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_Grouped = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_CONVOLUTIONS = (*_GROUPED, DeformConv2d)


def shapes_of(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of everything in a network's state_dict."""
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def changed_widths(published: nn.Module, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Arrays whose channels differ from the published network's.

    Arrays that differ in their kernel or their number of axes are left out: they belong to another network. Parameters
    that are no convolution's may have their channels along any axis, and pruning has left fewer of them.

    Raises:
        KeyError: An array that the published network has is missing; the exception names it.
    """
    layers = dict(published.named_modules(remove_duplicate=False))
    widths = {}
    for name, tensor in published.state_dict().items():
        ours, theirs = tuple(tensor.shape), tuple(shapes[name])
        if ours != theirs and len(ours) == len(theirs) and _are_widths(layers[name.rpartition(".")[0]], ours, theirs):
            widths[name] = theirs
    return widths


def _are_widths(layer: nn.Module, ours: Sequence[int], theirs: Sequence[int]) -> bool:
    """Whether two shapes of an array of a layer differ by their channels alone."""
    rest = list(zip(ours, theirs, strict=True))[_CHANNEL_AXES:]
    if isinstance(layer, _CONVOLUTIONS):
        return all(one == other for one, other in rest)
    return all(one >= other for one, other in rest)


def apply_widths(net: nn.Module, widths: Shapes) -> None:
    """Give a network's arrays these shapes, in place and with fresh values.

    Raises:
        ConfigError: There is no such array.
    """
    fresh = {}
    for name, shape in widths.items():
        tensor = array_of(net, name)
        fresh[name] = torch.zeros(tuple(shape), dtype=tensor.dtype, device=tensor.device)
    if widths:
        drop_channel_counts(net)
    for owner in set_arrays(net, fresh):
        if callable(reset := getattr(owner, "reset_parameters", None)):
            reset()


def array_of(net: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its name.

    Raises:
        ConfigError: There is none.
    """
    owner, _, leaf = name.rpartition(".")
    found = None
    with contextlib.suppress(AttributeError):
        found = getattr(net.get_submodule(owner), leaf)
    if not isinstance(found, Tensor):
        raise ConfigError(
            f"the network has no array {name!r} of another width",
            hint="weights and manifest belong to different networks; make the artifact again",
        )
    return found


def set_arrays(net: nn.Module, arrays: Mapping[str, Tensor]) -> list[nn.Module]:
    """Put other arrays, of other widths perhaps, into a network, in place.

    Arrays that were one tensor under several names stay one.

    Args:
        net: The network.
        arrays: By name; parameters stay parameters, with gradients where these were wanted.

    Returns:
        The layers that have them, each once, with their numbers of channels brought up to date.
    """
    before = {name: array_of(net, name) for name in arrays}
    now: dict[int, Tensor] = {}
    owners: dict[nn.Module, None] = {}
    for name, fresh in arrays.items():
        old = before[name]
        if id(old) not in now:
            now[id(old)] = nn.Parameter(fresh, old.requires_grad) if isinstance(old, nn.Parameter) else fresh
        owner_name, _, leaf = name.rpartition(".")
        owner = net.get_submodule(owner_name)
        setattr(owner, leaf, now[id(old)])
        owners[owner] = None
    for owner in owners:
        _settle(owner)
    return list(owners)


def _settle(layer: nn.Module) -> None:
    """Make a layer's own numbers agree with its arrays."""
    if isinstance(layer, _GROUPED):
        _settle_convolution(layer)
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.shape[0]
    elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm1d, nn.InstanceNorm2d)):
        # One of the two is there, for an array of this layer has changed its width.
        per_channel = cast(Tensor, layer.weight if layer.affine else layer.running_mean)
        layer.num_features = per_channel.shape[0]
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = layer.weight.shape[0]
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(layer.weight.shape)


def _settle_convolution(layer: _Grouped) -> None:
    """Channels and groups by the weight: groups of one input go with it, others keep their number."""
    transposed = isinstance(layer, _TRANSPOSED)
    first, second = layer.weight.shape[:2]
    if layer.groups > 1 and layer.groups == layer.in_channels:
        multiplier = layer.out_channels // layer.in_channels
        layer.groups = first if transposed else first // multiplier
    layer.in_channels, layer.out_channels = second * layer.groups, first
    if transposed:
        layer.in_channels, layer.out_channels = first, second * layer.groups
