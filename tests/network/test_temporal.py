"""The temporal SRN: the frame before by its motion, and exactly an SRN where there is none."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from deblur_deploy.core.artifact import new_step
from deblur_deploy.network.checkpoint import import_checkpoint, load_network, save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.network.steps import flow_size
from deblur_deploy.network.temporal import (
    FrameBefore,
    TemporalStep,
    forward_frame,
    make_temporal,
    state_shape,
)
from deblur_deploy.network.warp import warp

HEIGHT, WIDTH = 64, 96


@pytest.fixture
def net(soften) -> SRN:
    torch.manual_seed(4)
    net = SRN(SRNConfig.from_base(8, (1, 1, 1), stem=2)).eval()
    soften(net)
    torch.nn.init.normal_(net.head.weight, std=0.05)
    return net


@pytest.fixture
def trained(net: SRN) -> SRN:
    """A temporal network whose weights for the frame before are not zero any more."""
    temporal = make_temporal(net)
    torch.nn.init.normal_(temporal.levels[0].enter.weight[:, 24:], std=0.05)
    return temporal


def frame(seed: int) -> Tensor:
    return torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def before(net: SRN, trust: float, flow: tuple[float, float] = (0.0, 0.0)) -> FrameBefore:
    generator = torch.Generator().manual_seed(9)
    state = torch.rand(state_shape(net.config, HEIGHT, WIDTH), generator=generator)
    small = flow_size(HEIGHT, WIDTH)
    flows = torch.tensor(flow).view(1, 2, 1, 1).expand(1, 2, *small)
    return FrameBefore(frame(8), state, flows, torch.full((1, 1, *small), trust))


@torch.no_grad()
def test_without_a_frame_before_it_is_the_network_that_it_was_made_from(net, trained):
    image = frame(1)
    wanted = net.forward_scales(image)

    estimates, state = forward_frame(trained, image, None)

    assert state.shape == state_shape(trained.config, HEIGHT, WIDTH) == (1, 32, 2, 3)
    for estimate, other in zip(estimates, wanted, strict=True):
        assert (estimate - other).abs().max() < 1e-6
    untrusted, _ = forward_frame(trained, image, before(trained, trust=0.0))
    assert (untrusted[-1] - wanted[-1]).abs().max() < 1e-5
    assert torch.equal(trained(image), trained.forward_scales(image)[-1])


@torch.no_grad()
def test_the_frame_before_and_its_state_both_matter_and_where_they_are_moved_from(trained):
    image, known = frame(1), before(trained, trust=1.0)

    def restored(of: FrameBefore) -> Tensor:
        return forward_frame(trained, image, of)[0][-1]

    plain = restored(known)
    other_result = restored(dataclasses.replace(known, restored=known.restored.flip(3)))
    other_state = restored(dataclasses.replace(known, state=known.state.flip(1)))
    moved = restored(dataclasses.replace(known, flow=known.flow + 3))

    for changed in (other_result, other_state, moved):
        assert (changed - plain).abs().max() > 1e-4


@torch.no_grad()
def test_half_a_picture_of_trust_leaves_the_far_side_as_it_is(trained):
    """Whether the trust is taken where it is: the network is small, and sees less than half of the picture."""
    wide = torch.rand(1, 3, 64, 1024, generator=torch.Generator().manual_seed(3))
    small = flow_size(64, 1024)
    trust = torch.zeros(1, 1, *small)
    trust[..., : small[1] // 8] = 1
    state = torch.rand(state_shape(trained.config, 64, 1024))
    known = FrameBefore(torch.rand(1, 3, 64, 1024), state, torch.zeros(1, 2, *small), trust)

    with_it, without = (forward_frame(trained, wide, of)[0][-1] for of in (known, None))

    change = (with_it - without).abs().amax((0, 1, 2))
    assert change[:128].max() > 1e-3
    assert change[-128:].max() < 1e-5


def test_warp_samples_where_the_flow_points_and_repeats_the_border():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 1  # to the right

    assert torch.allclose(warp(x, flow)[0, 0, 0], torch.tensor([1.0, 2.0, 3.0, 3.0]), atol=1e-5)
    flow[:, 0], flow[:, 1] = 0.5, -1
    assert torch.allclose(warp(x, flow)[0, 0, 1], torch.tensor([0.5, 1.5, 2.5, 3.0]), atol=1e-5)


@torch.no_grad()
def test_a_step_takes_frames_of_any_size(trained):
    height, width = 50, 70
    small = flow_size(height, width)
    image = torch.rand(1, 3, height, width)
    state = torch.zeros(state_shape(trained.config, height, width))

    restored, carried = TemporalStep(trained)(image, image, state, torch.zeros(1, 2, *small), torch.zeros(1, 1, *small))

    assert restored.shape == image.shape
    assert carried.shape == state.shape == (1, 32, 2, 3)
    assert (restored - trained(image)).abs().max() < 1e-5


def test_an_artifact_and_a_bare_checkpoint_come_back_temporal(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    saved = save_network(tmp_path / "saved", trained, spec_of(trained), new_step("train", {}, None, {}))

    imported = import_checkpoint(tmp_path / "weights.pth", "srn", tmp_path / "imported")

    for artifact in (saved, imported):
        assert artifact.network.config["temporal"] is True
        assert load_network(artifact).config == trained.config


def test_a_network_made_temporal_twice_keeps_its_weights(trained):
    again = make_temporal(trained)

    assert again.config == trained.config
    for name, value in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
