"""A network with everything that an export has to get right, and nothing more: it is traced in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.artifact import Artifact, Draft, NetworkSpec, new_step, write_artifact
from deblur_deploy.images import ImageSpec
from deblur_deploy.network.deform_conv import DeformConv2dPack
from deblur_deploy.network.generator import Generator


class TinyNetwork(Generator):
    """Two scales, a deformable convolution, a transposed one, a join, and the residual."""

    arch = "tiny"
    multiple_of = 4
    smallest_side = 8

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.deform = DeformConv2dPack(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1)
        self.head = nn.Conv2d(8, 3, 3, padding=1)
        nn.init.normal_(self.deform.conv_offset.weight, std=0.3)

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        half = F.avg_pool2d(blurred, 2)
        fine = F.relu(self.enter(blurred))
        coarse = F.relu(self.deform(F.relu(self.down(fine))))
        joined = torch.cat([fine, self.up(coarse)], dim=1)
        enlarged = F.interpolate(half, scale_factor=2.0, mode="bilinear", align_corners=False)
        return [half, enlarged + self.head(joined)]


@pytest.fixture(scope="session")
def tiny() -> TinyNetwork:
    """The network; it is shared and must not be changed."""
    torch.manual_seed(0)
    return TinyNetwork().eval()


Draw = Callable[[int, int, int], NDArray[np.uint8]]


@pytest.fixture(scope="session")
def draw_frames() -> Draw:
    """Makes camera frames of noise, (N, H, W, 3), from batch, height and width."""

    def draw(batch: int, height: int, width: int) -> NDArray[np.uint8]:
        return np.random.default_rng(5).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)

    return draw


Save = Callable[[onnx.ModelProto, ImageSpec], Artifact]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Makes an ONNX artifact of a model."""

    def save_model(model: onnx.ModelProto, image: ImageSpec) -> Artifact:
        def write(path: Path) -> None:
            onnx.save(model, path)

        out = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        step = new_step("export-onnx", {}, None, {})
        return write_artifact(out, Draft("onnx", "model.onnx", write, NetworkSpec("tiny", {}), image, step))

    return save_model
