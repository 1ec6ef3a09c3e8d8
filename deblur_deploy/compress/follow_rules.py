"""How operations pass on the labels of channels: which keep them, move them, tie them or fix them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deblur_deploy.compress.follow import Call, Follower
from deblur_deploy.compress.labels import Factor, Factors, aligned, along, axes_of, expanded

_CHANNELS = 1
_SPATIAL = 2
"""Axes of a picture after its channels."""


def unknown(follower: Follower, call: Call) -> list[Factors]:
    """Everything that an operation without a rule touches stays."""
    labelled = [factor for tensor in call.tensors for factor in follower.get(tensor)]
    if not labelled:
        return [() for _ in call.outputs]
    where = f" in {follower.where}" if follower.where else ""
    reason = f"the operation {call.name}{where} cannot be followed"
    for factor in labelled:
        follower.ledger.fix(factor, reason)
    return [
        tuple(along(follower.ledger.fixed(size, reason), axis, out.ndim) for axis, size in enumerate(out.shape))
        for out in call.outputs
    ]


def nothing(follower: Follower, call: Call) -> list[Factors]:
    """The output does not depend on channels."""
    return [() for _ in call.outputs]


def made(follower: Follower, call: Call) -> list[Factors]:
    """A tensor that the code makes of a size: it goes with what it meets."""
    return [
        tuple(along(follower.ledger.fresh(size), axis, out.ndim) for axis, size in enumerate(out.shape) if size > 1)
        for out in call.outputs
    ]


def like(follower: Follower, call: Call) -> list[Factors]:
    """A tensor of another's size."""
    return [follower.get(call.tensors[0]) for _ in call.outputs]


def pointwise(follower: Follower, call: Call) -> list[Factors]:
    """Values that meet are tied; what is broadcast is not."""
    result = meet(follower, call.tensors)
    return [tuple(factor for factor in result if factor.ndim <= out.ndim) for out in call.outputs]


def meet(follower: Follower, tensors: Sequence[Tensor]) -> Factors:
    """Factors of what is computed of tensors entry by entry."""
    dimensions = max((tensor.ndim for tensor in tensors), default=0)
    shapes = [(1,) * (dimensions - tensor.ndim) + tuple(tensor.shape) for tensor in tensors]
    factors = [[aligned(factor, dimensions) for factor in follower.get(tensor)] for tensor in tensors]
    for axis in range(dimensions):
        _fix_unlabelled(follower, factors, [shape[axis] for shape in shapes], axis)
    joined: list[Factor] = []
    for factor in (one for of_tensor in factors for one in of_tensor):
        apart = [other for other in joined if not set(axes_of(other)) & set(axes_of(factor))]
        met = factor
        for other in joined:
            if not any(other is one for one in apart):
                met = follower.ledger.tie(other, met)
        joined = [*apart, met]
    return tuple(joined)


def _fix_unlabelled(follower: Follower, factors: Sequence[Sequence[Factor]], sizes: Sequence[int], axis: int) -> None:
    """Fix what meets a tensor that has its full size along an axis and no labels there."""
    reaching = [[factor for factor in of_tensor if factor.shape[axis] > 1] for of_tensor in factors]
    if any(size > 1 and not found for size, found in zip(sizes, reaching, strict=True)):
        for factor in (one for found in reaching for one in found):
            follower.ledger.tie(factor, follower.ledger.constant)


def moved(follower: Follower, call: Call) -> list[Factors]:
    """Entries go to other places: the same operation on labels says where to."""
    source = call.tensors[0]
    results: list[list[Factor]] = [[] for _ in call.outputs]
    for factor in follower.get(source):
        labels = torch.from_numpy(factor.astype(np.float64)).expand(source.shape)
        for result, out in zip(results, _run_on(call, labels), strict=True):
            result.append(follower.ledger.compressed(_plain(out)))
    return [tuple(result) for result in results]


def _plain(moved_labels: Tensor) -> Factor:
    """Labels as integers, of size 1 along axes that were only ever expanded."""
    for axis, stride in enumerate(moved_labels.stride()):
        if stride == 0 and moved_labels.shape[axis]:
            moved_labels = moved_labels.narrow(axis, 0, 1)
    return np.ascontiguousarray(moved_labels.numpy()).astype(np.int64)


