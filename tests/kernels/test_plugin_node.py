"""Nodes that name the plugin are still read by everything that has none."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from deblur_deploy.core.images import Resolution
from deblur_deploy.network.srn import SRN

onnx = pytest.importorskip("onnx")

from deblur_deploy.export.to_onnx import network_to_onnx  # noqa: E402
from deblur_deploy.kernels.aot_plugin import (  # noqa: E402
    ATTRIBUTES,
    NAME,
    address_plugin,
)


@pytest.fixture(scope="module")
def model():
    from deblur_deploy.network.srn import SRNConfig

    torch.manual_seed(0)
    return network_to_onnx(SRN(SRNConfig.from_base(8, (1, 1, 1))).eval(), Resolution(40, 24))


def deform_nodes(model):
    return [node for node in model.graph.node if node.op_type == NAME]


def test_an_exported_node_has_the_plugins_attributes_and_no_others(model):
    for node in deform_nodes(model):
        assert {attribute.name for attribute in node.attribute} == set(ATTRIBUTES)
        assert len(node.input) == 3


def test_nodes_name_the_plugin_once(model):
    addressed = copy.deepcopy(model)

    assert address_plugin(addressed) == address_plugin(addressed) == len(deform_nodes(model)) > 0
    onnx.checker.check_model(addressed, full_check=True)
    for node in deform_nodes(addressed):
        values = [(a.name, a.s) for a in node.attribute if a.name.startswith("plugin_")]
        assert values == [("plugin_namespace", b"deblur"), ("plugin_version", b"1")]


def test_onnxruntime_gives_the_same_result(model):
    ort = pytest.importorskip("onnxruntime")
    addressed = copy.deepcopy(model)
    address_plugin(addressed)
    frame = np.random.default_rng(0).random((1, 3, 24, 40), dtype=np.float32)

    results = []
    for candidate in (model, addressed):
        session = ort.InferenceSession(candidate.SerializeToString(), providers=["CPUExecutionProvider"])
        results.append(session.run(None, {"blurred": frame})[0])
    assert np.array_equal(*results)


@pytest.mark.rtx
def test_tensorrt_rtx_parses_it(model):
    import tensorrt_rtx as trt

    addressed = copy.deepcopy(model)
    address_plugin(addressed)
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)

    assert parser.parse(addressed.SerializeToString()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
