"""How convolutions, matrix products and attention pass on the labels of channels: channels in, other channels out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from deblur_deploy.compress.follow import Call, Follower
from deblur_deploy.compress.follow_rules import meet, unknown
from deblur_deploy.compress.labels import POSITIONS, Factor, Factors, along, axes_of

_CHANNELS = 1


def convolved(follower: Follower, call: Call) -> list[Factors]:
    """Inputs are tied to the weight's inputs; outputs are the weight's outputs."""
    source, weight = call.args["input"], call.args["weight"]
    groups, transposed = call.args["groups"], call.args.get("transposed", False)
    outs, ins = (1, 0) if transposed else (0, 1)
    given = _labels_along(follower, source, _CHANNELS)
    first, second = (_labels_along(follower, weight, axis) for axis in (0, 1))
    _fix_other_axes(follower, weight, 2)
    if groups == 1:
        _tie(follower, given, first if ins == 0 else second)
        made = first if outs == 0 else second
        _note_maker(follower, weight, outs)
    else:
        made = _grouped(follower, (given, first, second), groups, transposed)
        _note_maker(follower, weight, outs if transposed and weight.shape[1] > 1 else 0)
    bias = call.args.get("bias")
    if bias is not None:
        made = _tie(follower, made, _labels_along(follower, bias, 0))
    return [() if made is None else (along(made, _CHANNELS, out.ndim),) for out in call.outputs]


def _grouped(
    follower: Follower, labels: tuple[Factor | None, Factor | None, Factor | None], groups: int, transposed: bool
) -> Factor | None:
    """Outputs of a grouped convolution.

    Where a group has one input, as in a depthwise convolution, channels go with their groups. Otherwise every group
    loses the same of its channels, and the number of groups stays.
    """
    given, first, second = labels
    if given is None or first is None:
        for found in labels:
            if found is not None:
                follower.ledger.tie(found, follower.ledger.constant)
        return first
    if len(given) == groups:  # (C, 1, kh, kw) or, with a multiplier, (m C, 1, kh, kw); transposed (C, m, kh, kw)
        if second is not None and len(second) > 1:
            follower.ledger.tie(second, follower.ledger.constant)
        if transposed:
            follower.ledger.tie(given, first)
            return np.repeat(first, 1 if second is None else len(second))
        follower.ledger.tie(np.repeat(given, len(first) // groups), first)
        return first
    in_parts = given.reshape(groups, -1)
    if transposed:
        follower.ledger.tie(given, first)
        follower.ledger.tie_along(in_parts, [0])
        return None if second is None else np.tile(second, groups)
    if second is not None:
        follower.ledger.tie(in_parts, second[None])
    follower.ledger.tie_along(in_parts, [0])
    follower.ledger.tie_along(first.reshape(groups, -1), [0])
    return first


def deformed(follower: Follower, call: Call) -> list[Factors]:
    """A deformable convolution: positions stay, channels go as in an ordinary one."""
    if call.args["groups"] != 1 or call.args["offset_groups"] != 1:
        return unknown(follower, call)
    for factor in follower.get(call.args["offset"]):
        follower.ledger.fix(factor, POSITIONS)
    return convolved(follower, call)


def multiplied(follower: Follower, call: Call) -> list[Factors]:
    """A product of matrices or of batches of them, with something added or not."""
    one, other = (call.args[name] for name in _OPERANDS[call.name])
    out = call.outputs[0]
    left, right = _matrix_factors(follower, one), _matrix_factors(follower, other)
    contracted = one.ndim - 1, max(0, other.ndim - 2)
    _contract(follower, _reaching(left, contracted[0]), _reaching(right, contracted[1]), one.shape[-1])
    result: list[Factor] = []
    if one.ndim > 1 and (rows := _reaching(left, one.ndim - 2)) is not None:
        result.append(along(rows.reshape(-1), out.ndim - (2 if other.ndim > 1 else 1), out.ndim))
    if other.ndim > 1 and (columns := _reaching(right, other.ndim - 1)) is not None:
        result.append(along(columns.reshape(-1), out.ndim - 1, out.ndim))
    batches = [factor for factor in (*left, *right) if max(axes_of(factor), default=-1) < factor.ndim - 2]
    for factor in batches:  # the code fixes the size of a batch of matrices
        follower.ledger.tie(factor, follower.ledger.constant)
    follower.set(out, tuple(result))
    added = call.args.get("self") if call.name.startswith(("add", "badd")) else None
    return [tuple(result) if added is None else meet(follower, [out, added])]


_OPERANDS = {
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "addmm": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
}


def _matrix_factors(follower: Follower, tensor: Tensor) -> list[Factor]:
    """Factors of matrices, none of which depends on more than one axis of them.

    Matrices of a batch, such as the heads of an attention, lose the same rows or columns each: their number is one that
    stands in the code.
    """
    result = []
    for factor in follower.get(tensor):
        inner = [axis for axis in axes_of(factor) if axis >= tensor.ndim - 2]
        if inner:
            factor = follower.ledger.tie_along(factor, [axis for axis in axes_of(factor) if axis != inner[-1]])
        result.append(factor)
    return result


def _reaching(factors: Sequence[Factor], axis: int) -> Factor | None:
    return next((factor for factor in factors if factor.shape[axis] > 1), None)


def _contract(follower: Follower, one: Factor | None, other: Factor | None, size: int) -> None:
    """Tie the entries that a product sums over."""
    present = [factor.reshape(-1) for factor in (one, other) if factor is not None]
    if len(present) == 2:
        follower.ledger.tie(*present)
    elif present and size > 1:
        follower.ledger.tie(present[0], follower.ledger.constant)


def attended(follower: Follower, call: Call) -> list[Factors]:
    """Scaled dot-product attention of (N, heads, length, channels)."""
    query, key, value = (_matrix_factors(follower, call.args[name]) for name in ("query", "key", "value"))
    last = call.args["query"].ndim - 1
    _contract(follower, _reaching(query, last), _reaching(key, last), call.args["query"].shape[-1])
    if call.args.get("scale") is None:  # it is then made of the number of channels
        for factor in (_reaching(query, last), _reaching(key, last)):
            if factor is not None:
                follower.ledger.tie(factor, follower.ledger.constant)
    for factors in (query, key, value):
        for factor in factors:
            if factor.shape[last] == 1:
                follower.ledger.tie(factor, follower.ledger.constant)
    columns = _reaching(value, last)
    return [() if columns is None else (columns,), *(() for _ in call.outputs[1:])]


def _labels_along(follower: Follower, tensor: Tensor, axis: int) -> Factor | None:
    """Labels of the entries of one axis, tied over all other axes that they depend on."""
    for factor in follower.get(tensor):
        if factor.shape[axis] > 1:
            return follower.ledger.tie_along(factor, [one for one in axes_of(factor) if one != axis]).reshape(-1)
        if tensor.shape[axis] == 1:
            continue
    return None


def _fix_other_axes(follower: Follower, weight: Tensor, first: int) -> None:
    """The places of a kernel stay."""
    for factor in follower.get(weight):
        if axes_of(factor) and min(axes_of(factor)) >= first:
            follower.ledger.tie(factor, follower.ledger.constant)


def _tie(follower: Follower, one: Factor | None, other: Factor | None) -> Factor | None:
    """Tie two lists of labels; a label without a partner, in a place for several, stays."""
    if one is not None and other is not None:
        return follower.ledger.tie(one, other)
    present = other if one is None else one
    if present is not None:
        follower.ledger.tie(present, follower.ledger.constant)
    return present


def _note_maker(follower: Follower, weight: Tensor, axis: int) -> None:
    if (name := follower.name_of(weight)) is not None:
        follower.makers.add((name, axis))
