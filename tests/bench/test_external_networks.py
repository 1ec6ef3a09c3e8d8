"""Networks from elsewhere, beside ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deblur_deploy.bench.entries import BenchEntry, entries_of, load_contender
from deblur_deploy.bench.measure import BenchConfig, measure
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError

NETWORKS = """
import torch


def blur():
    torch.manual_seed(3)
    return torch.nn.Conv2d(3, 3, 3, padding=1)


class Tires(torch.nn.Module):
    \"\"\"Gives up after three pictures, with an error that is nobody's on purpose.\"\"\"

    def __init__(self):
        super().__init__()
        self.left = 3

    def forward(self, x):
        self.left -= 1
        return x if self.left >= 0 else {}["tired"]
"""


def save_conv(path: Path, channels: int = 3, sizes: tuple[int | str, int | str] = ("h", "w"), kind: int = 1) -> Path:
    """One convolution that keeps size and channels."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weight = numpy_helper.from_array(np.zeros((channels, channels, 3, 3), dtype), "w")
    ends = [helper.make_tensor_value_info(name, kind, ["n", channels, *sizes]) for name in ("x", "y")]
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "conv", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10), path)
    return path


def rows_of(source: str, workspace: Path, config: BenchConfig):
    artifact, label = load_contender(source, workspace)
    return {row.runtime: row for row in measure(entries_of(artifact, label), config).rows}


@pytest.mark.parametrize("sizes", [("h", "w"), (16, 32)])
def test_an_onnx_file_runs_on_every_onnx_runtime(tmp_path: Path, quick: BenchConfig, sizes: tuple) -> None:
    path = save_conv(tmp_path / "rival.onnx", sizes=sizes)
    rows = rows_of(str(path), tmp_path, quick)
    assert rows.keys() >= {"onnxruntime", "openvino", "openvino-bf16"}
    for runtime in ("onnxruntime", "openvino"):
        assert rows[runtime].latency_ms is not None
        assert rows[runtime].artifact == str(path)


def test_an_artifact_s_own_graph_stays_an_artifact(tiny_graph: Artifact, tmp_path: Path) -> None:
    for source in (tiny_graph.path, tiny_graph.directory):
        artifact, label = load_contender(str(source), tmp_path)
        assert label is None
        assert artifact.sha256 == tiny_graph.sha256
        assert artifact.network.arch == "srn"


def test_a_factory_s_network_runs_on_every_runtime_for_checkpoints(
    tmp_path: Path, quick: BenchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rival_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    rows = rows_of("rival_networks:blur", tmp_path / "work", quick)
    assert rows.keys() >= {"torch", "torch-channels-last"}
    assert rows["torch"].latency_ms is not None
    assert rows["torch"].artifact == "rival_networks:blur"


def test_a_rival_that_fails_half_way_says_so_and_the_rest_goes_on(
    tmp_path: Path, tiny_checkpoint: Artifact, quick: BenchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tired_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    rival, label = load_contender("tired_networks:Tires", tmp_path / "work")
    tired, ours = measure([BenchEntry(rival, "torch", label), BenchEntry(tiny_checkpoint, "torch")], quick).rows
    assert tired.skipped == "its code raised KeyError: 'tired'"
    assert tired.latency_ms is None
    assert ours.latency_ms is not None


def test_what_takes_no_pictures_is_refused(tmp_path: Path) -> None:
    for path in (
        save_conv(tmp_path / "gray.onnx", channels=1),
        save_conv(tmp_path / "half.onnx", kind=TensorProto.FLOAT16),
    ):
        with pytest.raises(ConfigError, match="not one float32 picture"):
            load_contender(str(path), tmp_path)
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ArtifactError, match="is not an ONNX file"):
        load_contender(str(tmp_path / "text.onnx"), tmp_path)
    with pytest.raises(ArtifactError, match="there is no"):
        load_contender(str(tmp_path / "missing.onnx"), tmp_path)
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_contender("no_such_module_anywhere:net", tmp_path)
