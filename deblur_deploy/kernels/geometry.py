"""What the deformable convolution's kernel is told about a problem, and which entry point and grid serve it.

Pure arithmetic on sizes: the PyTorch operator, both TensorRT plugins and the tests share it.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass
from typing import Literal

Element = Literal["f16", "f32"]
Layout = Literal["nhwc", "nchw"]
Width = Literal["narrow", "wide"]

THREADS = 256
"""Threads of a block, in every entry point."""

MAX_GRID_Y = MAX_GRID_Z = 65_535
_MAX_ELEMENTS = 2**31 - 1

_TILES: dict[tuple[Element, Width], tuple[int, int]] = {
    ("f16", "narrow"): (128, 64),
    ("f16", "wide"): (64, 128),
    ("f32", "narrow"): (64, 64),
}
"""Output pixels and output channels that a block makes."""


@dataclass(frozen=True)
class Geometry:
    """Sizes and steps of one convolution, field by field the kernel's ``DeformConvGeometry`` (32-bit integers).

    Args:
        batch: Number of images.
        channels: Channels of the input.
        height: Rows of the input.
        width: Columns of the input.
        out_channels: Channels of the output.
        out_height: Rows of the output and of the offsets.
        out_width: Columns of the output and of the offsets.
        kernel_h: Rows of the kernel.
        kernel_w: Columns of the kernel.
        stride_h: Rows between output pixels.
        stride_w: Columns between output pixels.
        pad_h: Rows of zeros above.
        pad_w: Columns of zeros to the left.
        dilation_h: Rows between taps.
        dilation_w: Columns between taps.
        groups: Groups of the convolution.
        offset_groups: Channel groups that have offsets of their own.
        x_pitch: Elements from one input pixel to the next where channels come last.
        y_pitch: Elements from one output pixel to the next where channels come last.
        half_offset: 1 where offsets are float16, 0 where they are float32.
        packed_weight: 1 for weights as ``pack`` lays them out: (groups, taps, channels / groups, out_channels / groups);
            0 for (out_channels, channels / groups, kernel_h, kernel_w).
        relu: 1 to clamp the result at zero.
    """

    batch: int
    channels: int
    height: int
    width: int
    out_channels: int
    out_height: int
    out_width: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    offset_groups: int
    x_pitch: int
    y_pitch: int
    half_offset: int
    packed_weight: int
    relu: int

    def packed(self) -> bytes:
        """The struct as the kernel reads it, little-endian."""
        values = dataclasses.astuple(self)
        return struct.pack(f"<{len(values)}i", *values)

    def fits(self) -> bool:
        """Whether the grid and the kernel's 32-bit indices within one image can hold the problem."""
        pixels = max(self.height * self.width, self.out_height * self.out_width)
        weights = self.out_channels * self.channels // self.groups * self.kernel_h * self.kernel_w
        return (
            self.batch <= MAX_GRID_Z
            and self.groups * -(-self.out_channels // self.groups // 64) <= MAX_GRID_Y
            and max(pixels, weights) <= _MAX_ELEMENTS
        )


@dataclass(frozen=True)
class Launch:
    """One launch of the kernel.

    Args:
        entry: Name of the entry point.
        grid: Blocks: tiles of pixels, tiles of output channels times groups, images.
    """

    entry: str
    grid: tuple[int, int, int]


def choose_width(element: Element, outputs_per_group: int) -> Width:
    """The tile that serves a number of output channels: wide tiles sample each pixel half as often."""
    return "wide" if element == "f16" and outputs_per_group > _TILES["f16", "narrow"][1] else "narrow"


def entry_point(element: Element, layout: Layout, width: Width) -> str:
    """Name of an entry point of ``deform_conv.cu``."""
    return f"deform_conv2d_{element}_{layout}" + (f"_{width}" if element == "f16" else "")


def tile(element: Element, width: Width) -> tuple[int, int]:
    """Output pixels and output channels that a block makes."""
    return _TILES[element, width]


def plan_launch(geometry: Geometry, element: Element, layout: Layout) -> Launch:
    """The entry point and grid for a problem."""
    outputs = geometry.out_channels // geometry.groups
    width = choose_width(element, outputs)
    pixels, channels = tile(element, width)
    grid = (
        -(-geometry.out_height * geometry.out_width // pixels),
        -(-outputs // channels) * geometry.groups,
        geometry.batch,
    )
    return Launch(entry_point(element, layout, width), grid)
