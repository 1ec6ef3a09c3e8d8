"""Statistics over channels without those that are removed: what a smaller network computes, at the whole one's size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from deblur_deploy.compress.follow import Call, Follower
from deblur_deploy.compress.follow_rules import reduced_axes
from deblur_deploy.compress.labels import axes_of

_CHANNELS = 1


def reduced(follower: Follower, call: Call) -> Any:
    """A mean, a variance, an extreme value."""
    source = call.tensors[0]
    kept = source
    for axis, places in _kept_places(follower, source).items():
        if axis in reduced_axes(call, source):
            kept = kept.index_select(axis, places)
    return None if kept is source else _again(call, kept)


def softmax(follower: Follower, call: Call) -> Any:
    """Shares that sum to one over what is there."""
    source = call.tensors[0]
    axis = call.args["dim"] % source.ndim
    gone = [factor for factor in follower.get(source) if axis in axes_of(factor)]
    masks = [torch.from_numpy(mask) for factor in gone if (mask := np.isin(factor, follower.removed)).any()]
    return _again(call, source.masked_fill(masks[0], -torch.inf)) if masks else None


def layer_norm(follower: Follower, call: Call) -> Any:
    """Mean and variance over the last axis."""
    source, axis = call.args["input"], call.args["input"].ndim - 1
    places = _kept_places(follower, source).get(axis)
    if places is None or len(call.args["normalized_shape"]) != 1:
        return None
    weights = [None if (w := call.args[name]) is None else w[places] for name in ("weight", "bias")]
    kept, *others = call.function(source.index_select(axis, places), [len(places)], *weights, call.args["eps"])
    return _spread(kept, places, axis, source), *others


def group_norm(follower: Follower, call: Call) -> Any:
    """Mean and variance of every group of channels."""
    source = call.args["input"]
    places = _kept_places(follower, source).get(_CHANNELS)
    if places is None:
        return None
    weights = [None if (w := call.args[name]) is None else w[places] for name in ("weight", "bias")]
    sizes = (call.args["N"], len(places), call.args["HxW"], call.args["group"], call.args["eps"])
    kept, *others = call.function(source.index_select(_CHANNELS, places).contiguous(), *weights, *sizes)
    return _spread(kept, places, _CHANNELS, source), *others


def _kept_places(follower: Follower, tensor: Tensor) -> dict[int, Tensor]:
    """By axis along which something is removed, the places that stay."""
    found = {}
    for factor in follower.get(tensor):
        gone = np.isin(factor, follower.removed)
        for axis in range(factor.ndim):
            along = gone.any(axis=tuple(other for other in range(factor.ndim) if other != axis))
            shape = [1] * factor.ndim
            shape[axis] = -1
            if along.any() and np.array_equal(np.broadcast_to(along.reshape(shape), gone.shape), gone):
                found[axis] = torch.from_numpy(np.flatnonzero(~along))
    return found


def _again(call: Call, source: Tensor) -> Any:
    """The same operation on another first tensor."""
    others = list(call.args.items())[1:]
    keyword_only = {argument.name for argument in call.function._schema.arguments if argument.kwarg_only}
    rest = [value for name, value in others if name not in keyword_only]
    return call.function(source, *rest, **{name: value for name, value in others if name in keyword_only})


def _spread(kept: Tensor, places: Tensor, axis: int, like: Tensor) -> Tensor:
    """Entries put back to their places, with zeros between them."""
    return torch.zeros_like(like).index_copy(axis, places, kept)
