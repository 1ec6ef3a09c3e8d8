"""Layers through Polygraphy, and the command that finds a bad one."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from deblur_deploy.core.artifact import Artifact, NetworkSpec, new_step
from deblur_deploy.core.errors import ArtifactError, ConfigError, DeblurDeployError, MissingDependencyError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.engine import layers as layers_module
from deblur_deploy.engine.layers import can_reduce, has_polygraphy, list_layers, reduce_command
from deblur_deploy.runtime import engine_fit


@pytest.fixture
def onnx_artifact(tmp_path: Path) -> Artifact:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 6]) for name in ("blurred", "restored")]
    node = helper.make_node("Sigmoid", ["blurred"], ["restored"], "squash")
    graph = helper.make_graph([node], "tiny", values[:1], values[1:])
    path = tmp_path / "with space" / "model.onnx"
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    step = new_step("export-onnx", {}, None, {"flavour": "rtx", "target": "SM75"})
    return Artifact("onnx", path, "0" * 64, NetworkSpec("srn", {}), ImageSpec(), (step,))


def test_the_layers_of_an_onnx_file_are_listed(onnx_artifact: Artifact) -> None:
    if not has_polygraphy():
        pytest.skip("needs Polygraphy: pip install polygraphy")
    text = list_layers(onnx_artifact)
    assert text.startswith("====")
    assert "squash" in text
    assert "Sigmoid" in text
    assert "shape=(1, 3, 4, 6)" in text


def test_a_file_that_polygraphy_cannot_read_is_named(onnx_artifact: Artifact) -> None:
    if not has_polygraphy():
        pytest.skip("needs Polygraphy: pip install polygraphy")
    onnx_artifact.path.write_bytes(b"no network")
    with pytest.raises(ArtifactError, match=r"Polygraphy cannot read .*model\.onnx: \S"):
        list_layers(onnx_artifact)


def test_a_checkpoint_has_no_such_list(onnx_artifact: Artifact) -> None:
    with pytest.raises(ConfigError, match="is a checkpoint") as e:
        list_layers(dataclasses.replace(onnx_artifact, kind="checkpoint"))
    assert "export-onnx" in e.value.hint


def test_without_polygraphy_there_is_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, onnx_artifact: Artifact
) -> None:
    monkeypatch.setattr(layers_module, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as e:
        list_layers(onnx_artifact)
    assert e.value.hint == "pip install polygraphy"


def test_an_engine_is_listed_only_where_it_can_be_loaded(
    monkeypatch: pytest.MonkeyPatch, onnx_artifact: Artifact
) -> None:
    monkeypatch.setattr(layers_module, "find_spec", lambda name: object())
    monkeypatch.setattr(engine_fit, "count_nvidia_gpus", lambda: None)
    with pytest.raises(DeblurDeployError, match="no NVIDIA driver"):
        list_layers(dataclasses.replace(onnx_artifact, kind="engine"))


def test_the_command_that_finds_a_bad_node_is_one_that_a_shell_takes(onnx_artifact: Artifact) -> None:
    def engine(**figures: object) -> Artifact:
        step = new_step("export-trt", {}, onnx_artifact, figures)
        path = onnx_artifact.path.with_name("model.engine")
        return dataclasses.replace(onnx_artifact, kind="engine", path=path, history=(step,))

    words = shlex.split(reduce_command(onnx_artifact, engine(flavour="rtx")))
    assert words[:4] == ["POLYGRAPHY_USE_TENSORRT_RTX=1", "polygraphy", "debug", "reduce"]
    assert words[4] == str(onnx_artifact.path)
    assert words[words.index("--check") + 1 :][:3] == ["polygraphy", "run", "polygraphy_debug.onnx"]
    assert "--model-input-shapes" not in words
    profile = {"input": "blurred", "min": [1, 3, 4, 6], "opt": [2, 3, 8, 6], "max": [2, 3, 8, 6]}
    words = shlex.split(reduce_command(onnx_artifact, engine(flavour="tensorrt", profiles=[profile])))
    assert words[:4] == ["polygraphy", "debug", "reduce", str(onnx_artifact.path)]
    assert words[words.index("--model-input-shapes") + 1] == "blurred:[2,3,8,6]"
    assert words.index("--model-input-shapes") < words.index("--check")


def test_the_command_is_named_only_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_module, "find_spec", lambda name: None if name == "onnx_graphsurgeon" else object())
    assert has_polygraphy()
    assert not can_reduce()


def test_a_polygraphy_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch, onnx_artifact: Artifact) -> None:
    monkeypatch.setattr(layers_module, "find_spec", lambda name: object())
    monkeypatch.setattr(layers_module, "_TIMEOUT_S", 0.01)
    with pytest.raises(ArtifactError, match="did not finish with") as e:
        list_layers(onnx_artifact)
    assert "polygraphy inspect model" in e.value.hint
