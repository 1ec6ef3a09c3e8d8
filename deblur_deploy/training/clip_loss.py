"""Clips in the training loop: a temporal network goes through a clip frame by frame, and all frames are compared."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.config import ClipConfig, FitConfig, LossConfig
from deblur_deploy.data.clips import PLANES
from deblur_deploy.network.srn import SCALES, SRN
from deblur_deploy.network.steps import FLOW_STRIDE
from deblur_deploy.network.temporal import FrameBefore, forward_frame
from deblur_deploy.network.warp import warp
from deblur_deploy.training.losses import Objective


class ClipScales(nn.Module):
    """A temporal network on whole clips.

    Args:
        net: The network.
    """

    def __init__(self, net: SRN) -> None:
        super().__init__()
        self.net = net

    def forward(self, clips: Tensor) -> list[Tensor]:
        """The estimates of every frame, those of one behind those of the frame before.

        Args:
            clips: (N, frames * PLANES, H, W), see :class:`~deblur_deploy.data.clips.Clips`.
        """
        estimates: list[Tensor] = []
        before: FrameBefore | None = None
        frames = _frames(clips)
        for index, (blurred, _, _) in enumerate(frames):
            found, state = forward_frame(self.net, blurred.contiguous(memory_format=torch.channels_last), before)
            estimates += found
            if index + 1 < len(frames):
                _, flow, trust = frames[index + 1]
                small = (F.avg_pool2d(plane, FLOW_STRIDE) for plane in (flow, trust))
                before = FrameBefore(found[-1].float(), state.float(), *small)
        return estimates


class ClipObjective(Objective):
    """The losses of every frame, and how evenly results follow each other.

    Where the motion of the sharp frames is trusted, the change from one result, moved, to the next should be that of
    the sharp frames: what else changes is flicker.

    Args:
        fit: As for :class:`Objective`.
        loss: Likewise.
        clip: Weight of the flicker.
    """

    def __init__(self, fit: FitConfig, loss: LossConfig, clip: ClipConfig) -> None:
        super().__init__(fit, loss)
        self.clip = clip

    def scales_of(self, net: nn.Module) -> nn.Module:
        """The network on whole clips."""
        assert isinstance(net, SRN)
        return ClipScales(net)

    def terms(self, estimates: list[Tensor], blurred: Tensor, sharp: Tensor) -> dict[str, Tensor]:
        """Every loss that is switched on, already weighted.

        Args:
            estimates: As :class:`ClipScales` gives them.
            blurred: The blurred clips, (N, frames * PLANES, H, W).
            sharp: The sharp clips, likewise.
        """
        targets = _frames(sharp)
        by_frame = [estimates[start : start + SCALES] for start in range(0, len(estimates), SCALES)]
        found = [
            super(ClipObjective, self).terms(of, blurred, target[0])
            for of, target in zip(by_frame, targets, strict=True)
        ]
        terms = {name: torch.stack([each[name] for each in found]).mean() for name in found[0]}
        if self.clip.consistency and len(targets) > 1:
            results = [of[-1].float() for of in by_frame]
            flickers = [
                flicker(results[index - 1 : index + 1], (targets[index - 1][0], targets[index][0]), *targets[index][1:])
                for index in range(1, len(targets))
            ]
            terms["consistency"] = self.clip.consistency * torch.stack(flickers).mean()
        return terms


def flicker(results: list[Tensor], sharp: tuple[Tensor, Tensor], flow: Tensor, trust: Tensor) -> Tensor:
    """Mean difference between how two results and how the two sharp frames change along the sharp frames' motion.

    Args:
        results: Of the frame before and of this one, (N, 3, H, W) each.
        sharp: The two sharp frames.
        flow: From this sharp frame to the one before, (N, 2, H, W), in pixels of a quarter of the size.
        trust: Where it is trusted, (N, 1, H, W).
    """
    change, wanted = (now - warp(then, FLOW_STRIDE * flow) for then, now in (results, sharp))
    return (trust * (change - wanted).abs()).mean()


def _frames(clips: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Picture, flow and trust of every frame: (N, 3, H, W), (N, 2, H, W) and (N, 1, H, W)."""
    frames = torch.split(clips, PLANES, dim=1)
    return [cast(tuple[Tensor, Tensor, Tensor], torch.split(frame, [3, 2, 1], dim=1)) for frame in frames]
