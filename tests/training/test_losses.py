"""Every loss by hand, and what each of them needs."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.config import FitConfig, LossConfig
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.training.discriminator import MultiScaleDiscriminator
from deblur_deploy.training.losses import (
    Objective,
    VGG19Features,
    frequency_loss,
    load_vgg19,
    multi_scale,
    perceptual_loss,
)


def flat(value: float, side: int = 16) -> Tensor:
    return torch.full((2, 3, side, side), value)


def noise(seed: int, side: int = 32) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def vgg_file(tmp_path: Path) -> Path:
    """Random weights under torchvision's names, with a later layer and a classifier as its file has."""
    torch.manual_seed(0)
    state = VGG19Features().state_dict()
    state |= {"features.16.weight": torch.zeros(256, 256, 3, 3), "classifier.0.bias": torch.zeros(8)}
    save_file(state, tmp_path / "vgg19.safetensors")
    return tmp_path / "vgg19.safetensors"


def test_multi_scale_supervision_by_hand() -> None:
    estimates = [flat(0.5, 4), flat(0.3, 8), flat(0.1, 16)]
    assert float(multi_scale(estimates, flat(0.0), 0.5)) == pytest.approx(0.1 + 0.5 * (0.3 + 0.5))


def test_the_frequency_loss_of_a_flat_difference_is_all_at_zero() -> None:
    # One of H x (W/2 + 1) coefficients, of H x W x 0.25, in the real half of the numbers.
    expected = 16 * 16 * 0.25 / (16 * 9 * 2)
    assert float(frequency_loss(flat(0.5), flat(0.25))) == pytest.approx(expected)


def test_the_frequency_loss_of_a_wave() -> None:
    wave = torch.cos(2 * torch.pi * 3 * torch.arange(16) / 16).expand(1, 3, 16, 16)
    # cos puts half of H x W at the frequencies +3 and -3, of which the half transform keeps one.
    assert float(frequency_loss(wave, torch.zeros_like(wave))) == pytest.approx(16 * 16 / 2 / (16 * 9 * 2), rel=1e-4)


def test_vgg19_has_torchvisions_names_and_shapes() -> None:
    names = [name for name in VGG19Features().state_dict() if name.endswith("weight")]
    assert names == [f"features.{index}.weight" for index in (0, 2, 5, 7, 10, 12, 14)]
    assert VGG19Features()(noise(0)).shape == (2, 256, 8, 8)


def test_vgg19_loads_and_leaves_out_what_it_does_not_use(vgg_file: Path) -> None:
    net = load_vgg19(vgg_file)
    torch.manual_seed(0)
    assert torch.equal(net(noise(1)), VGG19Features()(noise(1)))
    assert not any(p.requires_grad for p in net.parameters())


def test_the_perceptual_loss_by_hand() -> None:
    """A VGG whose every convolution hands channel 0 on: what is left is the red channel's normalised difference."""
    net = VGG19Features()
    for layer in net.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            layer.weight[0, 0, 1, 1] = 1.0
    # Above the mean (0.485), so that no ReLU cuts; one channel of 256 differs, by 0.1 / 0.229.
    loss = perceptual_loss(net, flat(0.7), flat(0.6))
    assert float(loss) == pytest.approx((0.1 / 0.229) ** 2 / 256, rel=1e-5)


def test_the_perceptual_loss_moves_the_estimate_only(vgg_file: Path) -> None:
    estimate = noise(0).requires_grad_()
    perceptual_loss(load_vgg19(vgg_file), estimate, noise(1)).backward()
    assert estimate.grad is not None
    assert estimate.grad.abs().sum() > 0
    assert float(perceptual_loss(load_vgg19(vgg_file), noise(1), noise(1))) == 0


def test_without_a_vgg_file_the_error_says_both_ways_out() -> None:
    with pytest.raises(ConfigError, match="needs VGG19 weights") as error:
        load_vgg19(None)
    assert "--vgg-weights" in error.value.hint
    assert "perceptual = 0" in error.value.hint


@pytest.mark.parametrize("damage", ["missing", "misshapen"])
def test_another_networks_weights_are_refused(vgg_file: Path, damage: str, tmp_path: Path) -> None:
    state = VGG19Features().state_dict()
    if damage == "missing":
        del state["features.12.weight"]
    else:
        state["features.12.weight"] = torch.zeros(8, 8, 3, 3)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ArtifactError, match=r"features\.12\.weight"):
        load_vgg19(tmp_path / "other.safetensors")


def constant_discriminator(value: float) -> MultiScaleDiscriminator:
    net = MultiScaleDiscriminator(base=4)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    for scale in net.scales:
        nn.init.constant_(scale.layers[-1].bias, value)
    return net


