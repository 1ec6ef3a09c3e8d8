"""What a temporal SRN takes over from the frame before: its result and its coarsest state, brought here by motion.

A film has the same scene in every frame, blurred differently. A temporal SRN sees beside each blurred frame what it
made of the frame before, moved to where things are now, and its coarsest scale starts from the moved state of the frame
before instead of its own candidate. Where the motion is not to be trusted (something was covered, left the picture, or
the film was cut), both are left out, and without a previous frame nothing differs from an SRN of the same weights.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.network.generator import pad_to_multiple
from deblur_deploy.network.srn import MULTIPLE_OF, SRN, SRNConfig
from deblur_deploy.network.steps import FLOW_STRIDE
from deblur_deploy.network.warp import warp


@dataclass(frozen=True)
class FrameBefore:
    """The frame before, for a frame of H x W pixels, both multiples of the network's ``multiple_of``.

    Args:
        restored: What was made of it, (N, 3, H, W), RGB in [0, 1].
        state: Its state on the coarsest scale, (N, R, h, w), as :func:`forward_frame` returned it.
        flow: Where each pixel of this frame was in the frame before, (N, 2, H/4, W/4): to the right and down, in pixels
            of that size.
        trust: How far the flow is to be trusted, (N, 1, H/4, W/4), 0 (not at all) to 1.
    """

    restored: Tensor
    state: Tensor
    flow: Tensor
    trust: Tensor


def forward_frame(net: SRN, blurred: Tensor, before: FrameBefore | None) -> tuple[list[Tensor], Tensor]:
    """Restore one frame of a film.

    Args:
        net: A temporal SRN.
        blurred: (N, 3, H, W), RGB in [0, 1], both sides multiples of ``net.multiple_of``.
        before: The frame before; None for the first of a film and behind a cut.

    Returns:
        The estimates of all scales, coarse to fine, the last (N, 3, H, W); and the state on the coarsest scale, which
        the next frame takes.
    """
    if before is None:
        return net.forward_recurrent(blurred, None, None)
    prior = _moved_result(before, blurred)
    factor = blurred.shape[-1] // FLOW_STRIDE // before.state.shape[-1]
    flow = F.avg_pool2d(before.flow, factor) / factor
    trust = F.avg_pool2d(before.trust, factor)
    carried = warp(before.state, flow).to(blurred.dtype), trust.to(blurred.dtype)
    return net.forward_recurrent(blurred, prior, carried)


class TemporalStep(nn.Module):
    """A temporal network as a function of tensors alone, for frames of any size: what runtimes run and exports trace.

    Args:
        net: The network.
    """

    def __init__(self, net: SRN) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, blurred: Tensor, before: Tensor, state: Tensor, flow: Tensor, trust: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Restore one frame.

        Args:
            blurred: (1, 3, H, W), RGB in [0, 1], any size.
            before: What was made of the frame before, of the same shape; anything where ``trust`` is 0 everywhere.
            state: What it gave beside its picture, of :func:`state_shape`; likewise.
            flow: As in :class:`FrameBefore`, (1, 2, H/4, W/4), rounded up.
            trust: Likewise, (1, 1, H/4, W/4).

        Returns:
            The restored frame, (1, 3, H, W), and the state for the next frame.
        """
        height, width = blurred.shape[-2:]
        multiple = self.net.multiple_of
        padded = pad_to_multiple(blurred, multiple)
        moves = [pad_to_multiple(plane, multiple // FLOW_STRIDE) for plane in (flow, trust)]
        known = FrameBefore(pad_to_multiple(before, multiple), state, *moves)
        estimates, carried = forward_frame(self.net, padded, known)
        return estimates[-1][..., :height, :width], carried


def state_shape(config: SRNConfig, height: int, width: int) -> tuple[int, int, int, int]:
    """Shape of the state for frames of a size, (1, R, h, w)."""
    multiple = MULTIPLE_OF * config.stem
    return 1, config.recurrent_channels, -(-height // multiple), -(-width // multiple)


def _moved_result(before: FrameBefore, blurred: Tensor) -> Tensor:
    """By how much the moved result of the frame before differs from the blurred frame; 0 where it is not trusted."""
    flow, trust = (
        F.interpolate(plane, scale_factor=float(FLOW_STRIDE), mode="bilinear", align_corners=False)
        for plane in (FLOW_STRIDE * before.flow, before.trust)
    )
    return (trust * (warp(before.restored, flow) - blurred)).to(blurred.dtype)


def make_temporal(net: SRN) -> SRN:
    """A temporal SRN with the weights of a trained one, whose results it gives for every frame until it is trained.

    Args:
        net: A float network, temporal or not; it is left as it is.
    """
    wide = SRN(dataclasses.replace(net.config, temporal=True))
    weights, enter = dict(net.state_dict()), "levels.0.enter.weight"
    given = weights[enter]
    room = torch.zeros_like(wide.state_dict()[enter])
    room[:, : given.shape[1]] = given  # the result of the frame before comes last
    weights[enter] = room
    wide.load_state_dict(weights)
    return wide.train(net.training)
