"""Passes change a model in place, also for those who hold a part of it."""

from __future__ import annotations

import onnx
from onnx import parser
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from deblur_deploy.graph.edit import run_passes

TEXT = """
<ir_version: 9, opset_import: ["": 19, "own": 1]>
g (float[2] x) => (float[2] y) { c = Constant <value = float {2.0}> () t = own.twice(x) y = Mul(t, c) }
<domain: "own", opset_import: ["": 19]> twice (a) => (b) { b = Add(a, a) }
"""


def test_a_graph_that_was_taken_out_before_is_still_the_models() -> None:
    model = parser.parse_model(TEXT)
    graph = model.graph
    assert run_passes(model, LiftConstantsToInitializersPass(size_limit=0))
    assert [node.op_type for node in graph.node] == ["twice", "Mul"]
    graph.initializer[0].name = "two"
    assert [item.name for item in model.graph.initializer] == ["two"]
    assert [function.name for function in model.functions] == ["twice"]
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 19, "own": 1}


def test_a_pass_that_finds_nothing_says_so_and_changes_no_byte() -> None:
    model = parser.parse_model(TEXT)
    run_passes(model, LiftConstantsToInitializersPass(size_limit=0))
    before = model.SerializeToString(deterministic=True)
    assert not run_passes(model, LiftConstantsToInitializersPass(size_limit=0))
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(model)
