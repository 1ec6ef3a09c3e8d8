"""Camera frames in and out: the same picture as with floats, within rounding, whatever the types inside."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from deblur_deploy.compress.quantize import quantize_network
from deblur_deploy.core.images import ImageSpec, Resolution, from_frames, to_frames
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.graph.dequantize import drop_quantization
from deblur_deploy.graph.frames import take_frames
from deblur_deploy.graph.retype import convert_to_fp16
from deblur_deploy.runtime.runner import open_runner

SIZE = Resolution(41, 30)  # no multiple of 4: the graph pads and crops
FLOATS = ImageSpec(height=SIZE.height, width=SIZE.width)
FRAMES = ImageSpec.of_frames(SIZE.height, SIZE.width)


@pytest.fixture(scope="module")
def quantized(tiny, draw_frames):
    net = copy.deepcopy(tiny)
    scheme = {"exempt": ["enter", "deform.conv_offset", "head"]}
    quantize_network(net, scheme, [from_frames(draw_frames(1, 64, 64))])
    return net


@pytest.fixture(scope="module")
def pairs(tiny, quantized) -> dict[str, tuple[onnx.ModelProto, onnx.ModelProto]]:
    """By precision, the file of floats and the file of frames."""

    def both(net):
        return network_to_onnx(net, SIZE), network_to_onnx(net, SIZE, "uint8")

    fp32, int8 = both(tiny), both(quantized)
    fp16 = tuple(convert_to_fp16(model) for model in fp32)
    return {"fp32": fp32, "fp16": fp16, "int8": int8}


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_file_of_frames_begins_and_ends_in_uint8(pairs, precision):
    model = pairs[precision][1]
    for end in (model.graph.input[0], model.graph.output[0]):
        kind = end.type.tensor_type
        assert kind.elem_type == TensorProto.UINT8
        assert [dim.dim_value for dim in kind.shape.dim] == [1, SIZE.height, SIZE.width, 3]
    # TensorRT takes uint8 only where a graph begins and ends.
    assert [name for name, kind in types_of(model).items() if kind == TensorProto.UINT8] == ["blurred", "restored"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_frames_and_floats_give_the_same_picture(pairs, save, draw_frames, precision, runtime):
    frames = draw_frames(1, SIZE.height, SIZE.width)
    floats_model, frames_model = pairs[precision]
    with (
        open_runner(save(floats_model, FLOATS), runtime, 1) as floats,
        open_runner(save(frames_model, FRAMES), runtime, 1) as native,
    ):
        exact = floats.infer(from_frames(frames))
        codes = native.infer(frames)
    assert codes.dtype == np.uint8
    assert codes.shape == frames.shape
    # Half a code from rounding, and a little for values that fall on the edge between two codes.
    apart = np.abs(codes - 255 * np.clip(exact, 0, 1).transpose(0, 2, 3, 1))
    assert apart.max() <= (0.6 if precision == "int8" else 0.51)


def test_every_runner_takes_either_form(pairs, save, draw_frames):
    frames = draw_frames(1, SIZE.height, SIZE.width)
    floats_model, frames_model = pairs["fp32"]
    with (
        open_runner(save(floats_model, FLOATS), "onnxruntime", 1) as floats,
        open_runner(save(frames_model, FRAMES), "onnxruntime", 1) as native,
    ):
        np.testing.assert_array_equal(floats.infer(frames), to_frames(floats.infer(from_frames(frames))))
        np.testing.assert_array_equal(native.infer(from_frames(frames)), from_frames(native.infer(frames)))


def test_values_beyond_the_range_are_clipped_not_wrapped(draw_frames, save):
    body = "c = Mul(blurred, four) restored = Sub(c, one)"
    head = '<ir_version: 9, opset_import: ["": 19]> g (float[1,3,4,4] blurred) => (float[1,3,4,4] restored)'
    model = onnx.parser.parse_model(f"{head} <float four = {{4.0}}, float one = {{1.0}}> {{ {body} }}")
    take_frames(model)
    frames = draw_frames(1, 4, 4)
    with open_runner(save(model, ImageSpec.of_frames(4, 4)), "onnxruntime", 1) as runner:
        expected = np.clip(frames.astype(int) * 4 - 255, 0, 255)
        np.testing.assert_array_equal(runner.infer(frames), expected)


def test_the_conversion_stays_float32_also_without_a_residual(tiny):
    model = network_to_onnx(tiny, SIZE, "uint8")
    add = next(node for node in reversed(model.graph.node) if node.op_type == "Add")
    makers = {node.output[0]: node for node in model.graph.node}
    layer = next(name for name in add.input if makers[name].op_type == "Conv")
    for node in model.graph.node:
        node.input[:] = [layer if name == add.output[0] else name for name in node.input]
    types = types_of(convert_to_fp16(model))
    assert types["scaled"] == types["rounded"] == TensorProto.FLOAT


def test_quantizers_can_be_dropped_from_a_file_of_frames(pairs, save, draw_frames):
    floats, dropped = drop_quantization(pairs["int8"][1])
    assert dropped > 0
    frames = draw_frames(1, SIZE.height, SIZE.width)
    with open_runner(save(floats, FRAMES), "onnxruntime", 1) as runner:
        assert runner.infer(frames).dtype == np.uint8


@pytest.mark.rtx
def test_an_engine_of_frames_is_built_in_float16(pairs):
    from deblur_deploy.config import EngineConfig
    from deblur_deploy.engine.build import build_engine_bytes

    built = build_engine_bytes(pairs["fp16"][1].SerializeToString(), EngineConfig(target="sm75"))
    assert built.proof.shares()["fp16"] >= 0.9
