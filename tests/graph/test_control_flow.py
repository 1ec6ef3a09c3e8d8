"""What the exporter writes for networks that decide by their sizes: conditions, padding, shapes known in part."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.core.images import Resolution
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.graph.constant_folding import fold_constants
from deblur_deploy.graph.edit import names_used, remove_unused, rename_used
from deblur_deploy.graph.node_costs import precision_shares
from deblur_deploy.graph.plain_forms import write_pads
from deblur_deploy.graph.retype import convert_to_fp16
from deblur_deploy.graph.shrink import shorten
from deblur_deploy.network.generator import Generator


class Net(Generator):
    """A convolution, something, and a convolution."""

    arch = "test"
    multiple_of = 8

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.between = between

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        return [blurred + 0.2 * self.last(self.between(self.first(blurred)))]


class Windows(nn.Module):
    """Shifted windows of 8 with a mask by the picture's size, as Swin has them."""

    def split(self, y: Tensor) -> Tensor:
        batch, height, width, channels = y.shape
        y = y.view(batch, height // 8, 8, width // 8, 8, channels)
        return y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 64, channels)

    def forward(self, y: Tensor) -> Tensor:
        batch, channels, height, width = y.shape
        tokens = self.split(torch.roll(y.permute(0, 2, 3, 1), (-4, -4), (1, 2)))
        mask, number = torch.zeros(1, height, width, 1), 0
        for rows in (slice(0, -8), slice(-8, -4), slice(-4, None)):
            for columns in (slice(0, -8), slice(-8, -4), slice(-4, None)):
                mask[:, rows, columns] = number
                number += 1
        mask = self.split(mask).squeeze(-1)
        apart = torch.where((mask[:, None] - mask[:, :, None]) != 0, -100.0, 0.0)
        scores = tokens @ tokens.transpose(1, 2) / 8**0.5 + apart
        tokens = torch.softmax(scores, -1) @ tokens
        tokens = tokens.view(batch, height // 8, width // 8, 8, 8, channels).permute(0, 1, 3, 2, 4, 5)
        return torch.roll(tokens.reshape(batch, height, width, channels), (4, 4), (1, 2)).permute(0, 3, 1, 2)


BETWEEN = {
    "windows": Windows,
    "response": lambda: nn.LocalResponseNorm(3),
    "same": lambda: nn.Conv2d(8, 8, 5, padding="same"),
    "same dilated": lambda: nn.Conv2d(8, 8, 3, padding="same", dilation=2),
    "same even": lambda: nn.Conv2d(8, 8, (2, 4), padding="same", dilation=(3, 1)),
    "same reflect": lambda: nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect"),
}


def run(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


@pytest.mark.parametrize("name", BETWEEN)
def test_a_file_of_one_size_gives_what_the_network_gives_and_can_be_retyped(name, photo):
    net = Net(BETWEEN[name]()).eval()
    model = network_to_onnx(net, Resolution(44, 40))
    batch = np.ascontiguousarray(photo[:40, :44].transpose(2, 0, 1)[None] / 255, np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(run(model, batch), expected, atol=1e-5)
    assert not any(node.op_type == "If" for node in model.graph.node)
    np.testing.assert_allclose(run(convert_to_fp16(model), batch), expected, atol=5e-3)


@pytest.mark.parametrize("name", ["response", "same", "same dilated", "same even"])
def test_a_file_of_every_size_does_too(name, photo):
    net = Net(BETWEEN[name]()).eval()
    model = network_to_onnx(net, None)
    for height, width in ((40, 44), (33, 71)):
        batch = np.ascontiguousarray(photo[:height, :width].transpose(2, 0, 1)[None] / 255, np.float32)
        with torch.no_grad():
            expected = net(torch.from_numpy(batch)).numpy()
        np.testing.assert_allclose(run(model, batch), expected, atol=1e-5)
    assert sum(precision_shares(model, {"batch": 1, "height": 64, "width": 96}).values()) == pytest.approx(1)


def conditional(known: bool) -> onnx.ModelProto:
    """y = x + a or x - a, where the branches capture x and a."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(kind, ["x", "a"], ["inner"]), helper.make_node("Relu", ["inner"], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [1, 2])],
        )
        for name, kind in (("then", "Add"), ("else", "Sub"))
    }
    nodes = [helper.make_node("If", ["condition"], ["y"], **branches)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])]
    constants = [numpy_helper.from_array(np.float32([[1, 2]]), "a")]
    if known:
        constants.append(numpy_helper.from_array(np.array(False), "condition"))
    else:
        inputs.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
    output = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])]
    graph = helper.make_graph(nodes, "g", inputs, output, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def test_what_branches_capture_is_used_and_renamed():
    model = conditional(known=False)
    (node,) = model.graph.node
    assert names_used(node) == {"condition", "x", "a"}
    remove_unused(model)
    assert [item.name for item in model.graph.initializer] == ["a"]
    shorten(model)
    onnx.checker.check_model(model, full_check=True)
    batch, session = np.float32([[5, 1]]), onnxruntime.InferenceSession(model.SerializeToString())
    for condition, expected in ((True, [[6, 3]]), (False, [[4, 0]])):
        assert session.run(None, {"x": batch, "condition": np.array(condition)})[0].tolist() == expected
    rename_used(node, {"inner": "other"})
    assert names_used(model.graph.node[0]) == names_used(node)  # a branch's own values keep their names


def test_a_branch_that_is_known_to_be_taken_replaces_the_condition():
    model = conditional(known=True)
    assert fold_constants(model)
    assert not any(node.op_type == "If" for node in model.graph.node)
    assert run(model, np.float32([[5, 1]])).tolist() == [[4, 0]]


@pytest.mark.parametrize("way", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (4, 1), (2, 3), (5, 2)])
def test_pads_are_those_that_onnx_means(way, kernel, dilation):
    head = '<ir_version: 9, opset_import: ["": 19]> g (float[1,1,9,9] x) => (float[1,1,h,w] y)'
    size = f'auto_pad = "{way}", dilations = [{dilation}, {dilation}], kernel_shape = [{kernel}, {kernel}]'
    model = parser.parse_model(f"{head} {{ y = Conv <{size}> (x, w) }}")
    weight = np.random.default_rng(0).normal(size=(1, 1, kernel, kernel)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    assert write_pads(model) == 1
    x = torch.arange(81.0).reshape(1, 1, 9, 9) / 81
    total = dilation * (kernel - 1) if way != "VALID" else 0
    before = total // 2 if way == "SAME_UPPER" else total - total // 2
    padded = F.pad(x, (before, total - before, before, total - before))
    expected = F.conv2d(padded, torch.from_numpy(weight), dilation=dilation)
    np.testing.assert_allclose(run(model, x.numpy()), expected.numpy(), atol=1e-5)
