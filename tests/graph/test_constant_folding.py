"""Sizes and borders that an exported graph computes become constants; everything else stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from torch import nn

from deblur_deploy.graph.constant_folding import fold_constants
from deblur_deploy.graph.plain_forms import replace_batch_norms


def model_of(nodes, initializers=()) -> onnx.ModelProto:
    """A graph from (1, 8, 12, 10) to whatever."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 12, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in initializers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def run(model: onnx.ModelProto, picture: np.ndarray) -> np.ndarray:
    return InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": picture})[0]


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).random((1, 8, 12, 10), dtype=np.float32)


def test_a_size_taken_apart_and_put_together_is_one_constant(picture):
    """An enlargement by 2 and then to the size of what came before it, twice: sizes that follow from sizes."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "two", "four", "zero"], ["hw"]),
        helper.make_node("Mul", ["hw", "twice"], ["larger"]),
        helper.make_node("Concat", ["nc", "larger"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["up"], mode="nearest"),
        helper.make_node("Shape", ["up"], ["again"]),
        helper.make_node("Resize", ["x", "", "", "again"], ["y"], mode="nearest"),
    ]
    numbers = {"two": [2], "four": [4], "zero": [0], "twice": [2, 2], "nc": [1, 8]}
    model = model_of(nodes, [(name, np.array(value, np.int64)) for name, value in numbers.items()])
    wanted = run(model, picture)

    assert fold_constants(model)

    assert [node.op_type for node in model.graph.node] == ["Resize"]
    sizes = next(item for item in model.graph.initializer if item.name == model.graph.node[0].input[3])
    assert numpy_helper.to_array(sizes).tolist() == [1, 8, 24, 20]
    assert np.array_equal(run(model, picture), wanted)
    assert not fold_constants(model)


def test_weights_quantizers_and_values_stay(picture):
    weight = np.random.default_rng(1).standard_normal((8, 8, 3, 3)).astype(np.float32)
    small = np.float32([0.5])
    nodes = [
        helper.make_node("Abs", ["weight"], ["positive"]),
        helper.make_node("QuantizeLinear", ["small", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["rounded"]),
        helper.make_node("Conv", ["x", "positive"], ["z"]),
        helper.make_node("Mul", ["z", "rounded"], ["y"]),
    ]
    constants = [("weight", weight), ("small", small), ("scale", np.float32(0.25)), ("zero", np.int8(0))]

    assert not fold_constants(model_of(nodes, constants))


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 5), (2, 8, 3, 4, 5)], ids=["2D", "3D", "5D"])
def test_batch_norm_of_any_number_of_axes(shape):
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 5: nn.BatchNorm3d}[len(shape)](8).eval()
    nn.init.uniform_(norm.running_var)
    nn.init.normal_(norm.running_mean)
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    names = ("weight", "bias", "running_mean", "running_var")
    constants = [numpy_helper.from_array(getattr(norm, name).detach().numpy(), name) for name in names]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("BatchNormalization", ["x", *names], ["y"])], "norm", ends[:1], ends[1:], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)

    assert replace_batch_norms(model) == 1

    with torch.no_grad():
        np.testing.assert_allclose(run(model, values), norm(torch.from_numpy(values)).numpy(), atol=1e-5)


def test_batch_norm_is_a_scale_and_a_shift(picture):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8, eps=1e-3).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var)
    names = ("weight", "bias", "running_mean", "running_var")
    node = helper.make_node("BatchNormalization", ["x", *names], ["y"], epsilon=1e-3)
    model = model_of([node], [(name, getattr(norm, name).detach().numpy()) for name in names])

    assert replace_batch_norms(model) == 1

    assert [node.op_type for node in model.graph.node] == ["Mul", "Add"]
    with torch.no_grad():
        np.testing.assert_allclose(run(model, picture), norm(torch.from_numpy(picture)).numpy(), atol=1e-5)
