"""onnxruntime's silent ways back to the processor, each made an error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from deblur_deploy.artifact import Artifact
from deblur_deploy.errors import DeblurDeployError
from deblur_deploy.runtime import ort_providers
from deblur_deploy.runtime.ort_providers import CPU, open_session, provider_obstacle, require_provider

NAME = "onnxruntime-cuda"
CUDA = "CUDAExecutionProvider"


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


def test_on_the_processor_no_record_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(get_providers=lambda: [CPU])  # a session of a release that keeps none
    monkeypatch.setattr(ort_providers, "onnxruntime", SimpleNamespace(InferenceSession=lambda *_, **__: old))
    assert open_session("model.onnx", SimpleNamespace(), "onnxruntime") is old


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


@pytest.mark.parametrize(
    ("name", "order"),
    [
        (NAME, [CUDA, CPU]),
        ("onnxruntime-tensorrt", ["TensorrtExecutionProvider", CUDA, CPU]),
    ],
)
def test_a_provider_that_is_there_and_does_not_load_is_an_error(
    providers: list[Any], name: str, order: list[str]
) -> None:
    assert provider_obstacle(name) is None
    with pytest.raises(DeblurDeployError, match=f"{name}: onnxruntime could not load {order[0]}"):
        open_session("model.onnx", onnxruntime.SessionOptions(), name)
    assert providers == [{"providers": order, "enable_fallback": 0}]


def test_the_plugin_of_rtx_needs_a_card_that_it_runs_on(monkeypatch: pytest.MonkeyPatch, providers: list[Any]) -> None:
    monkeypatch.setattr(ort_providers, "_register_rtx_plugin", lambda: "NvTensorRTRTXExecutionProvider")
    with pytest.raises(DeblurDeployError, match="NvTensorRTRTXExecutionProvider finds no GPU"):
        open_session("model.onnx", onnxruntime.SessionOptions(), "onnxruntime-tensorrt-rtx")
    assert providers == []
