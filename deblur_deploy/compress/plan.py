"""From a network and a budget to the channels to remove, and to the network without them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from deblur_deploy.compress.allocation import Curve, WidthState, choose_widths
from deblur_deploy.compress.groups import TRACED, Channels, Frozen, without
from deblur_deploy.compress.importance import channel_strength, magnitude_scores, taylor_scores
from deblur_deploy.compress.removal import check_removal, remove_channels, weakest
from deblur_deploy.compress.trial import removable_channels
from deblur_deploy.compress.width_cost import WidthCost
from deblur_deploy.config import PruneConfig
from deblur_deploy.core.images import Resolution
from deblur_deploy.network.cost import REFERENCE_RESOLUTION
from deblur_deploy.network.generator import Generator

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Frames:
    """Sizes of the frames that a network is run on.

    Args:
        traced: For following channels, and for the proof that pruning removed nothing else.
        costed: For counting multiply-accumulates.
    """

    traced: Resolution = TRACED
    costed: Resolution = REFERENCE_RESOLUTION

    @classmethod
    def of(cls, net: nn.Module) -> Frames:
        """The usual frames; a generator that needs a larger one is traced with that."""
        if not isinstance(net, Generator):
            return cls()
        height, width = net.padded_size(TRACED.height, TRACED.width)
        return cls(Resolution(width, height))


@dataclass(frozen=True)
class PrunedGroup:
    """Coupled channels, which are kept or removed together, and how many of them were kept.

    Args:
        layers: Names of the layers whose outputs they are.
        before: Channels before pruning.
        after: Channels kept.
        share: ``after / before``, which rounding makes differ from what was asked for.
    """

    layers: tuple[str, ...]
    before: int
    after: int
    share: float


@dataclass(frozen=True)
class PrunePlan:
    """What pruning will do.

    Args:
        groups: Every group, before and after.
        removed: For every group, the channels that go.
        params: Parameters before and after.
        macs: Multiply-accumulates before and after.
        frozen: Channels that pruning cannot follow, and why.
    """

    groups: tuple[PrunedGroup, ...]
    removed: tuple[tuple[int, ...], ...]
    params: tuple[int, int]
    macs: tuple[int, int]
    frozen: tuple[Frozen, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "groups": [vars(group) for group in self.groups],
            "params": {"before": self.params[0], "after": self.params[1]},
            "frozen": [vars(part) for part in self.frozen],
            "gmacs": {name: round(macs / 1e9, 4) for name, macs in zip(("before", "after"), self.macs, strict=True)},
        }


@dataclass(frozen=True)
class Analysis:
    """What pruning knows about a network.

    Args:
        channels: Its groups, and what stays.
        state: Their strengths, and what they cost.
    """

    channels: Channels
    state: WidthState

    @classmethod
    def of(
        cls,
        net: nn.Module,
        config: PruneConfig,
        batches: Iterable[tuple[Tensor, Tensor]] = (),
        before: Analysis | None = None,
        frames: Frames | None = None,
    ) -> Analysis:
        """Follow the channels of a network and rank them.

        Args:
            net: A float network from (1, 3, H, W) to one picture or several; it is left as it is.
            config: Importance and rounding.
            batches: Blurred and sharp crops, each (N, 3, H, W) float32 in [0, 1], for the importance ``taylor``.
            before: What was known before the last round and is now, by :meth:`after`; None where this is the first.
            frames: Sizes of frames that the network takes.

        Raises:
            ConfigError: No channels can be removed, or there are no batches.
            DeblurDeployError: The network gives NaN on a batch.
        """
        frames = frames or Frames.of(net)
        channels = before.channels if before else removable_channels(net, frames.traced)
        groups = channels.groups
        if config.importance == "taylor":
            scores = taylor_scores(net, batches, config.tuning.fit)
        else:
            scores = magnitude_scores(net, 1 if config.importance == "l1" else 2)
        strengths = [channel_strength(group, scores) for group in groups]
        cost = WidthCost(net, groups, frames.costed)
        original = before.state.original if before else cost.channels
        return cls(channels, WidthState(cost, strengths, original, config.round_to))

    def after(self, plan: PrunePlan) -> Analysis:
        """The same groups in the network that a plan has left; their strengths are those of before."""
        left = Channels(without(self.channels.groups, plan.removed), self.channels.frozen)
        return Analysis(left, self.state)

    def plan(self, config: PruneConfig, curves: Mapping[int, Curve] | None = None) -> PrunePlan:
        """Decide which channels go.

        Args:
            config: Budget, scope and allocation.
            curves: What the channels of each group are worth, for the allocation by sensitivity.

        Raises:
            ConfigError: The budget cannot be met.
        """
        widths = choose_widths(self.state, config, curves)
        groups = tuple(
            PrunedGroup(group.layers, group.channels, width, round(width / group.channels, 4))
            for group, width in zip(self.channels.groups, widths, strict=True)
        )
        removed = tuple(tuple(weakest(*of_group)) for of_group in zip(self.state.strengths, widths, strict=True))
        cost, before = self.state.cost, self.state.present
        return PrunePlan(
            groups,
            removed,
            (cost.measure("params", before), cost.measure("params", widths)),
            (cost.measure("macs", before), cost.measure("macs", widths)),
            self.channels.frozen,
        )

    def carry_out(self, net: N, plan: PrunePlan, frames: Frames | None = None) -> N:
        """The network of a plan, held against the unpruned one.

        Raises:
            ConfigError: The pruned network does not run.
            VerificationError: Its output differs from the unpruned one's with zeros for what was removed.
        """
        groups = self.channels.groups
        small = remove_channels(net, groups, plan.removed)
        check_removal(net, small, groups, plan.removed, (frames or Frames.of(net)).traced)
        return small


def prune_network(
    net: N,
    config: PruneConfig,
    batches: Iterable[tuple[Tensor, Tensor]] = (),
    frames: Frames | None = None,
) -> tuple[N, PrunePlan]:
    """Remove the weakest channels of any network in one go, without a scan and without fine-tuning.

    Args:
        net: A float network from (1, 3, H, W) to one picture or several; it is left as it is. Where it has a
            ``forward_once``, channels are followed through that.
        config: Budget, importance and scope.
        batches: Blurred and sharp crops, each (N, 3, H, W) float32 in [0, 1], for the importance ``taylor``.
        frames: Sizes of frames that the network takes.

    Returns:
        A pruned copy, whose layers have fewer channels and are the same otherwise, and what was done.

    Raises:
        ConfigError: The budget cannot be met, or no channels can be removed.
        DeblurDeployError: The network gives NaN on a batch.
    """
    analysis = Analysis.of(net, config, batches, frames=frames)
    plan = analysis.plan(config)
    return analysis.carry_out(net, plan, frames), plan
