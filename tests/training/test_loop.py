"""The training loop: it learns, averages, follows its rates, repeats itself, and stops before it does damage."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Iterator
from itertools import repeat

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.config import FitConfig, ShakeConfig
from deblur_deploy.core.errors import ConfigError, DeblurDeployError
from deblur_deploy.data.shake import shake
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.training.loop import fit
from deblur_deploy.training.losses import Objective

Pair = tuple[Tensor, Tensor]


class Brightness(nn.Module):
    """Adds one number to the picture: a network whose training can be worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.add = nn.Parameter(torch.zeros(()))

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        return [blurred + self.add]


class FlatSpot(Brightness):
    """Its picture is finite, the derivative of its picture is not."""

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        return [blurred + torch.sqrt(self.add)]


class Gain(Brightness):
    """Its gradient is the brightness of the picture."""

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        return [blurred * self.add]


@pytest.fixture
def pair(photo: NDArray[np.uint8]) -> Pair:
    """A blurred and a sharp crop, each (1, 3, 64, 64)."""
    shaken = shake(photo[40:104, 60:124], ShakeConfig(length_px=(8.0, 8.0)), np.random.default_rng(0))
    blurred, sharp = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in shaken)
    return blurred, sharp


def new_network(config: SRNConfig) -> SRN:
    torch.manual_seed(0)
    return SRN(config)


def reconstruction_loss(
    net: nn.Module, blurred: Tensor, sharp: Tensor, config: FitConfig, teacher: nn.Module | None
) -> Tensor:
    return torch.stack(
        list(Objective(config, teacher=teacher).terms(net.forward_scales(blurred), blurred, sharp).values())
    ).sum()


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def far_below() -> Pair:
    """A pair that pulls every added number upwards by the same gradient, however far it has come."""
    return torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 1e3)


def test_the_loss_goes_down(tiny_config: SRNConfig, pair: Pair) -> None:
    net = new_network(tiny_config)
    losses: list[float] = []
    config = FitConfig(steps=30, crop=64, lr=3e-3, warmup=3, ema_decay=0.0)
    report = fit(net, repeat(pair), config, on_step=lambda step, loss: losses.append(loss))
    after = float(reconstruction_loss(net, *pair, config, None).detach())
    assert after < 0.99 * losses[0]
    assert max(losses[-5:]) < min(losses[:5])
    assert report.loss == pytest.approx(sum(losses[-3:]) / 3)
    assert not net.training


def test_the_report_and_the_callback_tell_what_happened(tiny_config: SRNConfig, pair: Pair) -> None:
    seen: list[tuple[int, float]] = []
    report = fit(
        new_network(tiny_config), repeat(pair), FitConfig(steps=3), on_step=lambda step, loss: seen.append((step, loss))
    )
    assert [step for step, _ in seen] == [1, 2, 3]
    assert report.steps == 3
    assert report.loss == seen[-1][1]
    assert 0 <= report.data_seconds < report.seconds


def test_zero_steps_change_nothing(tiny_config: SRNConfig) -> None:
    net = new_network(tiny_config)
    before = weights_of(net)
    report = fit(net, [], FitConfig(steps=0))
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert report.steps == 0
    assert report.loss is None
    json.dumps(dataclasses.asdict(report), allow_nan=False)


def test_the_same_start_gives_the_same_weights(tiny_config: SRNConfig, pair: Pair) -> None:
    first, second = new_network(tiny_config), new_network(tiny_config)
    for net in (first, second):
        fit(net, repeat(pair), FitConfig(steps=4))
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_average_replaces_the_weights() -> None:
    net = Brightness()
    after_step: list[float] = []
    config = FitConfig(steps=5, ema_decay=0.35)
    fit(net, repeat(far_below()), config, on_step=lambda step, loss: after_step.append(net.add.item()))
    average = 0.0  # where the weight started
    # The decay starts at 2/11 and grows as 3/12, 4/13, ... until the configured one takes over.
    for decay, weight in zip((2 / 11, 3 / 12, 4 / 13, 0.35, 0.35), after_step, strict=True):
        average = decay * average + (1 - decay) * weight
    assert net.add.item() == pytest.approx(average, rel=1e-6)
    assert net.add.item() < after_step[-1]


def test_without_average_the_last_weights_stay() -> None:
    net = Brightness()
    after_step: list[float] = []
    fit(
        net,
        repeat(far_below()),
        FitConfig(steps=4, ema_decay=0.0),
        on_step=lambda step, loss: after_step.append(net.add.item()),
    )
    assert net.add.item() == after_step[-1]


def test_the_rate_warms_up_and_follows_a_cosine() -> None:
    """With a constant gradient every step of Adam is as long as the learning rate."""
    net = Brightness()
    track = [0.0]
    config = FitConfig(steps=50, lr=1e-2, lr_final=1e-4, warmup=4, ema_decay=0.0)
    fit(net, repeat(far_below()), config, on_step=lambda step, loss: track.append(net.add.item()))
    rates = np.diff(track)
    expected = [1e-2 * (n + 1) / 5 for n in range(4)]
    expected += [1e-4 + (1e-2 - 1e-4) * (1 + math.cos(math.pi * n / 46)) / 2 for n in range(46)]
    np.testing.assert_allclose(rates, expected, rtol=2e-3)


