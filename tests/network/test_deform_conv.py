"""The deformable convolution against onnxruntime's, numerical gradients, ordinary convolution, and mmcv's naming."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deblur_deploy.network.deform_conv import DeformConv2d, DeformConv2dPack, deform_conv2d

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One choice of every parameter, with tensors that fit it."""

    input: Tensor
    offset: Tensor
    weight: Tensor
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    offset_groups: int

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Pair, Pair, Pair, int, int]:
        return (
            self.input,
            self.offset,
            self.weight,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.offset_groups,
        )


def draw_case(seed: int) -> Case:
    """Random geometry with unequal axes, odd sizes, and offsets from none at all to far outside the image."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)

    def pair(low: int, high: int) -> Pair:
        first, second = rng.integers(low, high, size=2, endpoint=True)
        return int(first), int(second)

    kernel, stride, padding, dilation = pair(1, 4), pair(1, 3), pair(0, 3), pair(1, 3)
    groups, offset_groups = (int(n) for n in rng.choice([1, 2, 3], size=2))
    channels = 6 * int(rng.integers(1, 2, endpoint=True))
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    size = [low + int(rng.integers(0, 14)) for low in smallest]
    batch, out_channels = int(rng.integers(1, 3, endpoint=True)), groups * int(rng.integers(1, 4, endpoint=True))
    output = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    offset = torch.randn(batch, 2 * kernel[0] * kernel[1] * offset_groups, *output)
    offset *= float(rng.choice([0.0, 0.5, 3.0, 30.0]))
    if rng.random() < 0.25:  # exactly on pixels, where a wrong border rule shows
        offset = offset.round()
    return Case(
        torch.randn(batch, channels, *size),
        offset,
        torch.randn(out_channels, channels // groups, *kernel) / 4,
        stride,
        padding,
        dilation,
        groups,
        offset_groups,
    )


def onnx_deform_conv(case: Case) -> np.ndarray:
    """What onnxruntime's DeformConv gives for the same tensors."""
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    node = onnx.helper.make_node(
        "DeformConv",
        ["input", "weight", "offset"],
        ["output"],
        kernel_shape=list(case.weight.shape[2:]),
        strides=list(case.stride),
        pads=[*case.padding, *case.padding],
        dilations=list(case.dilation),
        group=case.groups,
        offset_group=case.offset_groups,
    )
    float_value = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in ("input", "weight", "offset", "output")
    ]
    graph = onnx.helper.make_graph([node], "oracle", float_value[:3], float_value[3:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: getattr(case, name).numpy() for name in ("input", "weight", "offset")}
    return session.run(None, feeds)[0]


@pytest.mark.parametrize("seed", range(40))
def test_it_agrees_with_onnxruntime(seed: int) -> None:
    case = draw_case(seed)
    ours = deform_conv2d(*case.arguments).numpy()
    theirs = onnx_deform_conv(case)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-4


def test_the_sweep_reaches_every_kind_of_parameter() -> None:
    cases = [draw_case(seed) for seed in range(40)]
    assert {case.groups for case in cases} == {case.offset_groups for case in cases} == {1, 2, 3}
    for name in ("stride", "padding", "dilation"):
        assert any(a != b for a, b in (getattr(case, name) for case in cases)), f"{name} never differs by axis"
    assert any(case.offset.abs().max() > 2 * max(case.input.shape) for case in cases)


@pytest.mark.parametrize(("groups", "offset_groups"), [(1, 1), (2, 1), (1, 2), (2, 4)])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [((1, 1), (1, 0), (1, 1)), ((2, 1), (0, 2), (1, 2))])
def test_gradients_match_finite_differences(
    groups: int, offset_groups: int, stride: Pair, padding: Pair, dilation: Pair
) -> None:
    torch.manual_seed(groups + 10 * offset_groups)
    height, width, kernel = 4, 3, (2, 1)
    out_h, out_w = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip((height, width), kernel, stride, padding, dilation, strict=True)
    )
    input = torch.randn(2, 4, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 4 // groups, *kernel, dtype=torch.float64, requires_grad=True)
    # Bilinear interpolation has a kink at whole pixels, where a finite difference means nothing: keep off them.
    whole = torch.randint(-2, 3, (2, 2 * kernel[0] * kernel[1] * offset_groups, out_h, out_w))
    offset = (whole + 0.1 + 0.8 * torch.rand(whole.shape, dtype=torch.float64)).requires_grad_()

    def convolve(input: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return deform_conv2d(input, offset, weight, stride, padding, dilation, groups, offset_groups)

    assert torch.autograd.gradcheck(convolve, (input, offset, weight))


def test_the_operator_is_registered_correctly() -> None:
    torch.manual_seed(0)
    input, offset, weight = torch.randn(2, 4, 5, 6), torch.randn(2, 36, 5, 3), torch.randn(6, 2, 3, 3)
    tensors = [t.requires_grad_() for t in (input, offset, weight)]
    torch.library.opcheck(torch.ops.deblur.deform_conv2d, (*tensors, [1, 2], [2, 1], [2, 1], 2, 2))


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 1, 1, 1), (2, 0, 1, 2), (1, 3, 2, 3)])
def test_zero_offsets_give_an_ordinary_convolution(stride: int, padding: int, dilation: int, groups: int) -> None:
    torch.manual_seed(0)
    input, weight = torch.randn(2, 6, 13, 9), torch.randn(12, 6 // groups, 3, 3)
    expected = F.conv2d(input, weight, None, stride, padding, dilation, groups)
    offset = torch.zeros(2, 18, *expected.shape[2:])
    actual = deform_conv2d(input, offset, weight, stride, padding, dilation, groups)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_a_whole_pixel_offset_shifts_the_image() -> None:
    image = torch.arange(20.0).reshape(1, 1, 4, 5)
    offset = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 5)  # one row down, two columns right
    shifted = deform_conv2d(image, offset, torch.ones(1, 1, 1, 1))
    expected = F.pad(image[..., 1:, 2:], (0, 2, 0, 1))  # zeros come in from outside
    torch.testing.assert_close(shifted, expected)


