"""How many channels every group keeps, under a limit on channels, multiply-accumulates or parameters.

Widths go in steps: multiples of ``round_to``, and the present width itself. No group gets less than one multiple, so
the smallest network has ``round_to`` channels in every group (or all, where there are fewer).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deblur_deploy.compress.width_cost import WidthCost
from deblur_deploy.config import Budget, PruneConfig
from deblur_deploy.core.errors import ConfigError

Widths = list[int]
"""Channels that each group keeps."""

Curve = Callable[[int], float]
"""Loss of quality in dB by the number of channels of one group; it falls with their number."""

_HALVINGS = 50
_UNITS: dict[Budget, str] = {"keep": "channels", "macs": "multiply-accumulates", "params": "parameters"}


@dataclass(frozen=True)
class WidthState:
    """What an allocation starts from.

    Args:
        cost: Of the network at its present widths.
        strengths: For every group, the strength of its channels, in any order and with a mean of 1.
        original: Channels of every group before the first round, which shares refer to.
        round_to: Widths are multiples of this.
    """

    cost: WidthCost
    strengths: Sequence[Tensor]
    original: Sequence[int]
    round_to: int

    @property
    def present(self) -> Widths:
        """Channels of every group now, the most that it can keep."""
        return self.cost.channels

    @property
    def smallest(self) -> Widths:
        """One multiple in every group."""
        return [min(channels, self.round_to) for channels in self.present]

    def rounded(self, channels: Sequence[float]) -> Widths:
        """Widths next below so many channels of each group."""
        down = [int(count + 1e-9) // self.round_to * self.round_to for count in channels]
        return [min(most, max(least, n)) for most, least, n in zip(self.present, self.smallest, down, strict=True)]

    def below(self, group: int, width: int) -> int:
        """The next smaller width of a group."""
        return max(self.smallest[group], (width - 1) // self.round_to * self.round_to)

    def above(self, group: int, width: int) -> int:
        """The next greater width of a group."""
        return min(self.present[group], (width // self.round_to + 1) * self.round_to)


def choose_widths(state: WidthState, config: PruneConfig, curves: Mapping[int, Curve] | None = None) -> Widths:
    """Divide a budget among the groups.

    ``keep`` with local scope gives every group the same share of its channels, rounded down. Everything else takes the
    widest network within the budget: no group could have its next width as well.

    Args:
        state: The network.
        config: Budget, scope and allocation.
        curves: By number of the group, what its channels are worth; the allocation by sensitivity needs them.

    Raises:
        ConfigError: The smallest widths are above the budget; the smallest reachable share is named.
    """
    kind, share = config.budget
    if share == 1:
        return state.present
    if config.allocation == "uniform" and config.scope == "local" and kind == "keep":
        return state.rounded([share * channels for channels in state.original])
    limit = check_reachable(state, kind, share)
    if config.allocation == "sensitivity":
        assert curves is not None
        return _spend_least(state, kind, limit, curves)
    if state.cost.measure(kind, state.present) <= limit:
        return state.present
    allocate = _competing if config.scope == "global" else _alike
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = state.cost.measure(kind, allocate(state, middle)) <= limit
        low, high = (middle, high) if fits else (low, middle)
    ranked = [strength.sort(descending=True).values for strength in state.strengths]
    return _fill(
        state, kind, limit, (allocate(state, low), lambda group, old, new: float(ranked[group][old:new].mean()))
    )


def check_reachable(state: WidthState, kind: Budget, share: float) -> float:
    """The budget in channels, multiply-accumulates or parameters.

    Raises:
        ConfigError: The smallest widths are above it.
    """
    full, least = state.cost.measure(kind, state.original), state.cost.measure(kind, state.smallest)
    limit = share * full * (1 + 1e-12)
    if least > limit:
        reachable = math.ceil(1000 * least / full) / 1000
        raise ConfigError(
            f"{kind} {share} cannot be met: with one multiple of {state.round_to} channels in every group "
            f"{least:,} of {full:,} {_UNITS[kind]} are left, {reachable}",
            hint=f"give {kind} {reachable} or more, or round to less than {state.round_to}",
        )
    return limit


def _alike(state: WidthState, share: float) -> Widths:
    """The same share of every group."""
    return state.rounded([share * channels for channels in state.original])


def _competing(state: WidthState, share: float) -> Widths:
    """The strongest channels of all groups together."""
    groups = torch.cat([torch.full((len(s),), index) for index, s in enumerate(state.strengths)])
    ranking = torch.cat(list(state.strengths)).argsort(descending=True, stable=True)
    winners = groups[ranking[: int(share * sum(state.original))]]
    return state.rounded(torch.bincount(winners, minlength=len(state.strengths)).tolist())


def _spend_least(state: WidthState, kind: Budget, limit: float, curves: Mapping[int, Curve]) -> Widths:
    """Take the step that costs the least dB for what it saves, until the budget is met; then give back what fits."""
    widths = list(state.present)
    while (now := state.cost.measure(kind, widths)) > limit:
        steps = []
        for group, width in enumerate(widths):
            narrower = state.below(group, width)
            if narrower < width:
                saved = now - state.cost.measure(kind, [*widths[:group], narrower, *widths[group + 1 :]])
                lost = curves[group](narrower) - curves[group](width)
                steps.append((lost / saved, -saved, group, narrower))
        *_, group, narrower = min(steps)
        widths[group] = narrower
    return _fill(state, kind, limit, (widths, lambda group, old, new: curves[group](old) - curves[group](new)))


def _fill(
    state: WidthState, kind: Budget, limit: float, start: tuple[Widths, Callable[[int, int, int], float]]
) -> Widths:
    """Widen group after group, the most valuable step first, until no step fits into the budget.

    Args:
        state: The network.
        kind: What is limited.
        limit: To how much.
        start: The widths to begin with, and the value of a group's step from an old width to a new one.
    """
    widths, value = list(start[0]), start[1]
    while True:
        steps = []
        for group, width in enumerate(widths):
            wider = state.above(group, width)
            fits = state.cost.measure(kind, [*widths[:group], wider, *widths[group + 1 :]]) <= limit
            if wider > width and fits:
                steps.append((-value(group, width, wider), group, wider))
        if not steps:
            return widths
        _, group, wider = min(steps)
        widths[group] = wider
