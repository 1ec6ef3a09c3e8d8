"""Feature distillation: attention maps against figures worked out by hand, and that training follows them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from deblur_deploy.config import FitConfig
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.network.srn import SCALES, SRN, SRNConfig
from deblur_deploy.training.loop import fit
from deblur_deploy.training.losses import FeatureMatch, FeatureTap, Objective, attention_distance


def new_network(config: SRNConfig, seed: int) -> SRN:
    torch.manual_seed(seed)
    return SRN(config).eval()


def test_the_distance_is_that_of_unit_maps_of_energy() -> None:
    """Energies (3, 4) and (1, 0) as unit vectors are (0.6, 0.8) and (1, 0)."""
    student = torch.tensor([3.0, 4.0]).sqrt().view(1, 1, 1, 2)
    teacher = torch.tensor([[5.0, 0.0], [12.0, 0.0]]).view(1, 2, 1, 2)

    assert float(attention_distance(student, teacher)) == pytest.approx(0.4**2 + 0.8**2)


def test_brightness_and_the_number_of_channels_do_not_count() -> None:
    features = torch.rand(2, 4, 5, 6)

    assert float(attention_distance(features, 3 * features.repeat(1, 2, 1, 1))) == pytest.approx(0, abs=1e-10)


def test_dead_features_have_a_finite_gradient_and_the_teacher_none() -> None:
    student, teacher = torch.zeros(1, 2, 3, 3, requires_grad=True), torch.rand(1, 4, 3, 3, requires_grad=True)

    attention_distance(student, teacher).backward()

    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())
    assert teacher.grad is None


def test_a_tap_keeps_every_scale_and_leaves_no_trace(tiny_config: SRNConfig) -> None:
    net = new_network(tiny_config, 0)
    tap = FeatureTap(net, net.feature_layers)
    net.forward_scales(torch.rand(1, 3, 32, 32))
    seen = tap.take()
    tap.remove()
    net.forward_scales(torch.rand(1, 3, 32, 32))

    assert len(seen) == SCALES * len(net.feature_layers)
    assert [tuple(features.shape[1:]) for features in seen[:4]] == [(8, 8, 8), (16, 4, 4), (32, 2, 2), (32, 2, 2)]
    assert tap.take() == []
    assert not any(module._forward_hooks for module in net.modules())


def test_a_student_with_fewer_channels_learns_to_look_where_its_teacher_does(tiny_config: SRNConfig) -> None:
    teacher = new_network(SRNConfig.from_base(16, (1, 1, 1)), 1)
    frame = torch.rand(1, 3, 64, 64)
    distances = {}
    for weight in (0.0, 20.0):
        student = new_network(tiny_config, 2)
        config = FitConfig(
            steps=12, crop=64, lr=2e-3, warmup=1, ema_decay=0.0, distill_weight=0.0, feature_weight=weight
        )
        fit(student, itertools.repeat((frame, frame)), config, teacher)
        assert not any(module._forward_hooks for net in (student, teacher) for module in net.modules())
        with torch.no_grad(), FeatureMatch(student, teacher) as match:
            student(frame)
            teacher(frame)
            distances[weight] = float(match.loss())

    assert distances[20.0] < 0.7 * distances[0.0]


def test_features_are_a_term_of_their_own_where_they_are_matched(tiny_config: SRNConfig) -> None:
    student, teacher = new_network(tiny_config, 3), new_network(tiny_config, 4)
    frame = torch.rand(1, 3, 64, 64)
    objective = Objective(FitConfig(feature_weight=2.0), teacher=teacher)
    assert objective.terms(student.forward_scales(frame), frame, frame).keys() == {"content", "distillation"}

    with FeatureMatch(student, teacher) as objective.match:
        term = objective.terms(student.forward_scales(frame), frame, frame)["features"]
        student.forward_scales(frame)
        teacher(frame)
        assert float(term.detach()) == pytest.approx(2 * float(objective.match.loss().detach()), rel=1e-5)


def test_a_teacher_without_feature_layers_is_refused(tiny_config: SRNConfig) -> None:
    net = new_network(tiny_config, 0)

    with pytest.raises(ConfigError, match="feature layers") as caught:
        fit(net, [], FitConfig(steps=0, feature_weight=0.1), nn.Identity())
    assert "feature_weight = 0" in caught.value.hint
