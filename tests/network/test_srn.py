"""The generator: any size, the recurrence, three scales, and widths that can be read back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deblur_deploy.network.generator import pad_to_multiple
from deblur_deploy.network.srn import SRN, GatedUnit, ResBlock, SRNConfig, double_size

ODD = SRNConfig((5, 11, 14), ((3, 7), (9,), (13, 2, 6)), 10, (4, 12, 15), (7, 6, 9))
"""A network after an uneven pruning: no two widths need be alike."""

GOLDEN = {(0, 0, 0): 0.045078, (1, 10, 15): 0.432771, (2, 20, 29): -0.425087, (0, 13, 4): -0.018154}
"""Channel, row and column to what one network adds to one image there."""

GOLDEN_MEAN = 0.265629


def network(config: SRNConfig, seed: int = 0) -> SRN:
    """A fresh network whose head and offsets are large enough to show in the picture."""
    torch.manual_seed(seed)
    net = SRN(config).eval()
    torch.nn.init.normal_(net.head.weight, std=0.1)
    torch.nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.1)
    return net


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (33, 50), (16, 1), (64, 48)])
def test_any_size_comes_back_as_it_went_in(tiny_config: SRNConfig, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        restored = network(tiny_config)(torch.rand(2, 3, *size))
    assert restored.shape == (2, 3, *size)
    assert torch.isfinite(restored).all()


def test_sizes_in_between_are_padded_by_repeating_the_border(tiny_config: SRNConfig) -> None:
    net = network(tiny_config)
    image = torch.rand(1, 3, 20, 30)
    by_hand = torch.cat([image, image[..., -1:].expand(-1, -1, -1, 2)], dim=3)
    by_hand = torch.cat([by_hand, by_hand[:, :, -1:].expand(-1, -1, 12, -1)], dim=2)
    assert torch.equal(pad_to_multiple(image, 16), by_hand)
    with torch.inference_mode():
        assert torch.equal(net(image), net(by_hand)[..., :20, :30])


@pytest.mark.parametrize("config", [SRNConfig.from_base(8, (1, 1, 1)), ODD])
def test_multiples_of_16_are_not_padded(config: SRNConfig) -> None:
    net = network(config)
    image = torch.rand(1, 3, 48, 32)
    with torch.inference_mode():
        assert torch.equal(net(image), net.forward_scales(image)[-1])


def test_estimates_go_from_coarse_to_fine(tiny_config: SRNConfig) -> None:
    with torch.inference_mode():
        estimates = network(tiny_config).forward_scales(torch.rand(1, 3, 64, 96))
    assert [tuple(estimate.shape[2:]) for estimate in estimates] == [(16, 24), (32, 48), (64, 96)]


def test_three_scales_share_their_weights_and_hand_on_estimate_and_state(tiny_config: SRNConfig) -> None:
    net = network(tiny_config)
    image = torch.rand(1, 3, 32, 48)
    half = F.avg_pool2d(image, 2)
    quarter = F.avg_pool2d(half, 2)
    with torch.inference_mode():
        coarse, state = net.forward_one_scale(quarter, quarter, None)
        middle, state = net.forward_one_scale(half, double_size(coarse), double_size(state))
        fine, _ = net.forward_one_scale(image, double_size(middle), double_size(state))
        for actual, expected in zip(net.forward_scales(image), (coarse, middle, fine), strict=True):
            torch.testing.assert_close(actual, expected)


def test_the_gated_unit_follows_its_formula() -> None:
    torch.manual_seed(0)
    unit = GatedUnit(6, 4)
    x, state = torch.randn(2, 6, 7, 5), torch.randn(2, 4, 7, 5)
    candidate = F.relu(F.conv2d(x, unit.candidate.weight, unit.candidate.bias, padding=1))
    gate_input = torch.cat([candidate, state], dim=1)
    gate = torch.sigmoid(F.conv2d(gate_input, unit.gate.weight, unit.gate.bias, padding=1))
    torch.testing.assert_close(unit(x, state), gate * candidate + (1 - gate) * state)
    torch.testing.assert_close(unit(x, None), candidate)


def test_the_state_changes_what_a_scale_gives(tiny_config: SRNConfig) -> None:
    net = network(tiny_config)
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        _, state = net.forward_one_scale(image, image, None)
        same, _ = net.forward_one_scale(image, image, state)
        other, _ = net.forward_one_scale(image, image, state + 1)
    assert not torch.allclose(same, other, atol=1e-4)


def test_the_traceable_single_scale_is_one_scale_with_its_candidate_as_state(tiny_config: SRNConfig) -> None:
    net = network(tiny_config)
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        coarsest, _ = net.forward_one_scale(image, image, None)
        torch.testing.assert_close(net.forward_once(image), coarsest)


@pytest.mark.parametrize("config", [SRNConfig.from_base(8), SRNConfig.from_base(24, (3, 0, 2)), ODD])
def test_widths_are_read_back_from_the_weights(config: SRNConfig) -> None:
    state = SRN(config).state_dict()
    assert SRNConfig.from_shapes({name: tensor.shape for name, tensor in state.items()}) == config


def test_a_missing_tensor_is_named(tiny_config: SRNConfig) -> None:
    shapes = {name: tensor.shape for name, tensor in SRN(tiny_config).state_dict().items()}
    del shapes["recurrent.candidate.weight"]
    with pytest.raises(KeyError, match=r"recurrent\.candidate\.weight"):
        SRNConfig.from_shapes(shapes)


def test_widths_and_depths_of_the_family() -> None:
    config = SRNConfig.from_base(24, (2, 3, 1))
    assert config.level_channels == (24, 48, 96)
    assert config.block_channels == ((24, 24), (48, 48, 48), (96,))
    assert config.recurrent_channels == 96
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.recurrent_channels = 8  # type: ignore[misc]


@pytest.mark.parametrize("config", [SRNConfig.from_base(8, (1, 1, 1)), ODD])
def test_a_gradient_reaches_every_parameter(config: SRNConfig) -> None:
    net = network(config)
    target = torch.rand(1, 3, 32, 32)
    loss = (net.forward_scales(torch.rand(1, 3, 32, 32))[-1] - target).square().mean()
    loss.backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
    assert without == []


def test_a_fresh_network_starts_near_the_blurred_image(tiny_config: SRNConfig) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        restored: Tensor = SRN(tiny_config)(image)
    assert (restored - image).abs().mean() < 0.02


def test_dilations_of_the_residual_blocks_alternate() -> None:
    net = SRN(SRNConfig.from_base(8, (4, 3, 1)))
    blocks = [[block for block in level.modules() if isinstance(block, ResBlock)] for level in net.levels]
    expected = [[(d, d) for d in row] for row in ([1, 2, 1, 2], [1, 2, 1], [1])]
    assert [[block.conv1.dilation for block in level] for level in blocks] == expected
    assert [[block.conv1.padding for block in level] for level in blocks] == expected
    assert {block.conv2.dilation for level in blocks for block in level} == {(1, 1)}


def test_the_picture_is_the_one_it_always_was() -> None:
    """Weights and image come from NumPy, whose generators give the same numbers on every machine."""
    rng = np.random.default_rng(2_018)
    net = SRN(SRNConfig.from_base(4, (2, 2, 1))).eval()
    with torch.inference_mode():
        for _, parameter in sorted(net.named_parameters()):
            spread = 0.8 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.from_numpy(rng.normal(0.0, spread, parameter.shape)))
        image = torch.from_numpy(rng.random((1, 3, 21, 30), dtype=np.float32))
        change = net(image) - image
    picked = [change[0, channel, row, column].item() for channel, row, column in GOLDEN]
    assert picked == pytest.approx(list(GOLDEN.values()), abs=1e-4)
    assert float(change.abs().mean()) == pytest.approx(GOLDEN_MEAN, abs=1e-4)


def test_doubling_is_bilinear() -> None:
    row = torch.tensor([0.0, 4.0]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(double_size(row), torch.tensor([[0.0, 1.0, 3.0, 4.0]] * 2).reshape(1, 1, 2, 4))


def test_a_fresh_network_hears_its_coarse_levels() -> None:
    torch.manual_seed(0)
    net = SRN(SRNConfig.from_base(8, (2, 3, 3)))
    sizes: dict[str, float] = {}
    for name in ("lateral.0", "up.0"):
        layer = net.pyramid.get_submodule(name)
        layer.register_forward_hook(
            lambda _, __, output, name=name: sizes.update({name: float(output.std(dim=(2, 3)).mean())})
        )
    with torch.no_grad():
        net(torch.rand(1, 3, 64, 64))
    assert 0.3 < sizes["up.0"] / sizes["lateral.0"] < 10
