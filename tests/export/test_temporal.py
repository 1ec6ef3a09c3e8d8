"""Temporal networks as files: their tensors, quantized and in 16 bits, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from deblur_deploy.compress.calibration import calibrate
from deblur_deploy.compress.plan import prune_network
from deblur_deploy.config import ExportConfig, PrecisionConfig, PruneConfig
from deblur_deploy.core.artifact import new_step
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution, to_batch
from deblur_deploy.export.precision import lower_precision
from deblur_deploy.export.to_onnx import export_onnx, steps_to_onnx
from deblur_deploy.graph.retype import tensor_types
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.fake_quant import QuantScheme, insert_quantizers
from deblur_deploy.network.steps import STEP_INPUTS, STEP_OUTPUTS
from deblur_deploy.runtime.runner import open_with
from deblur_deploy.runtime.runtimes import OpenOptions

SIZE = ExportConfig(116, 88, temporal=True)


@pytest.fixture(scope="module")
def exported(temporal_artifact, tmp_path_factory):
    return export_onnx(temporal_artifact, SIZE, tmp_path_factory.mktemp("onnx") / "model")


def test_the_file_has_the_tensors_that_the_docs_name(exported):
    graph = onnx.load(exported.path).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }

    assert tuple(value.name for value in graph.input) == STEP_INPUTS
    assert tuple(value.name for value in graph.output) == STEP_OUTPUTS
    assert shapes == {
        "blurred": [1, 3, 88, 116],
        "before": [1, 3, 88, 116],
        "state": [1, 32, 6, 8],
        "flow": [1, 2, 22, 29],
        "trust": [1, 1, 22, 29],
        "restored": [1, 3, 88, 116],
        "state_out": [1, 32, 6, 8],
    }
    assert exported.image.state == (32, 6, 8)
    assert max(exported.figures["network_difference"].values()) < 1e-4


def test_sampling_and_where_it_samples_stay_float32_in_16_bits(exported, tmp_path, film_frames):
    config = PrecisionConfig(check_overflow=True, precision="fp16")

    typed = lower_precision(exported, config, tmp_path / "fp16")

    model = onnx.load(typed.path)
    types = tensor_types(model)
    samplers = [node for node in model.graph.node if node.op_type == "GridSample"]
    assert len(samplers) == 2
    assert {types[name] for node in samplers for name in node.input} == {TensorProto.FLOAT}
    assert typed.figures["precision"]["fp16"] > 0.99
    with (
        open_with(exported, "onnxruntime", OpenOptions(1, temporal=True)) as plain,
        open_with(typed, "onnxruntime", OpenOptions(1, temporal=True)) as half,
    ):
        for frame in film_frames:
            batch = np.ascontiguousarray(to_batch(frame)[..., :88, :116])
            assert np.abs(plain.infer(batch) - half.infer(batch)).max() < 2 / 255


def test_a_quantized_network_keeps_both_outputs(temporal_artifact, film_frames):
    net, scheme = load_network(temporal_artifact), QuantScheme()
    insert_quantizers(net, dataclasses.asdict(scheme))
    calibrate(net, [to_batch(film_frames[0])], scheme)

    graph = steps_to_onnx(net.eval(), Resolution(64, 64)).graph

    made = {name for node in graph.node for name in node.output}
    assert {value.name for value in graph.output} <= made
    assert any(node.op_type == "QuantizeLinear" for node in graph.node)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"dynamic": True}, "a temporal file has one size"), ({"io": "uint8"}, "a temporal file takes floats")],
)
def test_what_temporal_files_cannot_be_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        ExportConfig(64, 64, temporal=True, **change)


def test_pruning_keeps_the_frame_before(temporal_artifact, film_frames, tmp_path):
    net, _ = prune_network(load_network(temporal_artifact), PruneConfig(keep=0.5, round_to=4, importance="l2"))
    pruned = save_network(tmp_path / "pruned", net.eval(), spec_of(net), new_step("prune", {}, None, {}))

    assert pruned.network.config["temporal"] is True
    assert tuple(net.levels[0].enter.weight.shape[:2]) == (4, 9)
    exported = export_onnx(pruned, SIZE, tmp_path / "onnx")
    found = []
    for artifact, runtime in ((pruned, "torch"), (exported, "onnxruntime")):
        with open_with(artifact, runtime, OpenOptions(1, temporal=True)) as runner:
            found.append([runner.infer(np.ascontiguousarray(to_batch(f)[..., :88, :116])) for f in film_frames[:3]])
    assert max(np.abs(one - other).max() for one, other in zip(*found, strict=True)) < 1e-4
