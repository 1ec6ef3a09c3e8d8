"""One file for every size and batch: as exact as a file for that size, in every runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import new_step
from deblur_deploy.core.images import ImageSpec, Resolution, from_frames
from deblur_deploy.export.to_onnx import export_onnx, network_to_onnx
from deblur_deploy.graph.padding import BATCH, HEIGHT, WIDTH
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.srn import SRN
from deblur_deploy.runtime.runner import Runner, open_runner

SIZES = [(1, 1, 1), (1, 8, 12), (3, 17, 5), (2, 30, 41)]
"""Batch, height and width: smaller than the network's least side, a multiple, and neither."""


@pytest.fixture(scope="module")
def any_size(tiny) -> onnx.ModelProto:
    return network_to_onnx(tiny, None)


def restored(net: torch.nn.Module, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        return net(torch.from_numpy(batch)).numpy()


def test_free_dimensions_have_the_names_that_profiles_go_by(any_size):
    for end in (any_size.graph.input[0], any_size.graph.output[0]):
        dims = [dim.dim_param or dim.dim_value for dim in end.type.tensor_type.shape.dim]
        assert dims == [BATCH, 3, HEIGHT, WIDTH] == ["batch", 3, "height", "width"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_one_file_serves_every_size_and_batch(tiny, any_size, save, draw_frames, runtime):
    with open_runner(save(any_size, ImageSpec()), runtime, threads=1) as runner:
        for size in SIZES:
            batch = from_frames(draw_frames(*size))
            found = runner.infer(batch)
            assert found.shape == batch.shape
            assert np.abs(found - restored(tiny, batch)).max() <= 1e-4


def test_it_agrees_with_the_file_for_one_size(tiny, any_size, save, draw_frames):
    batch = from_frames(draw_frames(1, 17, 5))
    fixed = save(network_to_onnx(tiny, Resolution(5, 17)), ImageSpec(height=17, width=5))

    def infer(runner: Runner) -> NDArray[np.float32]:
        with runner:
            return runner.infer(batch)

    free, static = (infer(open_runner(each, "onnxruntime", 1)) for each in (save(any_size, ImageSpec()), fixed))
    assert np.abs(free - static).max() <= 1e-4


def test_a_network_that_needs_no_padding_has_none():
    class Plain(Generator):
        arch = "plain"

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward_scales(self, blurred):
            return [self.layer(blurred)]

    assert [node.op_type for node in network_to_onnx(Plain().eval(), None).graph.node] == ["Conv"]


def test_the_stage_leaves_the_size_open_and_gives_figures_for_one(tmp_path, tiny_config, draw_frames):
    torch.manual_seed(1)
    net = SRN(tiny_config).eval()
    torch.nn.init.normal_(net.head.weight, std=0.05)
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    artifact = export_onnx(source, ExportConfig(48, 32, dynamic=True), tmp_path / "onnx")
    assert (artifact.image.height, artifact.image.width) == (None, None)
    assert artifact.image.multiple_of == net.multiple_of  # where tiles begin
    assert artifact.figures["precision"] == {"fp32": 1.0}
    with open_runner(artifact, "onnxruntime", threads=1) as runner:
        for size in ((1, 16, 16), (2, 19, 37)):
            batch = from_frames(draw_frames(*size))
            assert np.abs(runner.infer(batch) - restored(net, batch)).max() <= 1e-4
