"""Values of a network that are watched in onnxruntime: their magnitudes, and the memory that it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deblur_deploy.export.watched import Watched

LAYERS, SIDE = 40, 512
VALUE_MB = 8 * SIDE * SIDE * 4 / 2**20

RUN = """
from pathlib import Path
from tests.export.test_watched import Watched, chain, picture

def peak_mb():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

watched = Watched(chain(), {f"v{i}" for i in range(1, 40)})
before = peak_mb()
watched.run(picture())
print(peak_mb() - before)
"""


def chain() -> onnx.ModelProto:
    """Convolutions of 8 channels one behind the other, each of which doubles what it is given."""
    kernel = np.zeros((8, 8, 3, 3), np.float32)
    kernel[range(8), range(8), 1, 1] = 2
    nodes = [helper.make_node("Conv", [f"v{i}", "w"], [f"v{i + 1}"], pads=[1] * 4) for i in range(LAYERS)]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, SIDE, SIDE]) for name in ("v0", f"v{LAYERS}")
    ]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], [numpy_helper.from_array(kernel, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def picture() -> np.ndarray:
    return np.full((1, 8, SIDE, SIDE), -0.5, np.float32)


def test_the_largest_magnitude_of_every_watched_value_is_given() -> None:
    seen = Watched(chain(), {"v1", "v5"}).run(picture())

    assert seen.peaks == {"v1": 1.0, "v5": 16.0}
    np.testing.assert_array_equal(seen.output, picture() * 2.0**LAYERS)
    assert seen.finite


def test_a_value_that_is_only_watched_is_not_kept() -> None:
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True, cwd=root)

    assert float(ran.stdout) < VALUE_MB * LAYERS / 4
