"""The CUDA implementation of ``deblur::deform_conv2d``: the fused kernel on PyTorch's tensors and streams.

Operands keep their layout: channels-last input gives channels-last output, anything else NCHW. The kernel is compiled
for the card at first use and kept (see ``compiler.py``).
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.kernels.compiler import compile_cached
from deblur_deploy.kernels.geometry import THREADS, Element, Entry, Geometry, Layout, choose_entry

ELEMENTS: dict[torch.dtype, Element] = {torch.float16: "f16", torch.float32: "f32"}
"""Types of input and weight that the kernel takes."""

_ALIGNMENT = 16


@dataclass(frozen=True)
class ConvSteps:
    """How a convolution walks over its input.

    Args:
        stride: Rows and columns between output pixels.
        padding: Zeros above and to the left, and as many opposite.
        dilation: Rows and columns between taps.
        groups: Groups of the convolution.
        offset_groups: Channel groups that have separate offsets.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    offset_groups: int = 1


@dataclass(frozen=True)
class LaunchCall:
    """A launch with its operands.

    Args:
        entry: The entry point.
        geometry: What the kernel is told.
        operands: x, weight, offset, bias and y, in the kernel's order, laid out as the kernel reads them.
    """

    entry: Entry
    geometry: Geometry
    operands: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]

    @property
    def result(self) -> Tensor:
        """The tensor that the kernel writes: (N, C_out, H_out, W_out)."""
        return self.operands[-1]


