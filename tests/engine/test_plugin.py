"""The plugin in the full TensorRT: which one is taken, what the builder is handed, and what is said without it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from deblur_deploy.config import EngineConfig, PlanConfig
from deblur_deploy.core.artifact import Draft, NetworkSpec, load_artifact, new_step, write_artifact
from deblur_deploy.core.errors import BuildError, MissingDependencyError
from deblur_deploy.core.images import ImageSpec, Resolution
from deblur_deploy.engine import plugin as plugin_module
from deblur_deploy.engine.build import build_engine, build_engine_bytes
from deblur_deploy.engine.build_child import plugin_failure
from deblur_deploy.engine.flavour import Flavour
from deblur_deploy.engine.plugin import check_plugin, load_plugin
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.graph.for_tensorrt import prepare_network
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.runtime.nvidia import count_nvidia_gpus
from deblur_deploy.runtime.refit import network_of

pytestmark = pytest.mark.skipif(
    bool(count_nvidia_gpus()), reason="a GPU's engine would be inspected by the real TensorRT"
)


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    """A tiny generator with three deformable convolutions, which share their weights."""
    torch.manual_seed(0)
    return network_to_onnx(SRN(SRNConfig.from_base(8, (1, 1, 1))).eval(), Resolution(64, 48))


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plugin library that the pretended TensorRT can load."""
    folder, path = tmp_path / "pretended", tmp_path / "libdeblur_plugin.so"
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "pretend_tensorrt.py", folder / "tensorrt.py")
    path.write_bytes(b"library")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("PRETEND_PLUGIN_LIBRARY", str(path))
    return path


def full(plugin: str, plan: PlanConfig | None = None) -> EngineConfig:
    return EngineConfig(
        target="current", flavour="tensorrt", precision="fp32", plugin=plugin, plan=plan or PlanConfig()
    )


def test_the_node_goes_to_the_plugin(network: onnx.ModelProto):
    with_plugin = prepare_network(network, (), with_plugin=True)
    without = prepare_network(network, (), with_plugin=False)

    handed = onnx.load_from_string(with_plugin.network)
    nodes = [node for node in handed.graph.node if node.op_type == "DeformConv2d"]
    assert len(nodes) == 3
    assert with_plugin.has_plugin
    assert not handed.functions
    for node in nodes:
        values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert (values["plugin_namespace"], values["plugin_version"]) == (b"deblur", b"1")
    assert "DeformConv2d" not in {node.op_type for node in onnx.load_from_string(without.network).graph.node}
    assert not without.has_plugin