def pairs_of_gradient(*gradients: float) -> Iterator[Pair]:
    """Pairs that pull the number of a ``Gain`` upwards by these gradients."""
    return iter([(torch.full((1, 3, 16, 16), size), torch.full((1, 3, 16, 16), 1e9)) for size in gradients])


def test_a_run_that_stops_early_is_the_beginning_of_the_whole_one(tiny_config: SRNConfig, pair: Pair) -> None:
    whole = FitConfig(steps=6, batch=1, crop=64, lr=1e-3, warmup=1, ema_decay=0)
    seen: list[list[float]] = [[], []]
    for losses, stop_at in zip(seen, (None, 3), strict=True):
        config = dataclasses.replace(whole, stop_at=stop_at)
        fit(new_network(tiny_config), repeat(pair), config, on_step=lambda step, loss, to=losses: to.append(loss))
    assert len(seen[0]) == 6
    assert seen[1] == seen[0][:3]
    with pytest.raises(ConfigError, match="stop_at is 7"):
        dataclasses.replace(whole, stop_at=7)


def test_only_gradients_above_the_norm_are_scaled_down() -> None:
    net = Gain()
    gradients: list[float] = []

    def read_gradient(step: int, loss: float) -> None:
        assert net.add.grad is not None
        gradients.append(-net.add.grad.item())

    fit(net, pairs_of_gradient(0.25, 4.0, 1e4), FitConfig(steps=3, clip_norm=2.0), on_step=read_gradient)
    assert gradients == pytest.approx([0.25, 2.0, 2.0], rel=1e-4)


def test_clipping_keeps_one_wild_picture_from_changing_the_steps() -> None:
    """Adam's steps are as long as the learning rate while gradients are alike, and clipping makes these alike."""
    net = Gain()
    track = [0.0]
    config = FitConfig(steps=4, lr=1e-3, lr_final=1e-3, warmup=0, clip_norm=1.0, ema_decay=0.0)
    pairs = pairs_of_gradient(1.0, 1e4, 1.0, 1e4)
    fit(net, pairs, config, on_step=lambda step, loss: track.append(net.add.item()))
    np.testing.assert_allclose(np.diff(track), 1e-3, rtol=2e-3)


def test_a_nan_in_the_pictures_stops_the_run(tiny_config: SRNConfig, pair: Pair) -> None:
    net = new_network(tiny_config)
    damaged = pair[0].clone()
    damaged[0, 1, 5, 5] = math.nan
    after_first: list[dict[str, Tensor]] = []
    with pytest.raises(DeblurDeployError, match="the loss became nan at step 2") as error:
        fit(
            net,
            iter([pair, (damaged, pair[1])]),
            FitConfig(steps=2),
            on_step=lambda step, loss: after_first.append(weights_of(net)),
        )
    assert "learning rate" in error.value.hint
    assert len(after_first) == 1
    assert all(torch.equal(p, after_first[0][name]) for name, p in net.named_parameters())


def test_a_gradient_that_is_no_number_does_not_reach_the_weights() -> None:
    net = FlatSpot()
    with pytest.raises(DeblurDeployError, match=r"the gradient became (nan|inf) at step 1"):
        fit(net, repeat(far_below()), FitConfig(steps=3))
    assert net.add.item() == 0


def test_frozen_weights_stay(tiny_config: SRNConfig, pair: Pair) -> None:
    net = new_network(tiny_config)
    net.head.requires_grad_(False)
    before = weights_of(net)
    fit(net, repeat(pair), FitConfig(steps=2))
    changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert not {name for name in changed if name.startswith("head.")}


def test_every_scale_counts(tiny_config: SRNConfig, pair: Pair) -> None:
    net = new_network(tiny_config)
    blurred, sharp = pair
    with torch.inference_mode():
        coarse, middle, fine = net.forward_scales(blurred)
        expected = F.l1_loss(fine, sharp)
        expected += 0.25 * F.l1_loss(middle, F.avg_pool2d(sharp, 2))
        expected += 0.25 * F.l1_loss(coarse, F.avg_pool2d(sharp, 4))
        actual = reconstruction_loss(net, blurred, sharp, FitConfig(coarse_weight=0.25), None)
    torch.testing.assert_close(actual, expected)


def test_a_teacher_pulls_the_picture_towards_its_own(tiny_config: SRNConfig, pair: Pair) -> None:
    net = new_network(tiny_config).eval()
    teacher = copy.deepcopy(net)
    nn.init.constant_(teacher.head.bias, 0.125)  # the same picture, brighter by an eighth
    config = FitConfig(distill_weight=0.5)
    alone = reconstruction_loss(net, *pair, config, None)
    taught = reconstruction_loss(net, *pair, config, teacher)
    # The three passes hand the brighter estimate on, so it is brighter by about an eighth, not exactly.
    assert float((taught - alone).detach()) == pytest.approx(0.5 * 0.125, rel=0.2)
    taught.backward()
    assert all(p.grad is None for p in teacher.parameters())
