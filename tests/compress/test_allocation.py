"""Budgets: what the arithmetic says a width costs, and that widths come as near to a budget as rounding lets them."""

from __future__ import annotations

import pytest
import torch

from deblur_deploy.compress.allocation import check_reachable
from deblur_deploy.compress.plan import Analysis, prune_network
from deblur_deploy.config import PruneConfig
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.network.cost import measure_cost


def analysis_of(net, frames, **options) -> tuple[Analysis, PruneConfig]:
    config = PruneConfig(**{"round_to": 4, "importance": "l2", **options})
    return Analysis.of(net, config, frames=frames), config


def share_left(analysis: Analysis, kind: str, widths) -> float:
    state = analysis.state
    return state.cost.measure(kind, widths) / state.cost.measure(kind, state.present)


def test_the_arithmetic_agrees_with_the_pruned_network(any_net, frames):
    small, plan = prune_network(any_net, PruneConfig(keep=0.6, round_to=4, importance="l2"), frames=frames)

    for network, params, macs in ((any_net, plan.params[0], plan.macs[0]), (small, plan.params[1], plan.macs[1])):
        cost = measure_cost(network, frames.costed)
        assert cost["params"] == params
        assert cost["gmacs"] == round(macs / 1e9, 4)


def test_the_arithmetic_counts_every_multiplication(unet, frames):
    analysis, _ = analysis_of(unet, frames)
    plane = 32 * 32

    assert [group.layers[0] for group in analysis.channels.groups] == ["down1.0", "down2.0", "mix.1", "up", "fuse"]
    assert analysis.state.cost.measure("keep", [8, 16, 16, 8, 4]) == 52
    assert analysis.state.cost.measure("macs", [8, 16, 16, 8, 4]) == (
        3 * 8 * 9 * plane + (8 * 16 * 9 + 16 * 9 + 16 * 16 + 16 * 8 * 4) * plane // 4 + (16 * 4 * 9 + 4 * 3 * 9) * plane
    )


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("rounding", [(1, 0.5), (4, 0.4), (4, 0.9)])
def test_a_budget_is_met_and_no_group_could_be_wider(any_net, frames, scope, kind, rounding):
    round_to, share = rounding
    analysis, config = analysis_of(any_net, frames, scope=scope, round_to=round_to, **{kind: share})
    widths = [group.after for group in analysis.plan(config).groups]

    assert share_left(analysis, kind, widths) <= share
    for group, width in enumerate(widths):
        assert width == analysis.state.present[group] or width % round_to == 0
        wider = analysis.state.above(group, width)
        if wider > width:
            assert share_left(analysis, kind, [*widths[:group], wider, *widths[group + 1 :]]) > share


def test_local_scope_keeps_the_same_share_everywhere(net):
    plan = analysis_of(net, None, round_to=8, keep=0.7)
    widths = [(group.before, group.after) for group in plan[0].plan(plan[1]).groups]

    assert set(widths) == {(24, 16), (48, 32), (96, 64)}


def test_under_global_scope_the_strongest_channels_win(unet, frames):
    """One group is made to have two channels that matter, and the others are all alike."""
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.fill_(0.1)
        unet.up.weight[:, 2:] = 1e-3
        unet.fuse.weight[:, 16 + 2 :] = 1e-3
    analysis, config = analysis_of(unet, frames, keep=0.8, scope="global", round_to=2)
    widths = dict(zip((g.layers[0] for g in analysis.channels.groups), analysis.plan(config).groups, strict=True))

    assert widths["up"].after == 2
    assert sum(group.after for group in widths.values()) <= 0.8 * (16 + 32 + 32 + 24 + 16)
    assert all(group.share > 0.9 for name, group in widths.items() if name not in ("up", "fuse"))


def test_every_group_keeps_at_least_one_multiple(unet, frames):
    for scope in ("local", "global"):
        analysis, config = analysis_of(unet, frames, params=0.25, scope=scope, round_to=8)
        assert min(group.after for group in analysis.plan(config).groups) >= 8
    local, config = analysis_of(unet, frames, keep=0.01, round_to=8)
    assert {group.after for group in local.plan(config).groups} == {8}


def test_a_group_smaller_than_a_multiple_stays_whole(unet, frames):
    analysis, config = analysis_of(unet, frames, keep=0.5, round_to=20)

    assert {(group.before, group.after) for group in analysis.plan(config).groups} == {(16, 16), (24, 20), (32, 20)}


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_a_budget_out_of_reach_names_the_smallest_that_is_not(net, kind):
    analysis, config = analysis_of(net, None, round_to=8, **{kind: 0.01})

    with pytest.raises(ConfigError, match=rf"{kind} 0\.01 cannot be met: with one multiple of 8 channels") as caught:
        analysis.plan(config)
    reachable = float(caught.value.hint.split()[2])
    check_reachable(analysis.state, kind, reachable)
    with pytest.raises(ConfigError):
        check_reachable(analysis.state, kind, reachable - 0.001)


def test_sensitivity_takes_channels_where_they_cost_the_least(unet, frames):
    """Two groups are dear and the others free: the free ones go first, and to the end."""
    dear = {0: lambda width: (16 - width) * 1.0, 4: lambda width: (16 - width) * 2.0}
    curves = {group: dear.get(group, lambda width: 0.0) for group in range(5)}

    def widths_at(share: float) -> list[int]:
        analysis, config = analysis_of(unet, frames, macs=share, allocation="sensitivity")
        widths = [group.after for group in analysis.plan(config, curves).groups]
        assert share_left(analysis, "macs", widths) <= share
        return widths

    assert widths_at(0.5)[::4] == [16, 16]
    assert widths_at(0.2)[1:4] == [4, 4, 4]
    assert widths_at(0.2)[4] > widths_at(0.2)[0]
    assert widths_at(0.2) == widths_at(0.2)


def test_sensitivity_prefers_the_step_that_saves_more_for_the_same_loss(unet, frames):
    analysis, config = analysis_of(unet, frames, macs=0.98, allocation="sensitivity")
    curves = {group: lambda width: -0.01 * width for group in range(5)}
    state = analysis.state
    full = state.cost.measure("macs", state.present)
    saved = []
    for group, width in enumerate(state.present):
        narrow = [*state.present[:group], width - 4, *state.present[group + 1 :]]
        saved.append(full - state.cost.measure("macs", narrow))

    widths = [group.after for group in analysis.plan(config, curves).groups]

    best = saved.index(max(saved))
    assert widths == [width - 4 * (group == best) for group, width in enumerate(state.present)]


@pytest.mark.parametrize("allocation", ["uniform", "sensitivity"])
def test_a_share_of_one_removes_nothing(unet, frames, allocation):
    analysis, config = analysis_of(unet, frames, macs=1.0, allocation=allocation)
    plan = analysis.plan(config)

    assert not any(plan.removed)
    assert plan.params[0] == plan.params[1]