def test_either_form_has_the_same_arithmetic(network: onnx.ModelProto):
    """All multiply-accumulates of a deformable convolution are in one node: inlined, in that of its samples."""
    counted = []
    for with_plugin in (True, False):
        nodes = prepare_network(network, (), with_plugin=with_plugin).nodes
        counted.append(sorted((node.kind, node.macs) for node in nodes))
        deformable = [node for node in nodes if node.kind == "deformable"]
        # At a quarter of each scale's height and width, 32 channels in and out, 9 taps.
        whole = 32 * 32 * 9 * (48 // 4) * (64 // 4)
        assert sorted(node.macs for node in deformable) == [whole // 16, whole // 4, whole]
    assert counted[0] == counted[1]


def test_the_network_is_the_same_bytes_each_time(network: onnx.ModelProto):
    for with_plugin in (True, False):
        first, second = (prepare_network(network, (), with_plugin=with_plugin).network for _ in range(2))
        assert first == second


def test_a_library_is_loaded_and_the_node_is_built_by_it(network: onnx.ModelProto, library: Path):
    built = build_engine_bytes(network.SerializeToString(), full(str(library)))

    told = json.loads(built.data)
    assert told["loaded"] == [str(library)]
    assert told["operators"].count("DeformConv2d") == 3
    assert built.plugin == str(library)
    assert built.proof.shares() == {"unproven": 1.0}  # it lists no layers, and nothing is taken from what was asked for


def test_everything_asked_for_reaches_the_builder(network: onnx.ModelProto, library: Path, tmp_path: Path):
    cache = tmp_path / "kernels.cache"
    plan = PlanConfig(str(cache), True, True, True, "ampere_plus")
    config = full(str(library), plan)
    told = json.loads(build_engine_bytes(network.SerializeToString(), config).data)

    assert told["flags"] == ["STRIP_PLAN", "REFIT", "VERSION_COMPATIBLE"]
    assert told["hardware_compatibility_level"] == "AMPERE_PLUS"
    assert told["plugins_to_serialize"] == [str(library)]
    assert told["profiling_verbosity"] == "DETAILED"
    assert cache.read_bytes() == b"timed"


def test_without_a_plugin_standard_operators_are_built(network: onnx.ModelProto, library: Path):
    built = build_engine_bytes(network.SerializeToString(), full("none"))

    told = json.loads(built.data)
    assert told["loaded"] == []
    assert "GridSample" in told["operators"]
    assert built.plugin == "none"


def test_a_library_that_does_not_load_is_an_error(network: onnx.ModelProto, library: Path, tmp_path: Path):
    (tmp_path / "other.so").write_bytes(b"of another program")
    with pytest.raises(BuildError, match=r"cannot load the plugin library .*other\.so") as caught:
        build_engine_bytes(network.SerializeToString(), full(str(tmp_path / "other.so")))
    assert "build-plugin" in caught.value.hint


def lonely_node() -> bytes:
    head = '<ir_version: 9, opset_import: ["": 19, "deblur": 1]> g (float[1,3,8,8] x) => (float[1,3,8,8] y)'
    model = onnx.parser.parse_model(f"{head} {{ a = Conv(x, w) y = deblur.DeformConv2d(a, w, a) }}")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w"))
    model.graph.node[1].name = "the_culprit"
    return model.SerializeToString()


def test_a_node_without_its_plugin_is_an_error(library: Path):
    with pytest.raises(BuildError, match=r"'the_culprit' \(DeformConv2d\): its plugin was not found") as caught:
        build_engine_bytes(lonely_node(), full("none"))
    assert "--plugin" in caught.value.hint


def test_what_a_plugin_failed_with_is_told(library: Path, monkeypatch: pytest.MonkeyPatch):
    """TensorRT prints it and goes on with a null pointer; "not found" would send the user the wrong way."""
    monkeypatch.setenv("PRETEND_PLUGIN_FAILURE", "TypeError: only 0-dimensional arrays can be converted")
    with pytest.raises(BuildError, match="its plugin failed: TypeError: only 0-dimensional arrays") as caught:
        build_engine_bytes(lonely_node(), full("none"))
    assert "create_plugin" in caught.value.message


def test_the_last_failure_of_a_plugin_counts(tmp_path: Path):
    log = tmp_path / "build.log"
    assert plugin_failure(log) == ""
    log.write_text(
        "[INFO] Exception\n[ERROR] Exception caught in configure(): a\n[ERROR] Exception caught in enqueue(): b\n"
    )
    assert plugin_failure(log) == "b (in enqueue)"


def test_a_library_that_is_not_there_is_refused_before_any_work(tmp_path: Path):
    with pytest.raises(BuildError, match="there is no plugin library") as caught:
        check_plugin("tensorrt", str(tmp_path / "libdeblur_plugin.so"))
    assert "deblur-deploy build-plugin" in caught.value.hint


def test_which_plugin_is_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugin_module, "find_spec", lambda _: object())
    assert check_plugin("tensorrt", "auto") == check_plugin("tensorrt", "aot") == "aot"
    assert check_plugin("tensorrt", "none") == check_plugin("rtx", "auto") == check_plugin("rtx", "none") == "none"
    monkeypatch.setattr(plugin_module, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="NVRTC") as caught:
        check_plugin("tensorrt", "auto")
    assert "--plugin none" in caught.value.hint


def test_no_library_is_ever_loaded_into_tensorrt_rtx(library: Path):
    for wanted in (str(library), "aot"):
        with pytest.raises(BuildError, match="TensorRT-RTX has no plugins"):
            check_plugin("rtx", wanted)
        with pytest.raises(BuildError, match="TensorRT-RTX has no plugins"):
            load_plugin(Flavour("rtx", None), None, wanted, serialize=False)


@pytest.mark.parametrize("plugin", ["library", "none"])
def test_the_network_of_a_stripped_engine_can_be_made_again(
    network: onnx.ModelProto, library: Path, tmp_path: Path, plugin: str
):
    def write(path: Path) -> None:
        path.write_bytes(network.SerializeToString())

    image = ImageSpec(height=48, width=64)
    draft = Draft("onnx", "model.onnx", write, NetworkSpec("srn", {}), image, new_step("export-onnx", {}, None, {}))
    source = write_artifact(tmp_path / "onnx", draft)
    config = full(str(library) if plugin == "library" else "none", PlanConfig(strip_weights=True))
    engine = build_engine(source, config, tmp_path / "engine")

    assert engine.figures["weights_from"] == ["../onnx/model.onnx", str(source.path)]
    handed = network_of(load_artifact(engine.directory))
    assert hashlib.sha256(handed).hexdigest() == engine.figures["network_sha256"]
    assert b"plugin_namespace" in handed or plugin == "none"
