"""Deformable convolution in five ways on a GPU: the fused kernel in both layouts, and what it is measured against."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from proof_figures import COMPILED, GRID_SAMPLE, IM2COL, OURS
from torch import Tensor

from deblur_deploy.kernels.compiler import compile_cached, kernel_sources
from deblur_deploy.kernels.geometry import THREADS, Element
from deblur_deploy.kernels.torch_kernel import (
    ConvSteps,
    device_arch,
    launch_call,
    launch_function,
    load_function,
    prepare_call,
)
from deblur_deploy.network.deform_conv import sample_and_multiply

KERNEL = 3
PADDING = KERNEL // 2
DTYPES: dict[Element, torch.dtype] = {"f16": torch.float16, "f32": torch.float32}

Way = Callable[[], Tensor]


@dataclass(frozen=True)
class Layer:
    """One deformable layer with its operands on a device.

    Args:
        x: (1, C, H, W).
        offset: (1, 18, H, W), in the dtype of ``x``.
        weight: (C, C, 3, 3), likewise.
    """

    x: Tensor
    offset: Tensor
    weight: Tensor

    @classmethod
    def draw(cls, size: tuple[int, int, int], element: Element, device: str) -> Layer:
        """Random operands for (width, height, channels); offsets are normal with a deviation of 2 pixels."""
        width, height, channels = size
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int, deviation: float = 1.0) -> Tensor:
            return (torch.randn(shape, generator=generator) * deviation).to(device, DTYPES[element])

        return cls(
            normal(1, channels, height, width),
            normal(1, 2 * KERNEL**2, height, width, deviation=2.0),
            normal(channels, channels, KERNEL, KERNEL, deviation=(channels * KERNEL**2) ** -0.5),
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the product."""
        return self.weight.numel() * self.x.shape[2] * self.x.shape[3]

    @property
    def bytes_moved(self) -> int:
        """What has to be read and written at least: every operand and the result, once."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.x, self.offset, self.weight, self.x))

    def grid_sample(self) -> Tensor:
        """Positions, bilinear samples, then a product, all as PyTorch operators."""
        steps = [[1, 1], [PADDING, PADDING], [1, 1]]
        return sample_and_multiply(self.x, self.offset, self.weight, *steps, 1, 1)


def ways_on_gpu(layer: Layer, element: Element, *, compiled: bool = True) -> dict[str, Way]:
    """Every way to compute a layer, by name; the first is the one that is judged.

    Args:
        layer: What to compute, on a CUDA device.
        element: Its type.
        compiled: With torch.compile of the operators.
    """
    ways: dict[str, Way] = {
        OURS: FusedKernel(layer, torch.channels_last),
        "fused kernel, NCHW": FusedKernel(layer, torch.contiguous_format),
        IM2COL: Im2col(layer, element),
        GRID_SAMPLE: layer.grid_sample,
    }
    if compiled:
        ways[COMPILED] = torch.compile(layer.grid_sample)
    return ways


class FusedKernel:
    """The fused kernel with its weights packed once, as a network in use keeps them.

    Args:
        layer: What to compute.
        layout: Memory format of input and output.
    """

    def __init__(self, layer: Layer, layout: torch.memory_format) -> None:
        tensors = (layer.x.contiguous(memory_format=layout), layer.offset, layer.weight)
        self._call = prepare_call(tensors, ConvSteps(padding=(PADDING, PADDING)))

    def __call__(self) -> Tensor:
        """The layer's result, which the next call overwrites."""
        launch_call(self._call)
        return self._call.result


class Im2col:
    """TensorRT's built-in design: all columns to memory, then one matrix product.

    Args:
        layer: What to compute, on a CUDA device.
        element: Its type.
    """

    def __init__(self, layer: Layer, element: Element) -> None:
        self._layer = layer
        device = layer.x.device
        name = f"im2col_{element}"
        cubin = compile_cached(device_arch(device.index), sources=im2col_sources())
        self._function = load_function(device.index, name, cubin)

    def __call__(self) -> Tensor:
        """The layer's result."""
        x, weight = self._layer.x, self._layer.weight
        _, channels, height, width = x.shape
        columns = x.new_empty(channels * KERNEL**2, height * width)
        pointers = [tensor.data_ptr() for tensor in (x, self._layer.offset, columns)]
        parameters = [struct.pack("<Q", pointer) for pointer in pointers]
        parameters += [struct.pack("<i", value) for value in (channels, height, width, KERNEL)]
        launch_function(self._function, x.device, im2col_grid(x), parameters)
        return (weight.reshape(weight.shape[0], -1) @ columns).view(1, -1, height, width)


def im2col_sources() -> dict[str, str]:
    """The rival's source, with the header that it shares with the kernel."""
    main = (Path(__file__).parent / "im2col.cu").read_text(encoding="utf-8")
    return {"im2col.cu": main, "hardware.cuh": kernel_sources()["hardware.cuh"]}


def im2col_grid(x: Tensor) -> tuple[int, int, int]:
    """Blocks for one thread per element of the input."""
    return (-(-x.numel() // THREADS), 1, 1)
