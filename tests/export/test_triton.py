"""Triton's repository: its configuration in Triton's own schema, the graph behind it, and the client on a server."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from concurrent import futures
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.core.errors import ArtifactError, ConfigError, ExportError
from deblur_deploy.core.images import ImageSpec, from_batch, load_rgb, save_rgb, to_batch
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.export.triton import Tensor, TritonConfig, export_triton, model_config, tensors_of
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig

NUMPY_TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_FP16": "tensor(float16)", "TYPE_UINT8": "tensor(uint8)"}


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Artifact:
    """A tiny network as an ONNX file of 40x24."""
    folder = tmp_path_factory.mktemp("triton")
    net = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval()
    checkpoint = save_network(folder / "checkpoint", net, spec_of(net), new_step("import", {}, None, {}))
    return export_onnx(checkpoint, ExportConfig(width=40, height=24, evaluate=False), folder / "onnx")


@pytest.fixture
def parse():
    """Reads a configuration with the message that the server itself is made with."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="Triton's schema is in tritonclient")
    from google.protobuf import text_format

    return lambda text: text_format.Parse(text, schema.ModelConfig())


def test_the_graph_takes_and_gives_exactly_what_the_configuration_names(graph, parse, tmp_path):
    repository = export_triton(graph, TritonConfig("sharpen", "cpu", instances=2), tmp_path / "served")

    config = parse((repository / "sharpen" / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == ("sharpen", "onnxruntime", 0)
    (group,) = config.instance_group
    assert (group.count, group.Kind.Name(group.kind)) == (2, "KIND_CPU")
    model = repository / "sharpen" / "1" / config.default_model_filename
    assert model.read_bytes() == graph.path.read_bytes()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for named, found in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        ((tensor,), (value,)) = named, found
        data_type = type(config.input[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
        assert (tensor.name, list(tensor.dims)) == (value.name, value.shape)
        assert NUMPY_TYPES[data_type[tensor.data_type].name] == value.type
    (restored,) = session.run(
        [config.output[0].name], {config.input[0].name: np.zeros(config.input[0].dims, np.float32)}
    )
    assert restored.shape == tuple(config.output[0].dims) == (1, 3, 24, 40)


def test_a_free_batch_is_left_to_triton(graph, parse, tmp_path):
    model = onnx.load(graph.path)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
        value.type.tensor_type.shape.dim[3].dim_param = "width"
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    free = dataclasses.replace(graph, path=path)

    config = parse(model_config(free, tensors_of(free), TritonConfig(max_batch=8)))
    assert (config.max_batch_size, list(config.input[0].dims)) == (8, [3, 24, -1])
    assert config.HasField("dynamic_batching")
    plain = parse(model_config(free, tensors_of(free), TritonConfig()))
    assert (plain.max_batch_size, list(plain.output[0].dims)) == (0, [-1, 3, 24, -1])
    assert not plain.HasField("dynamic_batching")
    with pytest.raises(ConfigError, match="takes one picture at a time"):
        model_config(graph, tensors_of(graph), TritonConfig(max_batch=8))


def test_an_engine_of_the_full_tensorrt_is_a_plan(graph, parse, tmp_path):
    def engine(flavour: str) -> Artifact:
        step = new_step("export-trt", {}, graph, {"flavour": flavour})
        image = ImageSpec(height=24, width=40)
        return dataclasses.replace(graph, kind="engine", image=image, history=(*graph.history, step))

    repository = export_triton(engine("tensorrt"), TritonConfig(device="gpu"), tmp_path / "served")
    config = parse((repository / "deblur" / "config.pbtxt").read_text())
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert tensors_of(engine("tensorrt")) == tensors_of(graph)
    assert (repository / "deblur" / "1" / "model.plan").is_file()
    assert "--backend-config=tensorrt,plugins=" in (tmp_path / "served" / "README.md").read_text()
    with pytest.raises(ArtifactError, match="engine of TensorRT-RTX"):
        export_triton(engine("rtx"), TritonConfig(), tmp_path / "other")


def test_an_engines_free_sizes_are_those_of_its_profiles(graph, parse):
    def engine(**figures: object) -> Artifact:
        step = new_step("export-trt", {}, graph, {"flavour": "tensorrt", **figures})
        return dataclasses.replace(graph, kind="engine", image=ImageSpec(), history=(*graph.history, step))

    profile = {"input": "blurred", "min": [1, 3, 24, 40], "opt": [4, 3, 48, 40], "max": [4, 3, 48, 40]}
    served = engine(profiles=[profile])
    config = parse(model_config(served, tensors_of(served), TritonConfig(max_batch=4)))
    assert (config.max_batch_size, list(config.input[0].dims)) == (4, [3, -1, 40])
    with pytest.raises(ConfigError, match="takes at most 4 pictures"):
        model_config(served, tensors_of(served), TritonConfig(max_batch=5))
    other = engine(profiles=[profile | {"min": [4, 3, 24, 40]}, profile | {"min": [4, 3, 48, 40]}])
    assert tensors_of(other)[0].dims == (4, 3, -1, 40)
    with pytest.raises(ArtifactError, match="without its weights"):
        tensors_of(engine(weights_stripped=True))


def test_what_cannot_be_served_is_refused(graph, tmp_path):
    with pytest.raises(ArtifactError, match="is of kind checkpoint"):
        tensors_of(dataclasses.replace(graph, kind="checkpoint"))
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ArtifactError, match="is there already"):
        export_triton(graph, TritonConfig(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    model = onnx.load(graph.path)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="blurred is of type INT64"):
        tensors_of(dataclasses.replace(graph, path=tmp_path / "model.onnx"))
    for wrong in ({"name": "a b"}, {"name": "../up"}, {"device": "tpu"}, {"instances": 0}, {"max_batch": -1}):
        with pytest.raises(ConfigError):
            TritonConfig(**wrong)


def serve(graph: Artifact, tensors: tuple[Tensor, Tensor]):
    """A server of Triton's protocol with the graph behind it, on a free port."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    session = onnxruntime.InferenceSession(graph.path, providers=["CPUExecutionProvider"])

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelMetadata(self, request, context):
            answer = service_pb2.ModelMetadataResponse(name=request.name)
            answer.inputs.add(name=tensors[0].name, datatype="FP32", shape=tensors[0].dims)
            return answer

        def ModelInfer(self, request, context):
            (given,), (wanted,) = request.inputs, request.outputs
            batch = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(given.shape)
            (restored,) = session.run([wanted.name], {given.name: batch})
            answer = service_pb2.ModelInferResponse(model_name=request.model_name)
            answer.outputs.add(name=wanted.name, datatype="FP32", shape=restored.shape)
            answer.raw_output_contents.append(restored.tobytes())
            return answer

    server = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


def test_the_client_restores_a_picture(graph, photo, tmp_path):
    pytest.importorskip("tritonclient.grpc", reason="the client needs tritonclient")
    export_triton(graph, TritonConfig(), tmp_path / "served")
    save_rgb(tmp_path / "a.png", photo[:24, :40])
    save_rgb(tmp_path / "large.png", photo[:30, :40])
    server, url = serve(graph, tensors_of(graph))

    def client(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "client.py", tmp_path / name, tmp_path / "out.png", "--url", url]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        where = tmp_path / "served"
        return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=120)

    try:
        refused = client("large.png")
        done = client("a.png")
    finally:
        server.stop(None)
    assert "deblur takes 40x24, and the picture is 40x30" in refused.stderr
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(graph.path, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"blurred": to_batch(load_rgb(tmp_path / "a.png"))})[0]
    assert np.array_equal(load_rgb(tmp_path / "out.png"), from_batch(expected))
    assert Path(tmp_path / "served" / "README.md").read_text().startswith("# deblur on Triton")
