"""Moving pictures and features along a flow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample ``x`` where the flow points to, bilinearly; what lies outside repeats the border.

    Args:
        x: (N, C, h, w).
        flow: (N, 2, h, w) float32, to the right and down, in pixels of ``x``: the result at (column, row) is ``x`` at
            (column + flow[0], row + flow[1]). In half the bits, places would be off by a third of a pixel.

    Returns:
        (N, C, h, w) float32.
    """
    height, width = x.shape[-2:]
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device)
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device)
    # grid_sample has -1 and 1 at the outer edges of the outermost pixels.
    across = (2 * (columns + flow[:, 0]) + 1) / width - 1  # (N, h, w)
    down = (2 * (rows[:, None] + flow[:, 1]) + 1) / height - 1
    grid = torch.stack([across, down], dim=-1)
    return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
