"""Quantizers that break fusion are named, and those that stand right are not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from deblur_deploy.graph.lint import lint

CONV = "{0} = Conv <kernel_shape = [1, 1]> ({1}, wd)"
"""An integer convolution, if its input is dequantized."""


def network(body: str) -> onnx.ModelProto:
    """A graph on x (1, 2, 8, 8) in which ``wd`` is a dequantized weight and ``a`` is x behind a quantizer."""
    quantized = "q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) wd = DequantizeLinear(w, s, z)"
    model = parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 19, "deblur": 1]> g (float[1,2,8,8] x) => (y) {{ {quantized} {body} }}'
    )
    constants = {"w": np.ones((2, 2, 1, 1), np.int8), "wf": np.ones((2, 2, 1, 1), np.float32)}
    constants |= {"s": np.float32(0.1), "z": np.int8(0), "one": np.float32(1), "up": np.float32([1, 1, 2, 2])}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), k) for k, v in constants.items())
    for node in model.graph.node:
        node.name = f"the_{node.output[0]}"
    return model


def requantized(name: str, source: str) -> str:
    return f"{name}q = QuantizeLinear({source}, s, z) {name} = DequantizeLinear({name}q, s, z)"


GOOD = {
    "a convolution between quantizers": f"{CONV.format('c', 'a')} r = Relu(c) {requantized('y', 'r')}",
    "a residual that is quantized": f"{CONV.format('c', 'a')} t = Add(c, a) {requantized('y', 't')}",
    "an addition of floats": "t = Add(x, x) y = Relu(t)",
    "a constant added": f"{CONV.format('c', 'a')} y = Add(c, one)",
    "a resize between quantizers": f"r = Resize(a, , up) {requantized('b', 'r')} {CONV.format('y', 'b')}",
    "a float network behind": f"{CONV.format('c', 'a')} d = Conv(c, wf) y = Resize(d, , up)",
    "an operator that is no work": f"{CONV.format('c', 'a')} r = Sigmoid(c) {requantized('y', 'r')}",
}

BAD = {
    "residual from the input": (f"{CONV.format('c', 'a')} t = Add(x, c) y = Relu(t)", "residual", "the_t", "the_c"),
    "residual from a layer": (
        f"{CONV.format('c', 'a')} r = Relu(x) t = Add(c, r) {requantized('y', 't')}",
        "residual",
        "the_t",
        "the_r",
    ),
    "sum of two integer layers": (
        f"{CONV.format('c', 'a')} {CONV.format('d', 'a')} y = Add(c, d)",
        "residual",
        "the_y",
        "the_d",
    ),
    "float resize": (
        f"{CONV.format('c', 'a')} r = Resize(c, , up) {requantized('b', 'r')} {CONV.format('y', 'b')}",
        "island",
        "the_r",
        "Resize",
    ),
    "resize that is read in float too": (
        f"r = Resize(a, , up) {requantized('b', 'r')} {CONV.format('c', 'b')} y = Mul(c, r)",
        "island",
        "the_r",
        "Resize",
    ),
    "float transposed convolution": (
        f"{CONV.format('c', 'a')} u = ConvTranspose(c, wf) v = Relu(u) {requantized('b', 'v')} {CONV.format('y', 'b')}",
        "island",
        "the_u",
        "ConvTranspose",
    ),
    "weights alone quantized": (
        f"{CONV.format('c', 'a')} {CONV.format('d', 'c')} {requantized('b', 'd')} {CONV.format('y', 'b')}",
        "island",
        "the_d",
        "Conv",
    ),
    "deformable convolution": (
        f"{CONV.format('c', 'a')} d = deblur.DeformConv2d(c, wd, x) {requantized('b', 'd')} {CONV.format('y', 'b')}",
        "island",
        "the_d",
        "DeformConv2d",
    ),
    "standard deformable convolution": (
        f"{CONV.format('c', 'a')} d = DeformConv(c, wd, x) {requantized('b', 'd')} {CONV.format('y', 'b')}",
        "island",
        "the_d",
        "DeformConv",
    ),
    "two quantizers in a row": (
        f"{requantized('b', 'a')} {CONV.format('y', 'b')}",
        "empty pair",
        "the_bq",
        "the_a",
    ),
    "cast before a layer": (
        "h = Cast <to = 10> (a) k = CastLike(wf, h) c = Conv(h, k) y = Cast <to = 1> (c)",
        "cast",
        "the_h",
        "the_c",
    ),
    "cast before the quantizer of the output": (
        f"c = Conv(x, wf) h = Cast <to = 1> (c) {requantized('y', 'h')}",
        "cast",
        "the_h",
        "the_c",
    ),
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD.keys())
def test_what_stands_right_is_not_named(body):
    assert lint(network(body)) == ()


@pytest.mark.parametrize(("body", "rule", "node", "mentions"), BAD.values(), ids=BAD.keys())
def test_what_breaks_fusion_is_named(body, rule, node, mentions):
    (finding,) = lint(network(body))

    assert (finding.rule, finding.node) == (rule, node)
    assert mentions in finding.text


def test_every_place_is_named_and_in_order():
    body = f"{CONV.format('c', 'a')} t = Add(x, c) {requantized('b', 't')} {CONV.format('d', 'b')} y = Add(t, d)"

    assert [finding.node for finding in lint(network(body))] == ["the_t", "the_y"]
