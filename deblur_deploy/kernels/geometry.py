"""The parameters of the deformable convolution's kernel for a problem, with the entry point and grid to launch.

Pure arithmetic on sizes: the PyTorch operator, both TensorRT plugins and the tests share it.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass
from typing import Literal

Element = Literal["f16", "f32"]
Layout = Literal["nhwc", "nchw"]

THREADS = 256
"""Threads of a block, in every entry point."""

MAX_GRID_Y = MAX_GRID_Z = 65_535
_MAX_ELEMENTS = 2**31 - THREADS
"""Of an image or of the weights: the index of a block's last thread has to be a 32-bit integer too."""


@dataclass(frozen=True)
class Tile:
    """The tile of the output that a block computes.

    Args:
        name: The tile's name in ``deform_conv.cu``.
        pixels: Output pixels.
        outputs: Output channels of one group.
    """

    name: str
    pixels: int
    outputs: int


_NARROW, _WIDE, _FLOAT = Tile("NarrowTile", 128, 64), Tile("WideTile", 64, 128), Tile("FloatTile", 64, 64)


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
        offset_groups: Channel groups that have separate offsets.
        x_pitch: Elements from one input pixel to the next where channels come last.
        y_pitch: Elements from one output pixel to the next where channels come last.
        half_offset: 1 where offsets are float16, 0 where they are float32.
        packed_weight: 1 for weights laid out as (groups, taps, channels / groups, out_channels / groups), 0 for
            (out_channels, channels / groups, kernel_h, kernel_w).
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
            and -(-(self.out_channels // self.groups) // _NARROW.outputs) * self.groups <= MAX_GRID_Y
            and max(pixels, weights) <= _MAX_ELEMENTS
        )


@dataclass(frozen=True)
class Entry:
    """An entry point of ``deform_conv.cu``.

    Args:
        name: Its symbol.
        tile: What each of its blocks makes.
        layout: Of input and output.
    """

    name: str
    tile: Tile
    layout: Layout

    @property
    def definition(self) -> str:
        """The compiler's option that leaves out all other entry points."""
        return f"-DDEFORM_CONV_ENTRY={self.name},{self.tile.name},{str(self.layout == 'nhwc').lower()}"

    def grid(self, geometry: Geometry) -> tuple[int, int, int]:
        """Blocks: tiles of pixels, tiles of output channels times groups, images."""
        pixels, outputs = geometry.out_height * geometry.out_width, geometry.out_channels // geometry.groups
        return (
            -(-pixels // self.tile.pixels),
            -(-outputs // self.tile.outputs) * geometry.groups,
            geometry.batch,
        )


def choose_entry(element: Element, layout: Layout, outputs_per_group: int) -> Entry:
    """The entry point for an element type, a layout and a number of output channels.

    Wide tiles sample each pixel half as often, narrow ones waste less where there are few outputs.
    """
    if element == "f32":
        return Entry(f"deform_conv2d_f32_{layout}", _FLOAT, layout)
    tile, width = (_WIDE, "wide") if outputs_per_group > _NARROW.outputs else (_NARROW, "narrow")
    return Entry(f"deform_conv2d_f16_{layout}_{width}", tile, layout)


_LAYOUTS: tuple[Layout, ...] = ("nhwc", "nchw")
_FEW, _MANY = 1, 2 * _NARROW.outputs

ENTRIES = (
    *(choose_entry("f16", layout, outputs) for layout in _LAYOUTS for outputs in (_FEW, _MANY)),
    *(choose_entry("f32", layout, _FEW) for layout in _LAYOUTS),
)
"""Every entry point."""
