"""Random problems for the deformable convolution, their exact result, and the kernel run on the processor."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deblur_deploy.kernels.geometry import Element, Geometry, Layout, plan_launch
from deblur_deploy.network.deform_conv import deform_conv2d

HERE = Path(__file__).parent
SOURCE = resources.files("deblur_deploy.kernels") / "deform_conv.cu"

TOLERANCE = {"f32": 1e-5, "f16": 2e-3}
"""Largest error over the largest magnitude of the exact result, and norm of the error over its norm."""

DTYPE = {"f32": torch.float32, "f16": torch.float16}


@dataclass(frozen=True)
class Problem:
    """Operands in NCHW, of the kernel's type, and the geometry that fits them."""

    x: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor | None
    geometry: Geometry
    element: Element

    def exact(self) -> np.ndarray:
        """The result in float64, from the very values that the kernel is given."""
        g = self.geometry
        steps = [(g.stride_h, g.stride_w), (g.pad_h, g.pad_w), (g.dilation_h, g.dilation_w)]
        operands = (tensor.double() for tensor in (self.x, self.offset, self.weight))
        y = deform_conv2d(*operands, *steps, g.groups, g.offset_groups)
        if self.bias is not None:
            y += self.bias.double()[:, None, None]
        return (y.clamp(min=0) if g.relu else y).numpy()


def draw_problem(seed: int, element: Element) -> Problem:
    """A small problem: unequal axes, odd sizes, groups of both kinds, offsets from none to far outside the image."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)

    def pair(low: int, high: int) -> tuple[int, int]:
        first, second = rng.integers(low, high, size=2, endpoint=True)
        return int(first), int(second)

    kernel, stride, padding, dilation = pair(1, 3), pair(1, 2), pair(0, 2), pair(1, 2)
    groups, offset_groups = (int(n) for n in rng.choice([1, 1, 2, 3], size=2))
    channels = int(rng.choice([6, 12, 24, 48, 96]))
    out_channels = groups * int(rng.choice([1, 5, 8, 24, 72]))
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    size = [low + int(rng.integers(0, 12)) for low in smallest]
    output = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    batch = int(rng.integers(1, 2, endpoint=True))
    offset = torch.randn(batch, 2 * kernel[0] * kernel[1] * offset_groups, *output)
    offset *= float(rng.choice([0.0, 0.5, 3.0, 30.0]))
    if rng.random() < 0.25:  # exactly on pixels, where a wrong border rule shows
        offset = offset.round()
    dtype = DTYPE[element]
    half_offset = element == "f16" and rng.random() < 0.5
    with_bias = rng.random() < 0.5
    geometry = Geometry(
        batch, channels, *size, out_channels, *output, *kernel, *stride, *padding, *dilation, groups, offset_groups,
        x_pitch=channels, y_pitch=out_channels, half_offset=int(half_offset), packed_weight=0, relu=int(rng.random() < 0.5),
    )  # fmt: skip
    fan_in = channels // groups * kernel[0] * kernel[1]
    return Problem(
        torch.randn(batch, channels, *size).to(dtype),
        offset.to(torch.float16 if half_offset else torch.float32),
        (torch.randn(out_channels, channels // groups, *kernel) / fan_in**0.5).to(dtype),
        torch.randn(out_channels).to(dtype) if with_bias else None,
        geometry,
        element,
    )


def pack_weight(weight: Tensor, groups: int) -> Tensor:
    """Weights in the order that the kernel calls packed."""
    out_channels, channels, *kernel = weight.shape
    split = weight.reshape(groups, out_channels // groups, channels, kernel[0] * kernel[1])
    return split.permute(0, 3, 2, 1).contiguous()


class Emulator:
    """The kernel on the processor."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def start(self, entry: str, grid: tuple[int, int, int], case: bytes, *, reverse: bool = False) -> bytes:
        """Run an entry point; any access outside an array ends it with the address sanitizer's report."""
        command = [str(self.program), entry, *map(str, grid), str(int(reverse))]
        ended = subprocess.run(command, input=case, capture_output=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stderr.decode()[:4000]
        return ended.stdout

    def run(
        self, problem: Problem, layout: Layout, *, packed: bool = False, pad: int = 0, reverse: bool = False
    ) -> np.ndarray:
        """Result in NCHW float64; ``pad`` is how many more channels a pixel has room for (NHWC)."""
        g = problem.geometry
        g = replace(g, packed_weight=int(packed), x_pitch=g.channels + pad, y_pitch=g.out_channels + pad)
        dtype = DTYPE[problem.element]
        poison = torch.full((g.batch, g.out_height, g.out_width, g.y_pitch), torch.nan, dtype=dtype)
        x, y = problem.x, poison.permute(0, 3, 1, 2)[:, : g.out_channels].contiguous()
        if layout == "nhwc":
            padded = torch.full((g.batch, g.height, g.width, g.x_pitch), torch.nan, dtype=dtype)
            padded[..., : g.channels] = x.permute(0, 2, 3, 1)
            x, y = padded, poison
        weight = pack_weight(problem.weight, g.groups) if packed else problem.weight
        launch = plan_launch(g, problem.element, layout)
        arrays = [x, weight, problem.offset, problem.bias, y]
        blobs = [b"" if array is None else array.contiguous().numpy().tobytes() for array in arrays]
        case = g.packed() + b"".join(struct.pack("<Q", len(blob)) + blob for blob in blobs)
        raw = self.start(launch.entry, launch.grid, case, reverse=reverse)
        result = np.frombuffer(raw, np.float16 if problem.element == "f16" else np.float32).reshape(tuple(y.shape))
        if layout == "nhwc":
            assert np.isnan(result[..., g.out_channels :]).all()
            result = result[..., : g.out_channels].transpose(0, 3, 1, 2)
        return result.astype(np.float64)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    """deform_conv.cu compiled for the processor, with the address and undefined-behaviour sanitizers."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to run the kernel on the processor")
    program = tmp_path_factory.mktemp("emulator") / "emulator"
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    options = ["-std=c++17", "-O2", "-Wall", "-Wno-unknown-pragmas", *sanitizers]
    with resources.as_file(SOURCE) as source:
        includes = [f"-I{HERE}", f"-I{source.parent}"]
        command = [compiler, *options, *includes, str(HERE / "emulator.cpp"), "-o", str(program)]
        built = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    assert not built.stderr, built.stderr
    return Emulator(program)


@pytest.fixture
def assert_close() -> Callable[[np.ndarray, np.ndarray, Element], None]:
    """Compare with the exact result by the tolerance of an element type."""

    def check(found: np.ndarray, exact: np.ndarray, element: Element) -> None:
        assert found.shape == exact.shape
        assert np.isfinite(found).all()
        error, scale = np.abs(found - exact).max(), np.abs(exact).max()
        assert error <= TOLERANCE[element] * scale
        assert np.linalg.norm(found - exact) <= TOLERANCE[element] * np.linalg.norm(exact)

    return check
