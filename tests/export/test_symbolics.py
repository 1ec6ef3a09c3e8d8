"""Operators that torch's exporter does not write, or not for every size: the file gives what PyTorch gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.core.images import Resolution
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.network.generator import Generator

OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "a grid that does not divide": lambda y: F.adaptive_avg_pool2d(y, (6, 5)),
    "a grid finer than the picture": lambda y: F.adaptive_avg_pool2d(y, 77),
    "one mean": lambda y: F.adaptive_avg_pool2d(y, 1),
    "a shuffle of channels": nn.ChannelShuffle(4),
}


class Net(Generator):
    """A convolution, an operator, and what it gave brought to the picture's size."""

    arch = "test"

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.operator = operator

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        y = self.first(blurred)
        given = F.interpolate(self.operator(y), size=y.shape[-2:], mode="bilinear")
        return [blurred + self.last(y + given)]


@pytest.mark.parametrize("size", [None, Resolution(51, 38)], ids=["any size", "one size"])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_file_gives_what_the_network_gives(name: str, size: Resolution | None) -> None:
    net = Net(OPERATORS[name]).eval()

    model = network_to_onnx(net, size)

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in ((38, 51), (64, 48)) if size is None else ((38, 51),):
        frame = np.random.default_rng(0).random((1, 3, height, width), dtype=np.float32)
        (given,) = session.run(None, {session.get_inputs()[0].name: frame})
        with torch.no_grad():
            expected = net(torch.from_numpy(frame)).numpy()
        np.testing.assert_allclose(given, expected, atol=1e-5)
