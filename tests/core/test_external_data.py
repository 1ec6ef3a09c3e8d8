"""Weights in other files are found wherever a graph may have them, and nothing else is taken for them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from deblur_deploy.bench.entries import read_onnx_file
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.external_data import refuse_external_data


def field(number: int, content: bytes) -> bytes:
    """A field of bytes; ``content`` is shorter than 128."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def external_tensor(name: str = "weights.bin") -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=name)
    return tensor


def model_of(*nodes: onnx.NodeProto, **content: list[onnx.TensorProto]) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "g", [], [], **content))


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def inner_graph(node: onnx.NodeProto) -> onnx.NodeProto:
    return helper.make_node("If", ["c"], ["y"], then_branch=helper.make_graph([node], "then", [], []))


CONSTANT = helper.make_node("Constant", [], ["c"], value=external_tensor())


@pytest.mark.parametrize(
    "model",
    [model_of(initializer=[external_tensor()]), model_of(CONSTANT), model_of(inner_graph(inner_graph(CONSTANT)))],
    ids=["initializer", "constant", "graphs in graphs"],
)
def test_a_tensor_in_another_file_is_found(tmp_path: Path, model: onnx.ModelProto) -> None:
    path = saved(model, tmp_path / "a.onnx")
    with pytest.raises(ArtifactError, match=r"another file, 'weights\.bin'"):
        refuse_external_data(path)
    with pytest.raises(ArtifactError, match=r"another file, 'weights\.bin'"):
        read_onnx_file(path)


@pytest.mark.parametrize("prefix", [b"", b"\x0b\x0c"], ids=["plain", "behind a group"])
def test_the_order_of_fields_does_not_matter(tmp_path: Path, prefix: bytes) -> None:
    entry = field(2, b"weights.bin") + field(1, b"location")
    data = prefix + field(7, field(5, field(13, entry) + b"\x70\x01"))
    tensor = onnx.ModelProto.FromString(data).graph.initializer[0]
    assert (tensor.external_data[0].key, tensor.data_location) == ("location", onnx.TensorProto.EXTERNAL)
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"another file, 'weights\.bin'"):
        refuse_external_data(tmp_path / "a.onnx")


def test_metadata_of_that_name_are_harmless(tmp_path: Path) -> None:
    model = model_of(initializer=[onnx.TensorProto(name="w", data_type=1, dims=[1], float_data=[1.0])])
    helper.set_model_props(model, {"location": "Oslo"})
    refuse_external_data(saved(model, tmp_path / "a.onnx"))


@pytest.mark.parametrize("data", [b"", b"no graph at all", b"\xff" * 20, b"\x3a\x7f", b"\x0f"])
def test_what_is_no_graph_is_left_to_its_reader(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(data)
    refuse_external_data(tmp_path / "a.onnx")
