"""One tiny network, as a checkpoint and as an ONNX file of a fixed size, and a picture larger than its tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from deblur_deploy.core.artifact import Artifact, Draft, NetworkSpec, Step, new_step, write_artifact
from deblur_deploy.core.images import ImageSpec, load_rgb
from deblur_deploy.core.sources import shipped
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.runtime.runner import Runner, open_runner


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory, soften: Callable[[torch.nn.Module], None]) -> Artifact:
    """A fresh network whose head and offsets are large enough to show in the picture."""
    torch.manual_seed(3)
    net = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval()
    soften(net)
    torch.nn.init.normal_(net.head.weight, std=0.05)
    torch.nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.05)
    out = tmp_path_factory.mktemp("infer") / "checkpoint"
    return save_network(out, net, spec_of(net), new_step("import", {}, None, {}))


@pytest.fixture
def runner(artifact: Artifact) -> Iterator[Runner]:
    with open_runner(artifact, "torch") as opened:
        yield opened


@pytest.fixture
def wide_photo(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(320, 416, 3) uint8, mirrored so that it has no border in the middle."""
    top = np.concatenate([photo, photo[:, ::-1]], axis=1)
    return np.concatenate([top, top[::-1]], axis=0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A directory that is not there yet."""
    return tmp_path / "out"


@pytest.fixture
def moving_photo() -> NDArray[np.float32]:
    """A shipped photograph with motion blur: (240, 448, 3) float32 in [0, 1]."""
    path = sorted((shipped("calibration") / "photos" / "images").iterdir())[0]
    sharp = load_rgb(path)[:240].astype(np.float32) / 255
    blurred: NDArray[np.float32] = np.mean([np.roll(sharp, s, axis=1) for s in range(-3, 4)], axis=0, dtype=np.float32)
    return blurred


@pytest.fixture(scope="session")
def one_convolution(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The smallest network that has tiles with margins: what is measured is everything around it."""
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[range(3), range(3), 1, 1] = 1
    kernel[:, :, 0, 0] = 1e-3
    node = helper.make_node("Conv", ["input", "kernel"], ["output"], pads=[1, 1, 1, 1])
    return write_graph(tmp_path_factory.mktemp("one") / "onnx", [node], {"kernel": kernel})


@pytest.fixture(scope="session")
def mirroring(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A network that mirrors 2 pixels at the border, which pictures of fewer do not have."""
    return mirror(tmp_path_factory.mktemp("mirroring") / "onnx", 2)


@pytest.fixture(scope="session")
def large_only(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A network that mirrors 100 pixels at the border."""
    return mirror(tmp_path_factory.mktemp("large") / "onnx", 100)


def mirror(out: Path, border: int) -> Artifact:
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[range(3), range(3)] = 1
    nodes = [
        helper.make_node("Pad", ["input", "pads"], ["wide"], mode="reflect"),
        helper.make_node("Conv", ["wide", "kernel"], ["same"]),
        helper.make_node("Pad", ["same", "back"], ["output"]),
    ]
    pads = np.array([0, 0, border, border] * 2, np.int64)
    return write_graph(out, nodes, {"kernel": kernel, "pads": pads, "back": -pads})


def write_graph(out: Path, nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]]) -> Artifact:
    """A network of any size from "input" to "output"."""
    shape = ("n", 3, "h", "w")
    sides = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("input", "output")]
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", sides[:1], sides[1:], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    step = Step("export-onnx", {}, {}, None, "2026-01-01", {})

    def write(path: Path) -> None:
        onnx.save(model, path)

    return write_artifact(out, Draft("onnx", "model.onnx", write, NetworkSpec("srn", {}), ImageSpec(), step))