def _run_on(call: Call, labels: Any) -> list[Tensor]:
    """What an operation gives for labels in the place of its first argument."""
    _first, *others = call.args
    keyword_only = {argument.name for argument in call.function._schema.arguments if argument.kwarg_only}
    rest = [call.args[name] for name in others if name not in keyword_only]
    named = {name: call.args[name] for name in others if name in keyword_only and name not in _TENSOR_OPTIONS}
    out = labels.reshape(*rest) if call.name in ("view", "_unsafe_view") else call.function(labels, *rest, **named)
    return [out] if isinstance(out, Tensor) else list(out)


_TENSOR_OPTIONS = frozenset({"dtype", "layout", "device", "pin_memory", "memory_format"})


def broadcast(follower: Follower, call: Call) -> list[Factors]:
    """One entry repeated to the size that something else has: it goes with what it meets."""
    (factors,) = moved(follower, call)
    source, out = call.tensors[0], call.outputs[0]
    sizes = (1,) * (out.ndim - source.ndim) + tuple(source.shape)
    grown = [axis for axis, size in enumerate(sizes) if size == 1 < out.shape[axis]]
    return [(*factors, *(along(follower.ledger.fresh(out.shape[axis]), axis, out.ndim) for axis in grown))]


def reshaped(follower: Follower, call: Call) -> list[Factors]:
    """Axes are split or joined; what a split tears apart is settled when the pass has ended."""
    (factors,) = moved(follower, call)
    follower.split += [factor for factor in factors if len(axes_of(factor)) > 1]
    return [factors]


def parted(follower: Follower, call: Call) -> list[Factors]:
    """Chunks of channels lose the same ones, so that they stay equally large."""
    source, axis = call.tensors[0], call.args["dim"] % call.tensors[0].ndim
    sizes = {out.shape[axis] for out in call.outputs}
    for factor in follower.get(source):
        if factor.shape[axis] > 1:
            _tie_parts(follower, factor, axis, sizes.pop() if len(sizes) == 1 else None)
    return moved(follower, call)


def gated(follower: Follower, call: Call) -> list[Factors]:
    """The first half of an axis times the sigmoid of the second."""
    source, axis = call.tensors[0], call.args["dim"] % call.tensors[0].ndim
    results, half = [], call.outputs[0].shape[axis]
    for factor in follower.get(source):
        if factor.shape[axis] > 1:
            _tie_parts(follower, factor, axis, half)
        results.append(factor.take(range(half), axis) if factor.shape[axis] > 1 else factor)
    return [tuple(results)]


def sliced(follower: Follower, call: Call) -> list[Factors]:
    """A slice of channels is one of several equal parts, or its limits are numbers in the code."""
    source, out = call.tensors[0], call.outputs[0]
    axis, step = call.args["dim"] % source.ndim, call.args["step"]
    if out.shape[axis] < source.shape[axis]:
        start = (call.args["start"] or 0) % source.shape[axis]
        width = step if step > 1 else out.shape[axis]
        whole = width > 0 and source.shape[axis] % width == 0 and (step > 1 or start % width == 0)
        for factor in follower.get(source):
            if factor.shape[axis] > 1:
                _tie_parts(follower, factor, axis, width if whole else None, interleaved=step > 1)
    return moved(follower, call)


def _tie_parts(follower: Follower, factor: Factor, axis: int, width: int | None, interleaved: bool = False) -> None:
    """Tie equal parts along an axis channel by channel; parts that are not equal stay as they are."""
    if width is None or width == 1:
        follower.ledger.tie(factor, follower.ledger.constant)
        return
    rows = np.moveaxis(factor, axis, 0)
    rows = rows.reshape(-1, width, *rows.shape[1:])
    if interleaved:
        rows = rows.swapaxes(0, 1)
    for one, other in pairwise(rows):
        follower.ledger.tie(one, other)