def run_deform_conv(
    tensors: tuple[Tensor, Tensor, Tensor], steps: ConvSteps, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    """Deformable convolution on the GPU, with bias and ReLU in the same pass where they are wanted.

    Args:
        tensors: Input (N, C, H, W), offset (N, 2 * kh * kw * offset_groups, H_out, W_out) and weight
            (C_out, C / groups, kh, kw) on one CUDA device, shapes checked. Input float16 or float32.
        steps: Stride, padding, dilation and groups.
        bias: (C_out), or none.
        relu: Clamp the result at zero.

    Returns:
        (N, C_out, H_out, W_out) in the dtype and memory format of the input.

    Raises:
        MissingDependencyError: NVRTC or the CUDA bindings are not installed.
        ConfigError: The tensors lie on several devices, or the problem is larger than the kernel's indices.
    """
    call = prepare_call(tensors, steps, bias, relu)
    if call.result.numel():
        launch_call(call)
    return call.result


def prepare_call(
    tensors: tuple[Tensor, Tensor, Tensor], steps: ConvSteps, bias: Tensor | None = None, relu: bool = False
) -> LaunchCall:
    """Choose the entry point and lay the operands out; arguments as for :func:`run_deform_conv`, on any device."""
    _check_device((*tensors, bias))
    x, offset, weight = tensors
    element = ELEMENTS[x.dtype]
    layout: Layout = "nhwc" if _has_channels_last(x) else "nchw"
    out_channels = weight.shape[0]
    y = empty_result(x, out_channels, (offset.shape[2], offset.shape[3]))
    offset = offset if offset.dtype in ELEMENTS else offset.float()
    geometry = _geometry(x, offset, weight, steps)
    geometry = dataclasses.replace(geometry, relu=int(relu))
    if not geometry.fits():
        raise ConfigError(
            f"a deformable convolution of {tuple(x.shape)} by {tuple(weight.shape)} is too large for one launch",
            hint="split the batch or the picture",
        )
    operands = (
        _aligned(x if layout == "nhwc" else x.contiguous()),
        _aligned(pack_weight(weight.to(x.dtype), steps.groups)),
        _aligned(offset.contiguous()),
        None if bias is None else _aligned(bias.to(x.dtype).contiguous()),
        y,
    )
    return LaunchCall(choose_entry(element, layout, out_channels // steps.groups), geometry, operands)


def _check_device(tensors: Sequence[Tensor | None]) -> None:
    """Refuse tensors on several devices: the kernel is given bare addresses, which do not show that."""
    devices = sorted({str(tensor.device) for tensor in tensors if tensor is not None})
    if len(devices) > 1:
        raise ConfigError(
            f"the operands of a deformable convolution lie on {' and '.join(devices)}",
            hint="move all of them to the device of the input",
        )


def _geometry(x: Tensor, offset: Tensor, weight: Tensor, steps: ConvSteps) -> Geometry:
    """The kernel's parameters for dense operands with packed weights."""
    return Geometry(
        batch=x.shape[0],
        channels=x.shape[1],
        height=x.shape[2],
        width=x.shape[3],
        out_channels=weight.shape[0],
        out_height=offset.shape[2],
        out_width=offset.shape[3],
        kernel_h=weight.shape[2],
        kernel_w=weight.shape[3],
        stride_h=steps.stride[0],
        stride_w=steps.stride[1],
        pad_h=steps.padding[0],
        pad_w=steps.padding[1],
        dilation_h=steps.dilation[0],
        dilation_w=steps.dilation[1],
        groups=steps.groups,
        offset_groups=steps.offset_groups,
        x_pitch=x.shape[1],
        y_pitch=weight.shape[0],
        half_offset=int(offset.dtype == torch.float16),
        packed_weight=1,
        relu=0,
    )


def empty_result(x: Tensor, out_channels: int, size: tuple[int, int]) -> Tensor:
    """Room for the result, (N, C_out, H_out, W_out), in the dtype and memory format of the input."""
    memory_format = torch.channels_last if _has_channels_last(x) else torch.contiguous_format
    shape = (x.shape[0], out_channels, *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def _has_channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def pack_weight(weight: Tensor, groups: int) -> Tensor:
    """Weights (C_out, C / groups, kh, kw) as the kernel reads them: (groups, taps, C / groups, C_out / groups)."""
    out_channels, channels, *kernel = weight.shape
    split = weight.reshape(groups, out_channels // groups, channels, kernel[0] * kernel[1])
    return split.permute(0, 3, 2, 1).contiguous()


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, copied where it starts between two 16-byte boundaries, as a slice may."""
    return tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor


def launch_call(call: LaunchCall) -> None:
    """Put a prepared call on the current stream of its operands' device; it can be launched any number of times."""
    device = call.result.device
    function = load_function(device.index, call.entry.name, compile_entry(device.index, call.entry))
    pointers = [0 if tensor is None else tensor.data_ptr() for tensor in call.operands]
    operands = struct.pack(f"<{len(pointers)}Q", *pointers)
    launch_function(function, device, call.entry.grid(call.geometry), (call.geometry.packed(), operands))


@functools.cache
def compile_entry(device_index: int, entry: Entry) -> bytes:
    """The cubin of an entry point for a device."""
    return compile_cached(device_arch(device_index), entry.definition)


def device_arch(device_index: int) -> str:
    """Architecture of a CUDA device, such as ``sm_75``."""
    major, minor = torch.cuda.get_device_capability(device_index)
    return f"sm_{major}{minor}"


@functools.cache
def load_function(device_index: int, name: str, cubin: bytes) -> Any:
    """A kernel on a device, ready to be launched."""
    from cuda.bindings import driver

    with torch.cuda.device(device_index):
        module = _checked(driver.cuModuleLoadData(cubin))
        return _checked(driver.cuModuleGetFunction(module, name.encode()))


def launch_function(
    function: Any, device: torch.device, grid: tuple[int, int, int], parameters: Sequence[bytes]
) -> None:
    """Launch a kernel on the current stream of a device, in blocks of :data:`THREADS`.

    Args:
        function: From :func:`load_function`.
        device: A CUDA device.
        grid: Number of blocks.
        parameters: Each parameter of the kernel as it lies in memory.
    """
    from cuda.bindings import driver

    buffers = [ctypes.create_string_buffer(parameter, len(parameter)) for parameter in parameters]
    addresses = (ctypes.c_void_p * len(buffers))(*map(ctypes.addressof, buffers))
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device).cuda_stream
        blocks = (*grid, THREADS, 1, 1)
        _checked(driver.cuLaunchKernel(function, *blocks, 0, stream, ctypes.addressof(addresses), 0))


def _checked(answer: tuple[Any, ...]) -> Any:
    """The value of a driver call's answer."""
    status, *values = answer
    if int(status) != 0:
        raise RuntimeError(f"CUDA driver: {status.name}")
    return values[0] if values else None
