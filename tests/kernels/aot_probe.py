"""Run by test_aot_plugin.py in a process of its own, where TensorRT's bindings stand on stub libraries.

Prints what the plugin's functions give TensorRT, as JSON: one object for each case read from standard input.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

for library in sys.argv[1:]:
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
import numpy as np  # noqa: E402
import tensorrt_bindings as trt  # noqa: E402

sys.modules["tensorrt"] = trt
import tensorrt.plugin as trtp  # noqa: E402
from tensorrt.plugin import _tensor  # noqa: E402

from deblur_deploy.kernels.aot_plugin import register_aot_plugin  # noqa: E402

_OPERATIONS = {
    "SUM": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "PROD": lambda a, b: a * b,
    "FLOOR_DIV": lambda a, b: a // b,
    "CEIL_DIV": lambda a, b: -(-a // b),
}


class Dimension:
    """A constant dimension expression."""

    def __init__(self, value: int) -> None:
        self._value = value

    def is_constant(self) -> bool:
        return True

    def get_constant_value(self) -> int:
        return self._value


class Builder:
    """Computes expressions at once, as TensorRT does where all dimensions are known."""

    def constant(self, value: int) -> Dimension:
        return Dimension(value)

    def operation(self, kind: Any, first: Dimension, second: Dimension) -> int:
        return _OPERATIONS[kind.name](first.get_constant_value(), second.get_constant_value())


def tensor(shape: list[int], dtype: str, layout: str) -> Any:
    desc = trtp.TensorDesc(trtp.ShapeExprs.from_tuple(tuple(shape)), getattr(trt.DataType, dtype))
    desc.shape = _tensor.Shape(tuple(shape))
    desc.format = getattr(trt.TensorFormat, layout)
    return desc


def answer(case: dict[str, Any]) -> dict[str, Any]:
    plugin = trtp.op.deblur.DeformConv2d
    element = case["element"]
    x = tensor(case["x"], element, case["layout"])
    weight, offset = tensor(case["weight"], element, "LINEAR"), tensor(case["offset"], case["offset_element"], "LINEAR")
    # As TensorRT makes them of the node's fields: integers are 64 bits there, and come as an array of one.
    attributes = [np.array(v, np.int64).reshape(-1).astype(np.int32) for v in case["attributes"].values()]
    named = dict(zip(case["attributes"], attributes, strict=True))
    y = plugin.register_func(x, weight, offset, **named)
    combinations = plugin.autotune_func(x, weight, offset, *attributes, (y,))
    name, ptx, launch, arguments = plugin.aot_impl_func(x, weight, offset, *attributes, (y,), 0)
    return {
        "attributes": list(plugin.input_attrs),
        "aot_attributes": plugin.aot_impl_attr_names,
        "shape": [dimension.constant_value() for dimension in y.shape_expr],
        "dtype": y.dtype.name,
        "combinations": [
            [[t.name for t in found.types], [f.name for f in found.layouts]]
            for combination in combinations
            for found in combination._get_combinations()
        ],
        "name": name,
        "ptx": ptx.decode(),
        "grid": [axis.constant_value() for axis in (launch.grid_x, launch.grid_y, launch.grid_z)],
        "block": [axis.constant_value() for axis in (launch.block_x, launch.block_y, launch.block_z)],
        "shared_bytes": launch.shared_mem.constant_value(),
        "arguments": [argument.constant_value() for argument in arguments],
    }


register_aot_plugin(lazy=True)
register_aot_plugin(lazy=True)  # a second time changes nothing
_tensor.SymIntExpr._exprBuilder = Builder()
_tensor.SymIntExpr._is_dummy = False  # the package's own shape expressions set it; its plain integers forget to
print(json.dumps([answer(case) for case in json.load(sys.stdin)]))
