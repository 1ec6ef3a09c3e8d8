"""Networks in 16 bits beside their float32 selves: whatever their arithmetic is, no infinity inside and one picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.config import PrecisionConfig
from deblur_deploy.core.errors import ExportError
from deblur_deploy.core.images import ImageSpec, Resolution, to_batch
from deblur_deploy.export import probes, typed_check
from deblur_deploy.export.precision import lower_precision
from deblur_deploy.export.probes import probe_pictures
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.export.typed_check import WITHIN, settle_types
from deblur_deploy.graph import float_nodes
from deblur_deploy.graph.retype import convert_to_bf16, convert_to_fp16, tensor_types
from deblur_deploy.graph.rounded import round_in_float32
from deblur_deploy.network.generator import Generator
from deblur_deploy.runtime import runner as runner_module

SIZE = Resolution(48, 40)
IMAGE = ImageSpec(height=SIZE.height, width=SIZE.width)
WIDTH = 16


class Net(Generator):
    """Three convolutions with one piece of arithmetic between the first two."""

    arch = "test"

    def __init__(self, between: Callable[[Tensor], Tensor] | nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)  # black stays zero, where norms divide by it
        self.mid, self.last = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 3, 3, padding=1)
        self.between = between
        with torch.no_grad():
            self.last.weight *= 0.2

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        return [blurred + self.last(F.relu(self.mid(self.between(self.first(blurred)))))]


class ChannelsLast(nn.Module):
    """A normalisation of PyTorch's own over the channels."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, y: Tensor) -> Tensor:
        return self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scaled(nn.Module):
    """A layer whose output float16 does not hold, and one that brings it back."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = (nn.Conv2d(WIDTH, WIDTH, 1, bias=False) for _ in range(2))
        with torch.no_grad():
            self.up.weight *= 1e5
            self.down.weight *= 1e-5

    def forward(self, y: Tensor) -> Tensor:
        return self.down(F.relu(self.up(y)))


def over_channels(y: Tensor) -> Tensor:
    mean = y.mean(1, keepdim=True)
    return (y - mean) / ((y - mean).pow(2).mean(1, keepdim=True) + 1e-8).sqrt()


def variance_pooled(y: Tensor) -> Tensor:
    y = y + 2
    mean, square = (F.avg_pool2d(v, 7, 1, 3, count_include_pad=False) for v in (y, y * y))
    return (y - mean) / torch.sqrt((square - mean * mean).clamp(min=0) + 1e-4)


def attention(scores: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def attend(y: Tensor) -> Tensor:
        pixels = y.flatten(2)
        return (torch.softmax(scores(pixels), -1) @ pixels).reshape(y.shape)

    return attend


def cosine(pixels: Tensor, eps: float = 1e-12) -> Tensor:
    unit = F.normalize(pixels, dim=-1, eps=eps)
    return unit @ unit.transpose(1, 2) * 20


def masked(pixels: Tensor) -> Tensor:
    scores = pixels @ pixels.transpose(1, 2) / 100
    return scores + torch.triu(torch.ones(WIDTH, WIDTH), 1) * -1e9


ARITHMETIC: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "LayerNorm spelled out": lambda: over_channels,
    "LayerNorm": lambda: ChannelsLast(nn.LayerNorm(WIDTH, eps=1e-8)),
    "RMS spelled out": lambda: lambda y: y * torch.rsqrt(y.pow(2).mean(1, keepdim=True) + 1e-12),
    "RMSNorm": lambda: ChannelsLast(nn.RMSNorm(WIDTH, eps=1e-8)),
    "GroupNorm": lambda: nn.GroupNorm(4, WIDTH, eps=1e-8),
    "InstanceNorm": lambda: nn.InstanceNorm2d(WIDTH, eps=1e-8, affine=True),
    "normalize 1e-12": lambda: lambda y: F.normalize(y, dim=1),
    "normalize 1e-8": lambda: lambda y: F.normalize(y, dim=1, eps=1e-8),
    "normalize 1e-4": lambda: lambda y: F.normalize(y, dim=1, eps=1e-4),
    "large squares": lambda: lambda y: F.normalize((400 * y).square() + (400 * y).square().mean(1, True), dim=1),
    "sum over the picture": lambda: lambda y: y * torch.sigmoid((50 * y).sum((2, 3), keepdim=True) * 1e-6),
    "sum over a count": lambda: lambda y: y * (60 * y).abs().sum((2, 3), keepdim=True) / (60 * y.shape[2] * y.shape[3]),
    "deviation": lambda: lambda y: y * y.std((2, 3), keepdim=True),
    "response norm": lambda: lambda y: y + y * y.norm(dim=(2, 3), keepdim=True) / (y.norm() / 4 + 1e-6),
    "large mean": lambda: (
        lambda y: (2e4 * y - (2e4 * y).mean((2, 3), True)) / ((2e4 * y).std((2, 3), keepdim=True) + 1e-6)
    ),
    "variance pooling": lambda: variance_pooled,
    "exponentials": lambda: lambda y: y * torch.exp(3 * y + 9) / (1 + torch.exp(3 * y + 9)),
    "sharp softmax": lambda: lambda y: y * torch.softmax(100 * y, 1),
    "log of sums": lambda: lambda y: y + torch.logsumexp(1e3 * y, 1, keepdim=True) * 1e-3,
    "reciprocal": lambda: lambda y: y * (1 / (y.abs() + 1e-7)) * y,
    "logarithm": lambda: lambda y: torch.log(y.abs() + 1e-7) * 0.02,
    "tanh": lambda: lambda y: F.gelu(100 * y, approximate="tanh") * 0.01,
    "cosine attention": lambda: attention(cosine),
    "cosine attention 1e-8": lambda: attention(lambda pixels: cosine(pixels, 1e-8)),
    "attention with large scores": lambda: attention(lambda p: 64 * p @ p.transpose(1, 2) / math.sqrt(WIDTH * 2000)),
    "einsum attention": lambda: (
        lambda y: torch.einsum("bij,bjn->bin", torch.softmax(cosine(y.flatten(2)), -1), y.flatten(2)).reshape(y.shape)
    ),
    "masked attention": lambda: attention(masked),
    "linear attention": lambda: (
        lambda y: (
            y.flatten(2) * torch.exp(y * 3 + 6).flatten(2) / torch.exp(y * 3 + 6).flatten(2).sum((1, 2), True) * 1e3
        ).reshape(y.shape)
    ),
    "large activations": Scaled,
}


def exported(between: Callable[[Tensor], Tensor]) -> onnx.ModelProto:
    torch.manual_seed(0)
    return network_to_onnx(Net(between).eval(), SIZE)


def run(model: onnx.ModelProto, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


@pytest.mark.parametrize("convert", [convert_to_fp16, convert_to_bf16])
@pytest.mark.parametrize("name", ARITHMETIC)
def test_the_picture_stays_the_same(name, convert, photo):
    floats = exported(ARITHMETIC[name]())
    settled = settle_types(floats, lambda kept: convert(floats, (), kept), [photo], IMAGE)

    assert settled.figures["probe_within"] >= WITHIN
    model, rounded = round_in_float32(settled.model)
    assert rounded  # something did get 16 bits
    for title, picture in probe_pictures([photo], SIZE).items():
        batch = to_batch(picture)
        given, expected = run(model, batch), run(floats, batch)
        assert np.isfinite(given).all(), title
        assert (np.abs(given - expected) <= 1 / 255).mean() >= WITHIN, title


@pytest.mark.parametrize(
    "name", ["LayerNorm spelled out", "normalize 1e-12", "large squares", "large mean", "exponentials", "reciprocal"]
)
def test_what_structure_does_not_show_is_found_by_measuring(name, photo, monkeypatch):
    monkeypatch.setattr(float_nodes, "delicate_nodes", lambda graph, types, kind: set())
    floats = exported(ARITHMETIC[name]())
    plain, _ = round_in_float32(convert_to_fp16(floats))
    outputs = {title: run(plain, to_batch(picture)) for title, picture in probe_pictures([photo], SIZE).items()}
    assert any(
        not np.isfinite(output).all() or (np.abs(output - run(floats, to_batch(picture))) > 1 / 255).mean() > 1e-3
        for (title, output), picture in zip(outputs.items(), probe_pictures([photo], SIZE).values(), strict=True)
    )

    settled = settle_types(floats, lambda kept: convert_to_fp16(floats, (), kept), [photo], IMAGE)

    assert settled.figures["probe_within"] >= WITHIN
    assert settled.figures["kept_fp32"]


@pytest.mark.parametrize("name", ["LayerNorm spelled out", "normalize 1e-8", "GroupNorm", "variance pooling"])
def test_normalisations_are_found_without_a_trial(name, photo):
    floats = exported(ARITHMETIC[name]())
    typed = convert_to_fp16(floats)
    types = tensor_types(typed)
    inside = {"ReduceMean", "ReduceL2", "Pow", "Sqrt", "Div", "Clip", "InstanceNormalization", "AveragePool"}
    kinds = {types[value] for n in typed.graph.node if n.op_type in inside for value in (n.input[0], n.output[0])}
    assert kinds == {TensorProto.FLOAT}
    assert all(types[node.input[1]] == TensorProto.FLOAT16 for node in typed.graph.node if node.op_type == "Conv")
    settled = settle_types(floats, lambda kept: convert_to_fp16(floats, (), kept), [photo], IMAGE)
    assert settled.figures["kept_fp32"] == []


def test_plain_arithmetic_keeps_16_bits():
    typed = convert_to_fp16(exported(lambda y: F.silu(F.leaky_relu(y, 0.1) * 0.7 + 1e-3) * torch.sigmoid(y)))
    types = tensor_types(typed)
    last = max(i for i, node in enumerate(typed.graph.node) if node.op_type == "Conv")
    first = min(i for i, node in enumerate(typed.graph.node) if node.op_type == "Conv")
    values = {types[name] for node in typed.graph.node[first + 1 : last] for name in node.output}
    assert values == {TensorProto.FLOAT16}


def test_large_activations_go_to_float32_with_their_layers_named(photo):
    floats = exported(Scaled())
    settled = settle_types(floats, lambda kept: convert_to_fp16(floats, (), kept), [photo], IMAGE)
    assert any("/between/up/Conv" in layer for layer in settled.figures["kept_fp32"])
    assert settled.figures["largest_activation"] < 6e4
    assert settled.figures["largest_activation_layer"]


SHEET = Resolution(320, 160)
"""A size at which two pictures share a sheet, for networks that look at neighbourhoods."""


def at_sheet_size(
    between: Callable[[Tensor], Tensor], convert: Callable[..., onnx.ModelProto], photo: NDArray[np.uint8]
):
    """A network at that size, typed."""
    torch.manual_seed(0)
    floats = network_to_onnx(Net(between).eval(), SHEET)
    image = ImageSpec(height=SHEET.height, width=SHEET.width)
    return settle_types(floats, lambda kept: convert(floats, (), kept), [photo], image)


@pytest.mark.parametrize("name", ["reciprocal", "exponentials"])
def test_on_a_sheet_the_same_faults_are_found(name, photo, monkeypatch):
    monkeypatch.setattr(float_nodes, "delicate_nodes", lambda graph, types, kind: set())
    runs = []
    monkeypatch.setattr(typed_check, "as_taken", lambda *taken: runs.append(taken) or probes.as_taken(*taken))
    settled = at_sheet_size(ARITHMETIC[name](), convert_to_fp16, photo)
    assert len(runs) == 4
    assert settled.figures["kept_fp32"]
    model, _ = round_in_float32(settled.model)
    torch.manual_seed(0)
    floats = network_to_onnx(Net(ARITHMETIC[name]()).eval(), SHEET)
    for title, picture in probe_pictures([photo], SHEET).items():  # whole ones
        batch = to_batch(picture)
        assert (np.abs(run(model, batch) - run(floats, batch)) <= 1 / 255).mean() >= WITHIN, title


def test_on_a_sheet_values_may_take_half_as_much_of_the_range(photo):
    def scaled_by(factor: float) -> nn.Module:
        layer = Scaled()
        layer.up.weight.data *= factor / 1e5
        layer.down.weight.data *= 1e5 / factor
        return layer

    first = at_sheet_size(scaled_by(1e4), convert_to_fp16, photo).figures
    assert first["kept_fp32"] == []
    reach = 1e4 * 65504 / first["largest_activation"]
    assert at_sheet_size(scaled_by(0.4 * reach), convert_to_fp16, photo).figures["kept_fp32"] == []
    assert at_sheet_size(scaled_by(0.5 * reach), convert_to_fp16, photo).figures["kept_fp32"]


def test_a_flat_part_of_a_sheet_is_named(photo):
    with pytest.raises(ExportError, match="float32 network itself gives NaN or infinite values on black"):
        at_sheet_size(lambda y: y / sum(y[:, [i]].abs() for i in range(WIDTH)), convert_to_fp16, photo)


def test_a_network_that_gives_nan_itself_is_refused(photo):
    floats = exported(lambda y: y / y.abs().sum(1, keepdim=True))
    with pytest.raises(ExportError, match="float32 network itself gives NaN or infinite values on black"):
        settle_types(floats, lambda kept: convert_to_fp16(floats, (), kept), [photo], IMAGE)


def test_rounding_shows_what_onnxruntime_hides():
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "half"], ["square"]),
        helper.make_node("Sqrt", ["square"], ["root"]),
        helper.make_node("Cast", ["root"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    opset = [helper.make_opsetid("", 19)]
    typed = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=opset, ir_version=10)
    assert run(typed, np.float32([300])) == 300  # its kernels are float32
    model, rounded = round_in_float32(typed)
    assert np.isinf(run(model, np.float32([300])))
    assert rounded == ("half", "square", "root")


@pytest.mark.parametrize(("io", "image"), [("uint8", ImageSpec.of_frames(None, None)), ("float", ImageSpec())])
def test_frames_and_free_sizes_are_checked_too(tiny, draw_frames, io, image):
    floats = network_to_onnx(tiny, None, io)
    settled = settle_types(floats, lambda kept: convert_to_fp16(floats, (), kept), [draw_frames(1, 17, 23)[0]], image)
    assert settled.figures["largest_activation"] > 0.1
    assert settled.figures["probe_within"] >= WITHIN


def test_the_stage_says_what_it_kept(tiny, save, draw_frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    size = Resolution(41, 30)
    image = ImageSpec(height=size.height, width=size.width)
    model = network_to_onnx(tiny, size)
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(draw_frames(1, 24, 24)[0]).save(photos / "small.png")  # smaller than the graph
    config = PrecisionConfig(check_overflow=True, calibration=str(photos))
    assert lower_precision(save(model, image), config, tmp_path / "sound").figures["kept_fp32"] == []

    weights = {item.name: item for item in model.graph.initializer}
    for node in model.graph.node:
        for name in node.input[1:] if node.name == "/enter/Conv" else ():
            weights[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights[name]) * 3e5, name))
    large = lower_precision(save(model, image), config, tmp_path / "large")
    assert "'/enter/Conv'" in large.figures["kept_fp32"]

    monkeypatch.setattr(runner_module, "find_spec", lambda name: None)
    unchecked = lower_precision(save(model, image), config, tmp_path / "unchecked")
    assert "onnxruntime" in unchecked.figures["overflow_unchecked"]


def test_what_stays_broken_is_refused(photo, monkeypatch):
    floats = exported(Scaled())
    monkeypatch.setattr(typed_check, "_too_large", lambda *_: set())
    with pytest.raises(ExportError, match=r"NaN or infinite values on .*, with all but its layers"):
        settle_types(floats, lambda kept: convert_to_fp16(floats), [photo], IMAGE)
