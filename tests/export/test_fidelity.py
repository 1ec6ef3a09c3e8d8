"""Exported files that do not give what their network gives are known before anybody restores with them."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.cli.export_onnx_command import report_difference
from deblur_deploy.config import ExportConfig
from deblur_deploy.core.errors import DeblurDeployError, ExportError
from deblur_deploy.core.images import ImageSpec, Resolution
from deblur_deploy.export.fidelity import LEVEL, comparing
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.network.generator import Generator
from deblur_deploy.runtime.runner import infer_in_form


class Net(Generator):
    """A convolution and a resize down and up again."""

    arch = "test"

    def __init__(self, scale: float, mode: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.scale, self.mode = nn.Conv2d(3, 3, 3, padding=1), scale, mode

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        small = F.interpolate(self.conv(blurred), scale_factor=self.scale, mode=self.mode)
        return [blurred + F.interpolate(small, size=blurred.shape[-2:], mode=self.mode)]


def compared(save: Any, net: Generator, config: ExportConfig) -> dict[str, float | str]:
    size = None if config.dynamic else Resolution(config.width, config.height)
    image = ImageSpec() if size is None else ImageSpec(height=size.height, width=size.width)
    artifact = save(network_to_onnx(net.eval(), size), image)
    return comparing(net, config)(artifact)["network_difference"]


@pytest.mark.parametrize("config", [ExportConfig(96, 80), ExportConfig(dynamic=True)], ids=["one size", "any size"])
def test_a_file_that_gives_what_the_network_gives(save, config):
    found = compared(save, Net(0.5, "bilinear"), config)
    assert found.keys() == {"onnxruntime", "openvino"}
    assert all(apart <= LEVEL / 50 for apart in found.values())


@pytest.mark.parametrize("config", [ExportConfig(96, 80), ExportConfig(dynamic=True)], ids=["one size", "any size"])
def test_a_nearest_resize_by_a_fraction_is_said(save, config, capsys):
    found = compared(save, Net(0.6, "nearest"), config)
    assert all(apart > 2 * LEVEL for apart in found.values())
    said: list[str] = []
    network = SimpleNamespace(quantization=None)
    figures = {"network_difference": found | {"openvino": "no such operator"}}
    exported = SimpleNamespace(figures=figures, network=network)
    report_difference(SimpleNamespace(say=said.append), exported)
    assert "in onnxruntime the file differs" in said[0]
    assert "openvino does not run the file: no such operator" in said[1]


def test_a_file_that_gives_no_numbers_is_refused(save, tiny):
    model = network_to_onnx(tiny, Resolution(48, 40))
    for item in model.graph.initializer:
        if len(item.dims) == 4:
            values = np.full(item.dims, np.inf, np.float32)
            item.CopyFrom(numpy_helper.from_array(values, item.name))
    broken = save(model, ImageSpec(height=40, width=48))
    with pytest.raises(ExportError, match="NaN or infinite values in onnxruntime, where the network gives a picture"):
        comparing(tiny, ExportConfig(48, 40))(broken)


def test_frames_are_compared_too(save, tiny):
    config = dataclasses.replace(ExportConfig(48, 40), io="uint8")
    artifact = save(network_to_onnx(tiny, Resolution(48, 40), "uint8"), ImageSpec.of_frames(40, 48))
    assert comparing(tiny, config)(artifact)["network_difference"]["onnxruntime"] <= LEVEL


def test_every_runner_refuses_a_result_of_another_shape():
    batch = np.zeros((1, 3, 8, 6), np.float32)
    for other in ((1, 3, 0, 6), (1, 3, 8, 5), (3, 8, 6)):
        with pytest.raises(DeblurDeployError, match=r"gives .* for pictures of 1x3x8x6"):
            infer_in_form(lambda taken, shape=other: np.zeros(shape, np.float32), batch, ImageSpec())
    assert infer_in_form(lambda taken: taken, batch, ImageSpec()).shape == batch.shape
