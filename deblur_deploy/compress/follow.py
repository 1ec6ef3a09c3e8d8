"""Follows channels through one pass of a network, operation by operation, as PyTorch's dispatcher sees them.

The network's code needs no changes: labels (see ``labels.py``) are attached to tensors, and each operation passes them
on by its rule (see ``follow_rules.py``). Whatever an operation without a rule touches stays as it is. A second use of
the same rules is the proof of a removal: a pass with zeros in the place of the removed channels must give what the
smaller network gives, and statistics over channels, such as those of layer normalisation, are then taken over the
others alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary

from deblur_deploy.compress.labels import PICTURE, Factor, Factors, Ledger, along

_CHANNELS = 1


@dataclass(frozen=True)
class Call:
    """One operation of the pass.

    Args:
        name: Its name without namespace, overload and the underscore of the in-place form.
        function: The operator.
        args: What it was given, defaults filled in, in the order of its schema.
        out: What it gave.
    """

    name: str
    function: Any
    args: Mapping[str, Any]
    out: Any

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that it was given."""
        return [value for value in tree_iter(list(self.args.values())) if isinstance(value, Tensor)]

    @property
    def outputs(self) -> list[Tensor]:
        """Every tensor that it gave."""
        return [value for value in tree_iter(self.out) if isinstance(value, Tensor)]


Rule = Callable[["Follower", Call], Sequence[Factors]]
"""Factors of each tensor that an operation gave."""

Statistic = Callable[["Follower", Call], Any]
"""What an operation gives without the removed channels; None where it does not look at any."""


@dataclass(frozen=True)
class Rules:
    """The rules that a follower applies.

    Args:
        labels: By name of an operation, how it passes labels on.
        statistics: Operations that look at several channels at once.
    """

    labels: Mapping[str, Rule]
    statistics: Mapping[str, Statistic]


class Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While open, every operation passes labels on.

    Args:
        net: The network whose arrays get labels.
        rules: Rules of the operations.
        removed: Places that are zero in ``net`` and missing in the network that it is compared with, by array and axis;
            statistics pass over them.
    """

    def __init__(
        self,
        net: nn.Module,
        rules: Rules,
        removed: Mapping[tuple[str, int], Collection[int]] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = Ledger()
        self.makers: set[tuple[str, int]] = set()
        """Arrays and axes whose entries are outputs of a convolution or a matrix product."""
        self._used: set[str] = set()
        self.split: list[Factor] = []
        """Labels of tensors over whose axes the channels of one axis were distributed."""
        self._rules = rules
        self._names: dict[int, str] = {}
        self._factors = WeakIdKeyDictionary()
        self._by_place: dict[tuple[int, tuple[int, ...]], Factors] = {}
        self._modules: list[str] = []
        self.arrays = self._label(net)
        self.removed = np.array(
            sorted(
                int(self.arrays[name][axis][place])
                for (name, axis), places in (removed or {}).items()
                for place in places
            ),
            dtype=np.int64,
        )

    def _label(self, net: nn.Module) -> dict[str, tuple[Factor, ...]]:
        """Labels of every axis of every array; arrays that are one tensor share theirs."""
        arrays: dict[str, tuple[Factor, ...]] = {}
        for name, tensor in arrays_of(net).items():
            if (first := self._names.get(id(tensor))) is None:
                arrays[name] = tuple(self.ledger.fresh(size) for size in tensor.shape)
                factors = tuple(along(labels, axis, tensor.ndim) for axis, labels in enumerate(arrays[name]))
                self.set(tensor, factors)
                self._names[id(tensor)] = name
                if tensor.numel():
                    self._by_place[tensor.data_ptr(), tuple(tensor.shape)] = self.get(tensor)
            else:
                arrays[name] = arrays[first]
        return arrays

    def get(self, tensor: Tensor) -> Factors:
        """Factors of a tensor; none where nothing in it follows from a number of channels."""
        factors: Factors | None = self._factors.get(tensor)  # type: ignore[no-untyped-call]
        if factors is None:  # such as `parameter.data`, which is another object
            factors = self._by_place.get((tensor.data_ptr(), tuple(tensor.shape)), ())
        return factors

    def set(self, tensor: Tensor, factors: Factors) -> None:
        """Give a tensor its factors; those that depend on nothing go."""
        self._factors[tensor] = tuple(factor for factor in factors if factor.size > 1)

    def name_of(self, tensor: Tensor) -> str | None:
        """The name of an array of the network, or None."""
        return self._names.get(id(tensor))

    def took(self, name: str) -> bool:
        """Whether some operation has taken an array, by this name or another."""
        return any(self.arrays[name] is self.arrays[used] for used in self._used)

    @property
    def where(self) -> str:
        """The innermost module that is running."""
        return self._modules[-1] if self._modules else ""

    def give(self, picture: Tensor) -> None:
        """Fix the channels of what the network is given."""
        channels = self.ledger.fixed(picture.shape[_CHANNELS], PICTURE)
        self.set(picture, (along(channels, _CHANNELS, picture.ndim),))

    def take(self, pictures: Sequence[Tensor]) -> None:
        """Fix the channels of what the network has given."""
        for picture in pictures:
            for factor in self.get(picture):
                self.ledger.fix(factor, PICTURE)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and pass on the labels."""
        given = _bound(func, args, kwargs or {})
        name = func.overloadpacket.__name__.rstrip("_") or func.overloadpacket.__name__
        call = Call(name, func, given, None)
        out = None
        if self.removed.size and (rule := self._rules.statistics.get(name)) is not None:
            out = rule(self, call)
        if out is None:
            out = func(*args, **(kwargs or {}))
        self._hand_on(Call(name, func, given, out))
        return out

    def _hand_on(self, call: Call) -> None:
        for tensor in call.tensors:
            if (array := self.name_of(tensor)) is not None:
                self._used.add(array)
        labels = self._rules.labels
        usual = "pointwise" if torch.Tag.pointwise in call.function.tags else "unknown"
        rule = labels.get(call.name, labels[usual])
        for tensor, factors in zip(call.outputs, rule(self, call), strict=True):
            self.set(tensor, factors)

    @contextmanager
    def inside(self, net: nn.Module) -> Iterator[None]:
        """Know which module is running, while open."""
        names = {module: name for name, module in net.named_modules()}
        hooks = []
        for module in names:
            hooks.append(module.register_forward_pre_hook(lambda layer, _: self._modules.append(names[layer])))
            hooks.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _leave(self) -> None:
        if self._modules:  # a hook that failed before ours has entered nothing
            self._modules.pop()


def arrays_of(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each name of a tensor that has several."""
    kept = set(net.state_dict(keep_vars=True))
    named = [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]
    found = {name: tensor for name, tensor in named if name in kept}
    return {name: found[name] for name in net.state_dict(keep_vars=True) if name in found}


def _bound(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults filled in."""
    bound: dict[str, Any] = {}
    for index, argument in enumerate(func._schema.arguments):
        if index < len(args):
            bound[argument.name] = args[index]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    return bound
