"""OpenVINO refuses what it cannot read with one sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.runtime.ov import OpenVINORunner


def test_functions_without_an_end_are_an_error_of_the_file(onnx_file: Artifact, tmp_path: Path) -> None:
    node = helper.make_node("Endless", ["x"], ["y"], domain="own")
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("own", 1)]
    endless = helper.make_function("own", "Endless", ["x"], ["y"], [node], opsets)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([node], "endless", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[endless]), tmp_path / "endless.onnx")
    with pytest.raises(ArtifactError, match=r"OpenVINO cannot read .*endless\.onnx"):
        OpenVINORunner(dataclasses.replace(onnx_file, path=tmp_path / "endless.onnx"))
