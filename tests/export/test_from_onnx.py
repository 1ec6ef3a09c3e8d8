"""ONNX files from elsewhere: taken as they are, run, typed, and refused where they are no pictures' networks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deblur_deploy.config import PrecisionConfig
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.export.from_onnx import import_onnx
from deblur_deploy.export.precision import lower_precision
from deblur_deploy.graph.facts import read_facts
from deblur_deploy.runtime.runner import open_runner


def halving(path, sizes=(1, 3, 32, 48), kind=TensorProto.FLOAT, names=("input", "out")):
    """A file whose network halves a picture by a 1x1 convolution."""
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32)[:, :, None, None] / 2, "weight")
    node = helper.make_node("Conv", [names[0], "weight"], [names[1]])
    ends = [helper.make_tensor_value_info(name, kind, sizes) for name in names]
    graph = helper.make_graph([node], "net", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("sizes", [(1, 3, 32, 48), ("n", 3, "h", "w")], ids=["one size", "every size"])
def test_a_file_is_taken_run_and_typed(sizes, tmp_path):
    artifact = import_onnx(halving(tmp_path / "net.onnx", sizes), tmp_path / "artifact")

    assert (artifact.kind, artifact.stage, artifact.network.arch) == ("onnx", "import", "onnx")
    assert artifact.figures["params"] == 9
    assert artifact.figures["gmacs"] == pytest.approx(9 * 640 * 360 / 1e9, abs=1e-4)
    assert artifact.figures["precision"] == {"fp32": 1.0}
    assert read_facts(onnx.load(artifact.path)).image == artifact.image
    frame = np.random.default_rng(0).random((1, 3, 32, 48), dtype=np.float32)
    for runtime in ("onnxruntime", "openvino"):
        with open_runner(artifact, runtime, threads=1) as runner:
            assert np.allclose(runner.infer(frame), frame / 2, atol=1e-6)
    half = lower_precision(artifact, PrecisionConfig(), tmp_path / "half")
    assert half.figures["precision"] == {"fp16": 1.0}


@pytest.mark.parametrize(
    ("sizes", "kind", "reason"),
    [
        ((1, 1, 32, 48), TensorProto.FLOAT, r"takes float of \(1, 1, 32, 48\)"),
        ((1, 3, 32), TensorProto.FLOAT, r"takes float of \(1, 3, 32\)"),
        ((1, 3, 32, 48), TensorProto.FLOAT16, "takes float16"),
        ((1, 3, "h", 48), TensorProto.FLOAT, "leaves one side of the picture free"),
    ],
)
def test_what_is_no_pictures_network_is_refused(sizes, kind, reason, tmp_path):
    path = halving(tmp_path / "net.onnx", sizes, kind)
    model = onnx.load(path)
    if kind == TensorProto.FLOAT16:
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float16), "weight"))
    onnx.save(model, path)

    with pytest.raises(ArtifactError, match=reason) as caught:
        import_onnx(path, tmp_path / "artifact")
    assert caught.value.hint


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    path = halving(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[:60])

    with pytest.raises(ArtifactError, match="is not a whole ONNX file"):
        import_onnx(path, tmp_path / "artifact")


def test_a_graph_that_gives_another_size_is_refused(tmp_path):
    path = halving(tmp_path / "net.onnx", ("n", 3, "h", "w"))
    model = onnx.load(path)
    model.graph.node[0].attribute.append(helper.make_attribute("strides", [2, 2]))
    onnx.save(model, path)

    with pytest.raises(ArtifactError, match="the network gives"):
        import_onnx(path, tmp_path / "artifact")
