"""onnxruntime's silent ways back to the processor, each made an error."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.runtime import ort_providers
from deblur_deploy.runtime.nvidia import Gpu
from deblur_deploy.runtime.ort_providers import CPU, cache_options, open_session, provider_unavailable, require_provider

NAME = "onnxruntime-cuda"
CUDA, RTX = "CUDAExecutionProvider", "NvTensorRTRTXExecutionProvider"


@pytest.fixture(scope="module")
def session(onnx_file: Artifact) -> Any:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return onnxruntime.InferenceSession(onnx_file.path, options, providers=[CPU])


class Elsewhere:
    """A session of the real onnxruntime that says that it uses CUDA; where its nodes are is its own answer."""

    def __init__(self, session: Any) -> None:
        self.get_provider_graph_assignment_info = session.get_provider_graph_assignment_info

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]


def test_a_session_that_lacks_the_provider_is_refused(session: Any) -> None:
    with pytest.raises(DeblurDeployError, match=f"{NAME}: onnxruntime could not load {CUDA}") as e:
        require_provider(session, CUDA, NAME)
    assert "onnxruntime-gpu[cuda,cudnn]" in e.value.hint


def test_convolutions_on_the_processor_are_counted_and_named(session: Any) -> None:
    with pytest.raises(DeblurDeployError, match=rf"{CUDA} does not take all of the network: .* on {CPU}.* more") as e:
        require_provider(Elsewhere(session), CUDA, NAME)
    assert "onv" in e.value.message


def test_what_computes_nothing_may_run_elsewhere() -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    bytes_ = model.SerializeToString()
    session = onnxruntime.InferenceSession(bytes_, options, providers=[CPU])
    assert onnx.load_from_string(bytes_).graph.node[0].op_type == "Sigmoid"
    require_provider(Elsewhere(session), CUDA, NAME)


def test_on_the_processor_no_record_is_asked_for(monkeypatch: pytest.MonkeyPatch, onnx_file: Artifact) -> None:
    old = SimpleNamespace(get_providers=lambda: [CPU])  # a session of a release that keeps none
    monkeypatch.setattr(ort_providers, "onnxruntime", SimpleNamespace(InferenceSession=lambda *_, **__: old))
    assert open_session(onnx_file, SimpleNamespace(), "onnxruntime") is old


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch, session: Any) -> list[Any]:
    """What sessions are asked for, where onnxruntime claims to have every provider for NVIDIA GPUs."""
    asked: list[Any] = []

    def open_with(path: str, options: Any, **settings: Any) -> Any:
        asked.append(settings)
        return session

    have = [CUDA, "TensorrtExecutionProvider", CPU]
    claims = {"get_available_providers": lambda: have, "InferenceSession": open_with, "preload_dlls": lambda: None}
    monkeypatch.setattr(ort_providers, "onnxruntime", SimpleNamespace(**vars(onnxruntime) | claims))
    return asked


def test_a_provider_that_is_there_and_does_not_load_is_an_error(providers: list[Any], onnx_file: Artifact) -> None:
    assert provider_unavailable(NAME) is None
    with pytest.raises(DeblurDeployError, match=f"{NAME}: onnxruntime could not load {CUDA}"):
        open_session(onnx_file, onnxruntime.SessionOptions(), NAME)
    assert providers == [{"providers": [CUDA, CPU], "enable_fallback": 0}]


def test_what_tensorrt_builds_is_kept_for_the_next_start(
    providers: list[Any], onnx_file: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for artifact in (onnx_file, onnx_file, dataclasses.replace(onnx_file, sha256="1" * 64)):
        with pytest.raises(DeblurDeployError, match="could not load TensorrtExecutionProvider"):
            open_session(artifact, onnxruntime.SessionOptions(), "onnxruntime-tensorrt")
    assert [asked["enable_fallback"] for asked in providers] == [0, 0, 0]
    (first, *rest), again, (other, *_) = (asked["providers"] for asked in providers)
    assert again == [first, *rest]
    assert (first[0], rest) == ("TensorrtExecutionProvider", [CUDA, CPU])
    ours, others = Path(first[1].pop("trt_engine_cache_path")), Path(other[1]["trt_engine_cache_path"])
    assert ours.is_dir()
    assert ours != others
    assert ours.parent == others.parent
    assert ours.is_relative_to(tmp_path / "deblur-deploy" / "onnxruntime")
    assert first[1] == {
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(ours.parent),
    }


def test_other_cards_and_versions_have_other_caches(
    onnx_file: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []
    cards = (("RTX 2080 Ti", "7.5", "1.27"), ("RTX 3060", "8.6", "1.27"), ("RTX 3060", "8.6", "1.31"))
    for name, capability, version in (*cards, ("RTX 3090", "8.6", "1.31")):
        monkeypatch.setattr(ort_providers, "find_gpu", lambda n=name, c=capability: Gpu(n, c, "13.0"))
        monkeypatch.setattr(ort_providers.onnxruntime, "__version__", version)
        found.append(cache_options(onnx_file, "TensorrtExecutionProvider")["trt_engine_cache_path"])
    assert len(set(found)) == 4
    assert "-rtx-3060-sm86-cuda13.0" in found[1]


def test_a_folder_that_cannot_be_made_is_done_without(
    onnx_file: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache_options(onnx_file, "TensorrtExecutionProvider") == {}
    assert cache_options(onnx_file, CUDA) == {}


def test_the_provider_of_rtx_keeps_its_kernels(
    monkeypatch: pytest.MonkeyPatch, providers: list[Any], onnx_file: Artifact, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ort_providers, "_register_provider", lambda module: RTX)
    devices = [SimpleNamespace(ep_name=RTX), SimpleNamespace(ep_name=CPU), SimpleNamespace(ep_name=RTX)]
    monkeypatch.setattr(ort_providers.onnxruntime, "get_ep_devices", lambda: devices)
    told: list[Any] = []
    options = SimpleNamespace(
        add_session_config_entry=lambda *_: None, add_provider_for_devices=lambda *a: told.append(a)
    )
    with pytest.raises(DeblurDeployError, match="could not load"):
        open_session(onnx_file, options, "onnxruntime-tensorrt-rtx")
    ((used, given),) = told
    assert used == devices[:1]
    assert list(given) == ["nv_runtime_cache_path"]
    assert Path(given["nv_runtime_cache_path"]).is_dir()
    assert Path(given["nv_runtime_cache_path"]).name == onnx_file.sha256[:32]


def test_the_plugin_of_rtx_needs_a_card_that_it_runs_on(
    monkeypatch: pytest.MonkeyPatch, providers: list[Any], onnx_file: Artifact
) -> None:
    monkeypatch.setattr(ort_providers, "_register_provider", lambda module: RTX)
    with pytest.raises(DeblurDeployError, match="NvTensorRTRTXExecutionProvider finds no GPU"):
        open_session(onnx_file, onnxruntime.SessionOptions(), "onnxruntime-tensorrt-rtx")
    assert providers == []
