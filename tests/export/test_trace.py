"""A graph for every size is refused where the network writes the size of its example into it."""

from __future__ import annotations

import pytest
import torch

from deblur_deploy.core.errors import ExportError
from deblur_deploy.core.images import Resolution
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.network.generator import Generator


class Frozen(Generator):
    """Multiplies by the height of its input, as a plain number."""

    arch = "frozen"

    def forward_scales(self, blurred):
        return [blurred * (1 / int(blurred.shape[2]))]


def test_a_network_that_holds_for_one_size_is_exported_for_one_size_only():
    assert network_to_onnx(Frozen(), Resolution(8, 8)).graph.node
    with pytest.raises(ExportError, match="frozen computes with its input's size") as caught:
        network_to_onnx(Frozen(), None)
    assert "--res" in caught.value.hint


def test_the_two_traces_share_no_free_size():
    class Counting(Generator):
        arch = "counting"
        sizes: tuple[tuple[int, ...], ...] = ()

        def forward_scales(self, blurred):
            Counting.sizes += (tuple(int(side) for side in blurred.shape),)
            return [torch.relu(blurred)]

    network_to_onnx(Counting(), None)
    first, second = dict.fromkeys(Counting.sizes)
    assert all(one != other for one, other in zip(first, second, strict=True) if one != 3)