def test_half_precision_is_computed_in_single() -> None:
    torch.manual_seed(0)
    # 700 columns: half precision could place the last ones to half a pixel only.
    input = torch.randn(1, 4, 6, 700).half()
    offset = torch.randn(1, 18, 6, 700).half()
    weight = torch.randn(4, 4, 3, 3).half()
    result = deform_conv2d(input, offset, weight, padding=1)
    expected = deform_conv2d(input.float(), offset.float(), weight.float(), padding=1)
    assert result.dtype == torch.float16
    assert torch.equal(result, expected.half())


def test_double_input_stays_double_with_single_offsets() -> None:
    torch.manual_seed(0)
    input, weight = torch.randn(1, 2, 7, 7, dtype=torch.float64), torch.randn(2, 2, 3, 3, dtype=torch.float64)
    offset = torch.randn(1, 18, 7, 7)
    result = deform_conv2d(input, offset, weight, padding=1)
    assert torch.equal(result, deform_conv2d(input, offset.double(), weight, padding=1))


@pytest.mark.parametrize("offset_groups", [1, 2])
def test_memory_format_does_not_matter(offset_groups: int) -> None:
    torch.manual_seed(0)
    input, weight = torch.randn(2, 4, 8, 9, requires_grad=True), torch.randn(4, 4, 3, 3)
    offset = torch.randn(2, 18 * offset_groups, 8, 9)
    expected = deform_conv2d(input, offset, weight, padding=1, offset_groups=offset_groups)
    last = torch.channels_last
    actual = deform_conv2d(
        input.contiguous(memory_format=last),
        offset.contiguous(memory_format=last),
        weight.contiguous(memory_format=last),
        padding=1,
        offset_groups=offset_groups,
    )
    assert torch.equal(actual, expected)
    expected_gradient, gradient = (
        torch.autograd.grad(result.square().sum(), input)[0] for result in (expected, actual)
    )
    torch.testing.assert_close(gradient, expected_gradient)


def test_parameters_are_named_and_shaped_as_in_mmcv() -> None:
    plain = DeformConv2d(8, 12, 3, groups=2)
    assert {name: tuple(p.shape) for name, p in plain.state_dict().items()} == {"weight": (12, 4, 3, 3)}
    pack = DeformConv2dPack(8, 12, (3, 5), padding=(1, 2), deform_groups=2)
    assert {name: tuple(p.shape) for name, p in pack.state_dict().items()} == {
        "weight": (12, 8, 3, 5),
        "conv_offset.weight": (2 * 2 * 3 * 5, 8, 3, 5),
        "conv_offset.bias": (2 * 2 * 3 * 5,),
    }


def test_an_mmcv_state_dict_loads_strictly_and_is_used() -> None:
    torch.manual_seed(0)
    state = {
        "weight": torch.randn(6, 4, 3, 3),
        "conv_offset.weight": torch.randn(18, 4, 3, 3) / 3,
        "conv_offset.bias": torch.randn(18),
    }
    pack = DeformConv2dPack(4, 6, 3, stride=2, padding=1)
    pack.load_state_dict(state, strict=True)
    x = torch.randn(2, 4, 11, 10)
    offset = F.conv2d(x, state["conv_offset.weight"], state["conv_offset.bias"], stride=2, padding=1)
    torch.testing.assert_close(pack(x), deform_conv2d(x, offset, state["weight"], stride=2, padding=1))


def test_a_fresh_pack_is_an_ordinary_convolution() -> None:
    torch.manual_seed(0)
    pack = DeformConv2dPack(4, 4, 3, padding=1)
    x = torch.randn(1, 4, 9, 9)
    torch.testing.assert_close(pack(x), F.conv2d(x, pack.weight, padding=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("offset_shape", "weight_shape", "groups", "offset_groups", "complaint"),
    [
        ((1, 27, 8, 8), (4, 4, 3, 3), 1, 1, "offset has shape"),  # modulation needs another operator
        ((1, 18, 8, 7), (4, 4, 3, 3), 1, 1, "offset has shape"),
        ((2, 18, 8, 8), (4, 4, 3, 3), 1, 1, "offset has shape"),
        ((1, 18, 8, 8), (4, 3, 3, 3), 1, 1, "does not fit 4 channels"),
        ((1, 18, 8, 8), (3, 2, 3, 3), 2, 1, "does not fit 4 channels"),
        ((1, 54, 8, 8), (4, 4, 3, 3), 1, 3, "cannot be split into 3 offset groups"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(
    offset_shape: tuple[int, ...], weight_shape: tuple[int, ...], groups: int, offset_groups: int, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        deform_conv2d(
            torch.zeros(1, 4, 8, 8),
            torch.zeros(offset_shape),
            torch.zeros(weight_shape),
            padding=1,
            groups=groups,
            offset_groups=offset_groups,
        )