def test_the_least_squares_losses_by_hand() -> None:
    net = constant_discriminator(0.3)
    assert float(net.fooling_loss(noise(0))) == pytest.approx(0.5 * 0.7**2)
    assert float(net.telling_loss(noise(0), noise(1), 0.0).detach()) == pytest.approx(0.5 * (0.7**2 + 0.3**2))
    # A verdict that is the same everywhere has no gradient: the penalty is (0 - 1)^2.
    assert float(net.telling_loss(noise(0), noise(1), 10.0).detach()) == pytest.approx(0.5 * (0.7**2 + 0.3**2) + 10)


def test_the_gradient_penalty_of_a_linear_discriminator_by_hand() -> None:
    class Linear(MultiScaleDiscriminator):
        def forward(self, image: Tensor) -> list[Tensor]:
            return [2.0 * image]

    # The mean of 2x over 3 x 4 x 4 numbers has the gradient 2/48 everywhere, of norm 2/48 sqrt(48).
    expected = (2 / 48**0.5 - 1) ** 2
    assert float(Linear(4).gradient_penalty(noise(0, 4), noise(1, 4)).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_discriminator_judges_on_two_scales() -> None:
    assert [tuple(v.shape) for v in MultiScaleDiscriminator(4)(noise(0, 64))] == [(2, 1, 8, 8), (2, 1, 4, 4)]


def test_each_player_moves_its_own_weights() -> None:
    net, restored = MultiScaleDiscriminator(4), noise(0).requires_grad_()
    net.fooling_loss(restored).backward()
    assert restored.grad is not None
    assert all(p.grad is None for p in net.parameters())
    restored.grad = None
    net.telling_loss(restored, noise(1), 10.0).backward()
    assert restored.grad is None
    assert all(p.grad is not None for p in net.parameters())


def test_a_discriminator_learns_to_tell_and_a_picture_to_fool() -> None:
    torch.manual_seed(0)
    net = MultiScaleDiscriminator(8)
    sharp, restored = noise(1), F.avg_pool2d(noise(2), 3, stride=1, padding=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    first = float(net.telling_loss(restored, sharp, 0.0).detach())
    for _ in range(30):
        optimizer.zero_grad()
        net.telling_loss(restored, sharp, 0.0).backward()
        optimizer.step()
    assert float(net.telling_loss(restored, sharp, 0.0).detach()) < 0.8 * first


def test_the_objective_has_the_terms_that_are_switched_on() -> None:
    estimates, sharp = [noise(0, 8), noise(1, 16), noise(2, 32)], noise(3, 32)
    off = Objective(FitConfig(), LossConfig()).terms(estimates, sharp, sharp)
    assert list(off) == ["content"]
    torch.manual_seed(0)
    vgg, critic = VGG19Features(), MultiScaleDiscriminator(4)
    weights = LossConfig(content=2.0, perceptual=0.1, adversarial=0.01, frequency=0.3)
    terms = Objective(FitConfig(coarse_weight=0.25), weights, nn.Identity(), vgg, critic).terms(estimates, sharp, sharp)
    assert set(terms) == {"content", "perceptual", "adversarial", "frequency", "distillation"}
    torch.testing.assert_close(terms["content"], 2 * multi_scale(estimates, sharp, 0.25))
    torch.testing.assert_close(terms["frequency"], 0.3 * multi_scale(estimates, sharp, 0.25, frequency=True))
    torch.testing.assert_close(terms["perceptual"], 0.1 * perceptual_loss(vgg, estimates[-1], sharp))
    torch.testing.assert_close(terms["adversarial"], 0.01 * critic.fooling_loss(estimates[-1]))
    torch.testing.assert_close(terms["distillation"], 0.5 * F.l1_loss(estimates[-1], sharp))


@pytest.mark.parametrize("name", ["perceptual", "adversarial"])
def test_a_loss_without_its_network_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"the {name} loss has no"):
        Objective(FitConfig(), LossConfig(**{name: 0.1}))


@pytest.mark.parametrize("field", ["content", "perceptual", "adversarial", "frequency", "gradient_penalty"])
def test_negative_weights_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} is -1"):
        LossConfig(**{field: -1.0})


def test_a_loss_that_never_sees_the_sharp_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match="no loss looks at the sharp picture"):
        LossConfig(content=0.0, adversarial=1.0)


def test_a_teacher_is_not_trained() -> None:
    teacher = nn.Conv2d(3, 3, 1)
    before = copy.deepcopy(teacher.state_dict())
    estimate = noise(0).requires_grad_()
    terms = Objective(FitConfig(), teacher=teacher).terms([estimate], noise(1), noise(1))
    sum(terms.values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