def selected(follower: Follower, call: Call) -> list[Factors]:
    """One entry of an axis, by its number: the others along that axis must lose the same, and none may be lost."""
    source, axis = call.tensors[0], call.args["dim"] % call.tensors[0].ndim
    for factor in follower.get(source):
        if axes_of(factor) == (axis,):
            follower.ledger.tie(factor, follower.ledger.constant)
        else:
            follower.ledger.tie_along(factor, [axis])
    return moved(follower, call)


def rolled(follower: Follower, call: Call) -> list[Factors]:
    """Places are shifted; not among channels, where the shift is a number in the code."""
    source = call.tensors[0]
    axes = {axis % source.ndim for axis in call.args["dims"]} or set(range(source.ndim))
    for factor in follower.get(source):
        if axes & set(axes_of(factor)):
            follower.ledger.tie(factor, follower.ledger.constant)
    return [follower.get(source)]


def joined(follower: Follower, call: Call) -> list[Factors]:
    """Concatenation or stacking."""
    tensors = [tensor for tensor in call.args["tensors"] if tensor.numel()]
    ranked = [sorted(follower.get(tensor), key=axes_of) for tensor in tensors]
    results = []
    for index in range(max((len(factors) for factors in ranked), default=0)):
        parts = []
        for tensor, factors in zip(tensors, ranked, strict=True):
            factor = factors[index] if index < len(factors) else follower.ledger.constant
            parts.append(torch.from_numpy(np.array(expanded(factor, tensor.shape), dtype=np.float64)))
        (out,) = _run_on(call, parts)
        results.append(follower.ledger.compressed(_plain(out)))
    return [tuple(results)]


