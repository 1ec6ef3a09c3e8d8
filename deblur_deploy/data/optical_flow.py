"""Motion between two frames of a film, and how far it is to be trusted.

DIS flow (Kroeger et al., *Fast Optical Flow using Dense Inverse Search*, ECCV 2016), in OpenCV, at a quarter of the
size along each side: blur does little harm there, and it takes a millisecond or two. It is computed both ways; where
the way back does not lead to where one came from, something was covered or has left the picture, and the flow is not
trusted (Sundaram et al., *Dense Point Trajectories by GPU-accelerated Large Displacement Optical Flow*, ECCV 2010).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from deblur_deploy.network.steps import FLOW_STRIDE, flow_size

Float = NDArray[np.float32]
Image8 = NDArray[np.uint8]

_LEAST_SIDE = 16
"""Sides, at a quarter of the size, below which DIS finds no motion: two of its patches."""

_ERROR_PX, _ERROR_SHARE = 0.5, 0.05
"""How far the way there and back may miss: this many pixels of the small frame, and this share of the motion."""

_CUT_SHARE, _CUT_RESIDUE, _CUT_CODES, _CUT_STEP = 0.25, 0.7, 4.0, 64.0
"""A film was cut where less than this share of the flow is trusted; where the frame before, moved, explains less than
the rest of what this one shows, told in its mean contrast, and what is left is more than noise, in codes; or where the
brightness jumps by so many codes."""


@dataclass(frozen=True)
class Motion:
    """Where the pixels of a frame were in the frame before.

    Args:
        flow: (2, H/4, W/4) float32, to the right and down, in pixels of that size.
        trust: (1, H/4, W/4) float32, 1 where the flow is trusted, else 0.
        is_cut: Whether the two frames show different scenes.
    """

    flow: Float
    trust: Float
    is_cut: bool = False


def quarter_gray(frame: Image8) -> Image8:
    """What motion is looked for in: means over 4x4 pixels of the luma.

    Args:
        frame: (H, W, 3) uint8 RGB; the last row and column are repeated until 4 divides the sides.

    Returns:
        (H/4, W/4) uint8, rounded up.
    """
    height, width = flow_size(*frame.shape[:2])
    below, right = FLOW_STRIDE * height - frame.shape[0], FLOW_STRIDE * width - frame.shape[1]
    if below or right:
        frame = np.pad(frame, ((0, below), (0, right), (0, 0)), mode="edge")
    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def find_motion(current: Image8, before: Image8) -> Motion:
    """Motion from a frame back to the one before it.

    Args:
        current: :func:`quarter_gray` of the frame, (h, w) uint8.
        before: That of the frame before, of the same size.

    Returns:
        The motion; of frames with less than 64 pixels along a side nothing is trusted.
    """
    height, width = current.shape
    if min(height, width) < _LEAST_SIDE:
        return Motion(np.zeros((2, height, width), np.float32), np.zeros((1, height, width), np.float32))
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there = dis.calc(current, before, None)  # (h, w, 2): the frame before at x + there[x] looks like this one at x
    back = dis.calc(before, current, None)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    map_x, map_y = x + there[..., 0], y + there[..., 1]
    returned = there + cv2.remap(back, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error = np.hypot(returned[..., 0], returned[..., 1])
    inside = (map_x >= 0) & (map_x <= width - 1) & (map_y >= 0) & (map_y <= height - 1)
    trusted = inside & (error <= _ERROR_PX + _ERROR_SHARE * np.hypot(there[..., 0], there[..., 1]))
    moved = cv2.remap(before, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    is_cut = float(trusted.mean()) < _CUT_SHARE or _shows_another_scene(current[inside], moved[inside])
    flow = np.ascontiguousarray(there.transpose(2, 0, 1))
    return Motion(flow, trusted[None].astype(np.float32), is_cut)


def _shows_another_scene(current: Image8, moved: Image8) -> bool:
    """Whether two frames differ by more than blur and light explain, though a motion between them was found."""
    if not current.size:
        return True
    left = current.astype(np.float32) - moved
    step = float(left.mean())
    residue = float(np.abs(left - step).mean())
    contrast = max(float(np.abs(each - each.mean()).mean()) for each in (current, moved))
    return abs(step) > _CUT_STEP or (residue > _CUT_CODES and residue > _CUT_RESIDUE * contrast)
