"""Weights that depend on nothing but names and shapes, so that two implementations of a network can have the same."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

Fill = Callable[..., dict[str, Tensor]]


def weights_by_name(shapes: Mapping[str, tuple[int, ...]], gain: float = 1.0) -> dict[str, Tensor]:
    """Random weights, each drawn with its name as seed; a convolution's outputs vary ``gain`` times as its inputs."""
    weights = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
            continue
        drawn = rng.standard_normal(shape)
        if len(shape) > 1:
            drawn *= gain / math.sqrt(math.prod(shape[1:]))
        elif name.endswith("running_var"):
            drawn = 0.5 + drawn**2
        elif name.endswith("weight"):
            drawn = 1 + 0.1 * drawn
        else:
            drawn = 0.1 * drawn
        weights[name] = torch.from_numpy(drawn.astype(np.float32))
    return weights


@pytest.fixture
def fill() -> Fill:
    """:func:`weights_by_name`."""
    return weights_by_name


@pytest.fixture
def picture() -> Tensor:
    """(1, 3, 128, 128), the same everywhere: waves of several lengths."""
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    channels = [
        0.5 + 0.3 * torch.sin(x / a + c) * torch.cos(y / b) for c, (a, b) in enumerate([(3, 7), (5, 2), (9, 4)])
    ]
    return torch.stack(channels)[None]
