"""Pictures of 2 to 100 megapixels through ``infer``, each in a process of its own: memory stays within the budget."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from deblur_deploy.artifact import Artifact, Draft, NetworkSpec, Step, write_artifact
from deblur_deploy.images import ImageSpec
from deblur_deploy.infer.memory import parse_memory

BUDGET = "2GB"
MEASURE = """
import resource, sys
from deblur_deploy.cli.dispatch import run_command
code = run_command("infer", sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
raise SystemExit(code)
"""


@pytest.fixture(scope="module")
def one_convolution(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The smallest network that has tiles with margins: what is measured is everything around it."""
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[range(3), range(3), 1, 1] = 1
    kernel[:, :, 0, 0] = 1e-3
    shape = ("n", 3, "h", "w")
    sides = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("input", "output")]
    node = helper.make_node("Conv", ["input", "kernel"], ["output"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "net", sides[:1], sides[1:], [numpy_helper.from_array(kernel, "kernel")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    step = Step("export-onnx", {}, {}, None, "2026-01-01", {})
    out = tmp_path_factory.mktemp("one") / "onnx"

    def write(path: Path) -> None:
        onnx.save(model, path)

    return write_artifact(out, Draft("onnx", "model.onnx", write, NetworkSpec("srn", {}), ImageSpec(), step))


def gradient(width: int, height: int) -> Image.Image:
    """A picture that is quick to encode: (height, width, 3) uint8."""
    x, y = np.arange(width, dtype=np.uint32), np.arange(height, dtype=np.uint32)[:, None]
    planes = [(x * 255 // width) + 0 * y, (y * 255 // height) + 0 * x, (x // 64 + y // 64) * 32 % 256]
    return Image.fromarray(np.stack([plane.astype(np.uint8) for plane in planes], axis=2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("megapixels", [2, 10, 25, 50, 100])
def test_the_process_stays_within_the_budget(megapixels: int, one_convolution: Artifact, tmp_path: Path) -> None:
    height = int((megapixels * 1e6 * 2 / 3) ** 0.5)
    width = round(megapixels * 1e6 / height)
    gradient(width, height).save(tmp_path / "in.png", compress_level=1)
    given = (
        one_convolution.path.parent,
        tmp_path / "in.png",
        "--out",
        tmp_path / "out",
        "--max-memory",
        BUDGET,
        "--json",
    )
    command = [sys.executable, "-c", MEASURE, *map(str, given)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    peak = int(ended.stderr.splitlines()[-1]) * 1024
    (done,) = json.loads(ended.stdout)["files"]
    print(f"{width}x{height}: {peak / 1e6:.0f} MB, {done['tiles']} tiles")
    with Image.open(tmp_path / "out" / "in.png") as restored:
        assert restored.size == (width, height)
    assert peak <= parse_memory(BUDGET)
