"""Deformable convolution (DCNv1) as a PyTorch operator and two modules.

The operator ``deblur::deform_conv2d`` samples the input at fractional positions, one per output pixel and kernel
tap, and convolves the samples:

    out[n, o, y, x] = sum over c, i, j of weight[o, c, i, j] * input[n, c](y*s - p + i*d + dy, x*s - p + j*d + dx)

where ``input[n, c](v, u)`` is bilinear interpolation with zeros outside the image (Dai et al., *Deformable
Convolutional Networks*, ICCV 2017, equations 2 to 4). Offsets come as in mmcv, torchvision and ONNX ``DeformConv``:
channel ``2*t`` is dy and ``2*t + 1`` is dx of tap ``t``, taps in row-major order, offset groups outermost.

Positions are computed in float32 at least: in half precision an absolute coordinate near 640 is good to half a pixel.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

_NAME = "deblur::deform_conv2d"
_SCHEMA = (
    "(Tensor input, Tensor offset, Tensor weight, int[2] stride, int[2] padding, int[2] dilation, "
    "int groups, int offset_groups) -> Tensor"
)

_FUSED_DTYPES = (torch.float16, torch.float32)
"""What the CUDA kernel takes; other dtypes are sampled and multiplied in two steps there too."""


def _output_size(
    input: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[int, int]:
    """Height and width of the result, by the rule of an ordinary convolution."""
    height, width = (
        (input.shape[2 + axis] + 2 * padding[axis] - dilation[axis] * (weight.shape[2 + axis] - 1) - 1) // stride[axis]
        + 1
        for axis in (0, 1)
    )
    return height, width


def _check_shapes(  # noqa: PLR0913 - what the operator takes
    input: Tensor, offset: Tensor, weight: Tensor, size: tuple[int, int], groups: int, offset_groups: int
) -> None:
    """Reject shapes that do not belong together before they turn into a wrong picture."""
    batch, channels = input.shape[:2]
    taps = weight.shape[2] * weight.shape[3]
    expected = (batch, 2 * taps * offset_groups, *size)
    if tuple(offset.shape) != expected:
        raise ValueError(f"offset has shape {tuple(offset.shape)}, expected {expected}")
    if weight.shape[1] * groups != channels or weight.shape[0] % groups:
        raise ValueError(f"weight {tuple(weight.shape)} does not fit {channels} channels in {groups} groups")
    if channels % offset_groups:
        raise ValueError(f"{channels} channels cannot be split into {offset_groups} offset groups")


def _sampling_grid(  # noqa: PLR0913 - what the operator takes
    input: Tensor, offset: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]
) -> Tensor:
    """Positions to sample, in grid_sample's normalised (x, y) with align_corners=False.

    Returns:
        (N * offset_groups, taps * out_h, out_w, 2), float32 or float64.
    """
    batch, _, height, width = input.shape
    kernel_h, kernel_w = weight.shape[2:]
    out_h, out_w = offset.shape[2:]
    offset_groups = offset.shape[1] // (2 * kernel_h * kernel_w)
    dtype = torch.promote_types(torch.promote_types(input.dtype, offset.dtype), torch.float32)

    def base(axis: int, taps: int, outputs: int) -> Tensor:
        tap = torch.arange(taps, device=input.device, dtype=dtype) * dilation[axis] - padding[axis]
        output = torch.arange(outputs, device=input.device, dtype=dtype) * stride[axis]
        return tap[:, None] + output

    shift = offset.to(dtype).reshape(batch * offset_groups, kernel_h, kernel_w, 2, out_h, out_w)
    y = base(0, kernel_h, out_h)[:, None, :, None] + shift[:, :, :, 0]
    x = base(1, kernel_w, out_w)[None, :, None, :] + shift[:, :, :, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return grid.view(batch * offset_groups, kernel_h * kernel_w * out_h, out_w, 2)


def _grouped_image(input: Tensor, grid: Tensor) -> Tensor:
    """The input with offset groups moved into the batch, in the grid's precision."""
    batch, channels, height, width = input.shape
    offset_groups = grid.shape[0] // batch
    return input.to(grid.dtype).reshape(batch * offset_groups, channels // offset_groups, height, width)


def _columns(input: Tensor, grid: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Sampled input as a matrix per group: (N, groups, channels/groups * taps, out_h * out_w)."""
    taps = weight.shape[2] * weight.shape[3]
    out_pixels = grid.shape[1] // taps * grid.shape[2]
    samples = F.grid_sample(
        _grouped_image(input, grid), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return samples.reshape(input.shape[0], groups, weight.shape[1] * taps, out_pixels)


def sample_and_multiply(  # noqa: PLR0913 - the signature is ONNX DeformConv's
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_groups: int,
) -> Tensor:
    """Sampling, then a matrix product: what every device and dtype can do."""
    size = _output_size(input, weight, stride, padding, dilation)
    _check_shapes(input, offset, weight, size, groups, offset_groups)
    grid = _sampling_grid(input, offset, weight, stride, padding, dilation)
    columns = _columns(input, grid, weight, groups)
    matrix = weight.to(columns.dtype).reshape(groups, weight.shape[0] // groups, -1)
    return (matrix @ columns).reshape(input.shape[0], weight.shape[0], *size).to(input.dtype)


# torch.library.custom_op would load PyTorch's compiler at the first call, which takes longer than a small picture.
torch.library.define(_NAME, _SCHEMA, tags=torch.Tag.pt2_compliant_tag)
torch.library.impl(_NAME, "default", sample_and_multiply)


def _deform_conv2d_cuda(  # noqa: PLR0913 - the signature is the operator's
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_groups: int,
) -> Tensor:
    """The fused kernel where it takes the dtype; it is compiled, and its compiler imported, at the first call."""
    from deblur_deploy.kernels.torch_kernel import ConvSteps, run_deform_conv

    if input.dtype not in _FUSED_DTYPES:
        return sample_and_multiply(input, offset, weight, stride, padding, dilation, groups, offset_groups)
    size = _output_size(input, weight, stride, padding, dilation)
    _check_shapes(input, offset, weight, size, groups, offset_groups)
    steps = ConvSteps(_pair(stride), _pair(padding), _pair(dilation), groups, offset_groups)
    return run_deform_conv((input, offset, weight), steps)


torch.library.impl(_NAME, "cuda", _deform_conv2d_cuda)


@torch.library.register_fake(_NAME)  # type: ignore[untyped-decorator]
def _deform_conv2d_fake(  # noqa: PLR0913 - the signature is the operator's
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_groups: int,
) -> Tensor:
    size = _output_size(input, weight, stride, padding, dilation)
    _check_shapes(input, offset, weight, size, groups, offset_groups)
    if input.device.type == "cuda" and input.dtype in _FUSED_DTYPES:
        from deblur_deploy.kernels.torch_kernel import empty_result

        return empty_result(input, weight.shape[0], size)
    return input.new_empty(input.shape[0], weight.shape[0], *size)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, offset, weight, ctx.stride, ctx.padding, ctx.dilation, ctx.groups, _ = inputs
    ctx.save_for_backward(input, offset, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of input, offset and weight; the columns are sampled again rather than kept."""
    input, offset, weight = ctx.saved_tensors
    grid = _sampling_grid(input, offset, weight, ctx.stride, ctx.padding, ctx.dilation)
    columns = _columns(input, grid, weight, ctx.groups)
    out_h, out_w = offset.shape[2:]
    flat = grad.to(columns.dtype).reshape(grad.shape[0], ctx.groups, -1, out_h * out_w)
    matrix = weight.to(columns.dtype).reshape(ctx.groups, weight.shape[0] // ctx.groups, -1)

    grad_weight = (flat @ columns.transpose(2, 3)).sum(0).reshape(weight.shape).to(weight.dtype)
    image = _grouped_image(input, grid)
    grad_samples = (matrix.transpose(1, 2) @ flat).reshape(*image.shape[:2], *grid.shape[1:3])
    bilinear, zeros = 0, 0
    grad_image, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
        grad_samples, image, grid, bilinear, zeros, False, [True, True]
    )
    height, width = input.shape[2:]
    taps = weight.shape[2] * weight.shape[3]
    grad_shift = grad_grid.view(grid.shape[0], taps, out_h, out_w, 2)
    # A pixel is 2/size of the normalised axis; offsets are stored (y, x) where the grid has (x, y).
    grad_offset = torch.stack([grad_shift[..., 1] * (2 / height), grad_shift[..., 0] * (2 / width)], dim=2)
    return (
        grad_image.reshape(input.shape).to(input.dtype),
        grad_offset.reshape(offset.shape).to(offset.dtype),
        grad_weight,
        None,
        None,
        None,
        None,
        None,
    )


torch.library.register_autograd(_NAME, _backward, setup_context=_save_for_backward)


def deform_conv2d(  # noqa: PLR0913 - the signature is ONNX DeformConv's
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    offset_groups: int = 1,
) -> Tensor:
    """Deformable 2-D convolution without modulation and without bias.

    Args:
        input: (N, C, H, W), any floating dtype.
        offset: (N, 2 * kh * kw * offset_groups, H_out, W_out), in pixels of the input, (y, x) per tap.
        weight: (C_out, C / groups, kh, kw).
        stride: Step between output pixels.
        padding: Zeros added on each side.
        dilation: Distance between kernel taps.
        groups: Groups of the convolution.
        offset_groups: Channel groups that have offsets of their own.

    Returns:
        (N, C_out, H_out, W_out) in the dtype of ``input``.

    Raises:
        ValueError: Shapes do not belong together.

    Source: Dai et al., *Deformable Convolutional Networks*, ICCV 2017; layout as in ONNX ``DeformConv`` (opset 19).
    """
    op = torch.ops.deblur.deform_conv2d
    geometry = [list(_pair(value)) for value in (stride, padding, dilation)]
    return cast(Tensor, op(input, offset, weight, *geometry, groups, offset_groups))


class DeformConv2d(nn.Module):
    """Deformable convolution layer with mmcv's parameter name and shape: ``weight`` (C_out, C_in/groups, kh, kw).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel.
        stride: As in :func:`deform_conv2d`.
        padding: As in :func:`deform_conv2d`.
        dilation: As in :func:`deform_conv2d`.
        groups: As in :func:`deform_conv2d`.
        deform_groups: mmcv's name for the offset groups.
    """

    def __init__(  # noqa: PLR0913 - the signature is mmcv's
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.deform_groups = deform_groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        bound = 1 / math.sqrt(in_channels // groups * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Convolve ``x`` (N, C_in, H, W) at the positions that ``offset`` (N, 2*kh*kw*deform_groups, H', W') adds."""
        return deform_conv2d(
            x, offset, self.weight, self.stride, self.padding, self.dilation, self.groups, self.deform_groups
        )

    def extra_repr(self) -> str:
        """One line for ``print(net)``."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"deform_groups={self.deform_groups}"
        )


class DeformConv2dPack(DeformConv2d):
    """A deformable convolution that predicts its own offsets, as mmcv's module of that name.

    Parameters are ``weight``, ``conv_offset.weight`` and ``conv_offset.bias``; the offset convolution starts at zero,
    so that a fresh layer is an ordinary convolution.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv_offset = nn.Conv2d(
            self.in_channels,
            self.deform_groups * 2 * math.prod(self.kernel_size),
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
        )
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Predict offsets from ``x`` (N, C_in, H, W) and convolve at them: (N, C_out, H', W')."""
        return super().forward(x, self.conv_offset(x))
