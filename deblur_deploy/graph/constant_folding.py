"""Fold what an exported graph computes from constants and the sizes of its values alone.

The exporter writes the borders of some paddings, and the sizes of some enlargements, as a dozen nodes that take the
shape of a value apart and put it together again. At a fixed size all of that is one constant. Until it is, shape
inference stops there, and so does every builder that needs the sizes.
"""

from __future__ import annotations

import math
from collections.abc import Container

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants_ir

from deblur_deploy.graph.edit import run_passes

_LARGEST = 64
"""Elements of the largest constant that is folded: sizes and borders, never weights."""

_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Operators that stay although all their inputs are constant: they are what makes a graph quantized."""


class _Fold(ir.passes.InPlacePass):
    """onnxscript's constant folding, for constants of a few numbers."""

    def __init__(self, operators: Container[str] | None) -> None:
        super().__init__()
        self._operators = operators

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        def should_fold(node: ir.Node) -> bool | None:
            if node.op_type in _QUANTIZERS or not (self._operators is None or node.op_type in self._operators):
                return False
            return True if node.op_type == "ConstantOfShape" and _is_small(node.inputs[0]) else None

        result = fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=_LARGEST,
            output_size_limit=_LARGEST,
            should_fold=should_fold,
        )
        return ir.passes.PassResult(model, bool(result.modified))


def _is_small(shape: ir.Value | None) -> bool:
    """Whether a constant of this shape has few elements; onnxscript by itself leaves all of them alone."""
    return shape is not None and shape.const_value is not None and math.prod(shape.const_value.numpy()) <= _LARGEST


def fold_constants(model: onnx.ModelProto, operators: Container[str] | None = None) -> bool:
    """Replace nodes whose results are known by initialisers, in place.

    Args:
        model: A graph without control flow.
        operators: Only these are carried out; None takes all but quantizers.

    Returns:
        Whether anything was changed.
    """
    lift = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    return run_passes(model, _Fold(operators), lift, RemoveUnusedNodesPass())