def padded(follower: Follower, call: Call) -> list[Factors]:
    """Zeros or other constants at the ends; among channels, they stay."""
    source, pads = call.tensors[0], call.args["pad"]
    results = []
    for factor in follower.get(source):
        for number in range(len(pads) // 2):
            axis = source.ndim - 1 - number
            if factor.shape[axis] > 1:
                widths = [(0, 0)] * source.ndim
                widths[axis] = (max(0, pads[2 * number]), max(0, pads[2 * number + 1]))
                factor = np.pad(factor, widths, constant_values=int(follower.ledger.constant))
        results.append(factor)
    return [tuple(results)]


def spatial(follower: Follower, call: Call) -> list[Factors]:
    """Works on each channel's picture by itself: pooling, resizing, padding by what is there."""
    source, *others = call.tensors
    for other in others:  # such as the coordinates of a grid
        for factor in follower.get(other):
            follower.ledger.tie(factor, follower.ledger.constant)
    axes = range(source.ndim - _SPATIAL, source.ndim)
    kept = tuple(_over_places(follower, factor, axes) for factor in follower.get(source))
    return [kept for _ in call.outputs]


def _over_places(follower: Follower, factor: Factor, axes: Sequence[int]) -> Factor:
    """A factor that no longer depends on some axes; one that depends only on these is fixed."""
    if set(axes_of(factor)) <= set(axes):
        follower.ledger.tie(factor, follower.ledger.constant)
    return follower.ledger.tie_along(factor, axes)


def reduced(follower: Follower, call: Call) -> list[Factors]:
    """A sum, a mean, a greatest value: over channels they are what a statistic is, and tie nothing."""
    source = call.tensors[0]
    axes = reduced_axes(call, source)
    kept = []
    for factor in follower.get(source):
        if set(axes_of(factor)) - set(axes):
            kept.append(follower.ledger.tie_along(factor, axes))
    if not call.args.get("keepdim"):
        kept = [factor.squeeze(tuple(axes)) for factor in kept]
    return [tuple(kept) for _ in call.outputs]


def reduced_axes(call: Call, source: Tensor) -> list[int]:
    """Axes that a reduction takes together."""
    given = call.args.get("dim")
    given = [given] if isinstance(given, int) else given
    return [axis % source.ndim for axis in given] if given else list(range(source.ndim))


def kept(follower: Follower, call: Call) -> list[Factors]:
    """Entries stay where they are."""
    factors = follower.get(call.tensors[0])
    return [factors if out.ndim == call.tensors[0].ndim else () for out in call.outputs]


def normalised(follower: Follower, call: Call) -> list[Factors]:
    """Batch normalisation: every channel by itself, with a vector of each kind."""
    source, *vectors = call.tensors
    (factors,) = _with_vectors(follower, source, vectors)
    return [factors, *(() for _ in call.outputs[1:])]


def _with_vectors(follower: Follower, source: Tensor, vectors: Sequence[Tensor]) -> list[Factors]:
    """Factors of features that meet vectors with an entry per channel."""
    factors = [_per_channel(follower, factor) for factor in follower.get(source)]
    labels = factors[0].reshape(-1) if factors else None
    for vector in vectors:
        labels = _tie_labels(follower, labels, _vector(follower, vector), source.shape[_CHANNELS])
    return [() if labels is None else (along(labels, _CHANNELS, source.ndim),)]


def _vector(follower: Follower, vector: Tensor) -> Factor | None:
    factors = follower.get(vector)
    return factors[0] if factors else None


def _per_channel(follower: Follower, factor: Factor) -> Factor:
    """A factor that depends on the channels alone, tied over everything else."""
    axes = [axis for axis in range(factor.ndim) if axis != _CHANNELS]
    return _over_places(follower, factor, axes)


def _tie_labels(follower: Follower, one: Factor | None, other: Factor | None, size: int) -> Factor | None:
    """Tie two lists of labels; where one has none, the other stays."""
    if size == 1 or (one is None and other is None):
        return None
    if one is None or other is None or one.size == 1 or other.size == 1:
        present = other if one is None or one.size == 1 else one
        assert present is not None
        follower.ledger.tie(present, follower.ledger.constant)
        return present
    return follower.ledger.tie(one, other)


def group_normalised(follower: Follower, call: Call) -> list[Factors]:
    """Groups of channels that are normalised together lose the same ones, so that they stay equally large."""
    source, *vectors = call.tensors
    (factors,) = _with_vectors(follower, source, vectors)
    for factor in factors:
        _tie_parts(follower, factor, _CHANNELS, source.shape[_CHANNELS] // call.args["group"])
    return [factors, (), ()]


def layer_normalised(follower: Follower, call: Call) -> list[Factors]:
    """Statistics over the last axes, and a weight for each of their entries."""
    tensors = [call.args[name] for name in ("input", "weight", "bias") if call.args[name] is not None]
    return [meet(follower, tensors), (), ()]


def unfolded(follower: Follower, call: Call) -> list[Factors]:
    """Patches of pictures as columns: (N, C, H, W) to (N, C k k, L)."""
    source, out = call.tensors[0], call.outputs[0]
    factors = [_per_channel(follower, factor) for factor in follower.get(source)]
    often = out.shape[_CHANNELS] // source.shape[_CHANNELS]
    return [tuple(along(np.repeat(factor.reshape(-1), often), _CHANNELS, out.ndim) for factor in factors)]


def folded(follower: Follower, call: Call) -> list[Factors]:
    """Columns back to pictures: (N, C k k, L) to (N, C, H, W)."""
    source, out = call.tensors[0], call.outputs[0]
    factors = [_per_channel(follower, factor).reshape(out.shape[_CHANNELS], -1) for factor in follower.get(source)]
    return [tuple(along(follower.ledger.tie_along(one, [1]).reshape(-1), _CHANNELS, out.ndim) for one in factors)]


def transformed(follower: Follower, call: Call) -> list[Factors]:
    """A Fourier transform of each channel's picture by itself."""
    source, out = call.tensors[0], call.outputs[0]
    axes = [axis % source.ndim for axis in call.args["dim"]]
    return [tuple(_over_places(follower, factor, axes) for factor in follower.get(source) if out.ndim == source.ndim)]


def paired(follower: Follower, call: Call) -> list[Factors]:
    """Complex numbers as pairs along a last axis, or back."""
    source, out = call.tensors[0], call.outputs[0]
    factors = follower.get(source)
    if out.ndim > source.ndim:
        return [tuple(factor[..., None] for factor in factors)]
    return [tuple(_over_places(follower, factor, [factor.ndim - 1])[..., 0] for factor in factors)]
