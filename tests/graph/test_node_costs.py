"""Multiply-accumulates of ONNX nodes, against the network's own count and by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, inliner, numpy_helper, parser

from deblur_deploy.core.errors import ExportError
from deblur_deploy.core.images import Resolution
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.graph import node_costs
from deblur_deploy.graph.node_costs import compute_nodes
from deblur_deploy.graph.sizes import fix_sizes
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.srn import SRN, SRNConfig


def test_multiply_accumulates_agree_with_the_network() -> None:
    net, size = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval(), Resolution(64, 48)
    nodes = compute_nodes(inliner.inline_local_functions(network_to_onnx(net, size)))
    assert sum(node.macs for node in nodes) == pytest.approx(measure_cost(net, size)["gmacs"] * 1e9, abs=1e5)
    # Three scales of 22 layers with weights, the deformable one included; the coarsest has no gate.
    assert len(nodes) == 3 * 22 - 1


@pytest.mark.parametrize(
    ("body", "weight", "macs"),
    [
        ("y = Conv <pads = [1, 1, 1, 1]> (x, w)", (5, 2, 3, 3), 5 * 6 * 5 * 2 * 9),
        ("y = Conv <group = 2> (x, w)", (4, 1, 1, 1), 4 * 6 * 5),
        ("y = ConvTranspose <strides = [2, 2]> (x, w)", (2, 7, 2, 2), 2 * 6 * 5 * 7 * 4),
        ("y = MatMul(x, w)", (5, 3), 2 * 6 * 3 * 5),
        ("f = Flatten(x) y = Gemm <transB = 1> (f, w)", (4, 60), 4 * 60),
        ("f = Flatten(x) t = Transpose(f) y = Gemm <transA = 1> (t, w)", (60, 4), 4 * 60),
    ],
)
def test_multiply_accumulates_of_each_operator(body: str, weight: tuple[int, ...], macs: int) -> None:
    model = parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 19]> g (float[1,2,6,5] x) => (float y) {{ {body} }}'
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(weight, np.float32), "w"))
    (node,) = compute_nodes(model)
    assert (node.weight_shape, node.macs) == (weight, macs)


def test_open_sizes_are_refused() -> None:
    text = '<ir_version: 9, opset_import: ["": 19]> g (float[1,2,H,W] x) => (float[1,2,H,W] y) { y = Conv(x, w) }'
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 2, 1, 1), np.float32), "w"))
    model.graph.node[0].name = "open"
    with pytest.raises(ExportError, match="'open'"):
        compute_nodes(model)


def test_a_network_of_known_sizes_is_not_folded_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folding took a third of a second each of the three times that an engine's network is counted."""
    net = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval()
    flat = onnx.shape_inference.infer_shapes(network_to_onnx(net, Resolution(64, 48)), data_prop=True)
    again = onnx.ModelProto()
    again.CopyFrom(flat)
    again.graph.node.append(helper.make_node("Conv", [flat.graph.input[0].name, "unused"], ["nowhere"], name="unused"))
    again.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 3, 1, 1), np.float32), "unused"))
    expected = compute_nodes(flat)
    for name in ("fold_constants", "share_constants"):
        monkeypatch.setattr(node_costs, name, lambda *_: pytest.fail("folded"))
    assert fix_sizes(flat, {}) == flat
    assert compute_nodes(flat) == compute_nodes(again) == expected
