"""Drift: differences worked out by hand, and nothing where there is no difference."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.network.drift import Drift, measure_drift
from deblur_deploy.network.srn import SRN, SRNConfig


@pytest.fixture
def net() -> SRN:
    torch.manual_seed(0)
    return SRN(SRNConfig.from_base(4, (1, 1, 1))).eval()


@pytest.fixture
def frame() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((1, 3, 30, 40), np.float32)


def shifted(net: SRN, by: float) -> SRN:
    """The network with a constant added to what each pass adds to its image."""
    other = copy.deepcopy(net)
    assert other.head.bias is not None
    torch.nn.init.constant_(other.head.bias, by)
    return other


def test_a_network_does_not_drift_from_itself(net: SRN, frame: NDArray[np.float32]) -> None:
    drift = measure_drift(net, copy.deepcopy(net), [frame], applications=3)
    assert drift == Drift((0.0,) * 3, (0.0,) * 3)
    assert drift.growth == 1.0


def test_a_constant_error_of_a_network_that_looks_at_nothing_else_stays(net: SRN, frame: NDArray[np.float32]) -> None:
    torch.nn.init.zeros_(net.head.weight)  # every pass gives its image plus the bias
    drift = measure_drift(net, shifted(net, 0.25), [frame, frame[..., :17]], applications=4)
    assert drift.scales == pytest.approx((0.25,) * 3, rel=1e-5)
    assert drift.applications == pytest.approx((0.25,) * 4, rel=1e-5)
    assert drift.growth == pytest.approx(1.0, rel=1e-5)


def test_an_error_that_each_pass_hands_on_is_seen_to_grow(net: SRN, frame: NDArray[np.float32]) -> None:
    class Adding(SRN):
        """Adds a constant to its previous estimate, whatever the image is."""

        def forward_one_scale(
            self, image: torch.Tensor, previous: torch.Tensor, state: torch.Tensor | None, *_: torch.Tensor | None
        ) -> tuple[torch.Tensor, torch.Tensor]:
            assert self.head.bias is not None
            return previous + self.head.bias.view(3, 1, 1), image if state is None else state

    first, second = Adding(net.config), Adding(net.config)
    second.load_state_dict(shifted(first, 0.5).state_dict())
    drift = measure_drift(first, second, [frame], applications=6)
    assert drift.scales == pytest.approx((0.5, 1.0, 1.5), rel=1e-5)
    assert drift.applications == pytest.approx([0.5 * n for n in range(1, 7)], rel=1e-5)
    assert drift.growth == pytest.approx(6.0, rel=1e-5)


def test_growth_from_nothing_is_infinite() -> None:
    assert Drift((0.0, 0.0, 0.0), (0.0, 0.1)).growth == float("inf")
