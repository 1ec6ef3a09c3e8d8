"""Typed bfloat16: what becomes of a network's types, and how far its values are off."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper, parser

from deblur_deploy.config import ExportConfig, PrecisionConfig
from deblur_deploy.core.artifact import new_step
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution
from deblur_deploy.export.precision import lower_precision
from deblur_deploy.export.to_onnx import export_onnx, network_to_onnx
from deblur_deploy.graph.facts import read_facts
from deblur_deploy.graph.node_costs import share_of_macs
from deblur_deploy.graph.retype import BF16_OPSET, convert_to_bf16
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig


def test_a_generator_is_written_in_bfloat16():
    torch.manual_seed(0)
    source = network_to_onnx(SRN(SRNConfig.from_base(8, (1, 1, 1))).eval(), Resolution(64, 48))

    typed = convert_to_bf16(source)

    assert [entry.version for entry in typed.opset_import if entry.domain == ""] == [BF16_OPSET]
    assert share_of_macs(typed)["bf16"] >= 0.85
    assert "fp16" not in share_of_macs(typed)
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in typed.graph.initializer}
    assert typed.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert typed.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    weights = {tensor.name: tensor.data_type for tensor in typed.graph.initializer}
    for node in typed.graph.node:
        if node.op_type == "ConvTranspose":
            assert weights[node.input[1]] == TensorProto.FLOAT
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(typed, check_type=True, strict_mode=True))


def test_values_are_rounded_to_8_bits():
    head = '<ir_version: 9, opset_import: ["": 19]> g (float[1,4,2,2] x) => (float[1,4,2,2] y)'
    model = parser.parse_model(f"{head} {{ a = Conv(x, w) b = Mul(a, s) y = Conv(b, w) }}")
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(4, 4, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3.0), "s"))

    typed = convert_to_bf16(model)

    (rounded,) = (numpy_helper.to_array(t).astype(np.float32) for t in typed.graph.initializer if len(t.dims) == 4)
    assert np.abs(rounded / weights - 1).max() <= 2**-8
    assert np.abs(rounded / weights - 1).max() > 2**-11


def test_a_name_that_fits_nothing_is_refused():
    head = '<ir_version: 9, opset_import: ["": 19]> g (float[1,4,2,2] x) => (float[1,4,2,2] y)'
    with pytest.raises(ConfigError, match="'/nothing/\\*'"):
        convert_to_bf16(parser.parse_model(f"{head} {{ y = Relu(x) }}"), ("/nothing/*",))


def test_weights_that_float16_cannot_hold_keep_their_values():
    head = '<ir_version: 9, opset_import: ["": 19]> g (float[1,4,2,2] x) => (float[1,4,2,2] y)'
    model = parser.parse_model(f"{head} {{ a = Conv(x, w) y = Relu(a) }}")
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    weights = np.full((4, 4, 1, 1), 1e-7, np.float32)
    weights[0] = 1e5
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))

    (tensor,) = convert_to_bf16(model).graph.initializer

    assert tensor.data_type == TensorProto.BFLOAT16
    np.testing.assert_allclose(numpy_helper.to_array(tensor).astype(np.float32), weights, rtol=2**-8)


def test_a_file_with_free_sizes_is_written_with_its_facts(tmp_path):
    torch.manual_seed(0)
    net = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval()
    checkpoint = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    source = export_onnx(checkpoint, ExportConfig(64, 48, dynamic=True), tmp_path / "onnx")

    typed = lower_precision(source, PrecisionConfig(precision="bf16"), tmp_path / "bf16")

    assert typed.stage == "to-bf16"
    assert typed.figures["precision"]["bf16"] >= 0.85
    assert read_facts(onnx.load(typed.path)).source_sha256 == source.sha256
