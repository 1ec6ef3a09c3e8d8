"""Random problems for the deformable convolution, their exact result, and programs that run the kernels on them.

Nothing here needs pytest: ``benchmarks/gpu_proofs`` runs the same cases on a GPU.
"""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deblur_deploy.kernels.geometry import Element, Entry, Geometry, Layout, choose_entry
from deblur_deploy.kernels.torch_kernel import pack_weight
from deblur_deploy.network.deform_conv import deform_conv2d

HERE = Path(__file__).parent

TOLERANCE = {"f32": 1e-5, "f16": 2e-3}
"""Largest error over the largest magnitude of the exact result, and norm of the error over its norm."""

DTYPE = {"f32": torch.float32, "f16": torch.float16}

SWEEP = range(14)
"""Seeds whose problems together meet every entry point and every kind of geometry."""

_TIMEOUT_S = 300


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
        x_pitch=channels, y_pitch=out_channels,
        half_offset=int(half_offset), packed_weight=0, relu=int(rng.random() < 0.5),
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


def make_problem(element: Element, channels: int, size: tuple[int, int], out_channels: int, kernel: int = 3) -> Problem:
    """One image, stride 1, output of the input's size, offsets of a pixel or so."""
    torch.manual_seed(0)
    dtype, pad = DTYPE[element], kernel // 2
    geometry = Geometry(
        1, channels, *size, out_channels, *size, kernel, kernel, 1, 1, pad, pad, 1, 1, 1, 1,
        x_pitch=channels, y_pitch=out_channels, half_offset=0, packed_weight=0, relu=0,
    )  # fmt: skip
    return Problem(
        torch.randn(1, channels, *size).to(dtype),
        torch.randn(1, 2 * kernel**2, *size),
        (torch.randn(out_channels, channels, kernel, kernel) / (channels * kernel**2) ** 0.5).to(dtype),
        None,
        geometry,
        element,
    )


@dataclass(frozen=True)
class Case:
    """One run of a program: what is run, and x, weight, offset, bias and y as they lie in memory."""

    entry: str
    grid: tuple[int, int, int]
    layout: Layout
    geometry: Geometry
    operands: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, entry: Entry, geometry: Geometry, operands: Sequence[Tensor | None]) -> Case:
        """An entry point on operands that are laid out for it."""
        return cls(entry.name, entry.grid(geometry), entry.layout, geometry, tuple(operands))

    @property
    def result(self) -> Tensor:
        """The tensor that the program writes, as it was before."""
        y = self.operands[-1]
        assert y is not None
        return y

    def packed(self) -> bytes:
        """The case as ``cases.hpp`` reads it."""
        head = struct.pack("<64s3Ii", self.entry.encode(), *self.grid, int(self.layout == "nhwc"))
        blobs = [b"" if tensor is None else flat(tensor).numpy().tobytes() for tensor in self.operands]
        return head + self.geometry.packed() + b"".join(struct.pack("<Q", len(blob)) + blob for blob in blobs)


@dataclass(frozen=True)
class Form:
    """In which form a problem is handed over.

    Args:
        layout: Of input and output.
        plugin: To the plugin's ``enqueue``, which packs the weights itself, else to the kernel.
        packed: With packed weights.
        pad: How many more channels a pixel has room for, where channels come last; the plugin has them in eights.
    """

    layout: Layout
    plugin: bool = False
    packed: bool = False
    pad: int = 0


def case_of(problem: Problem, form: Form) -> Case:
    """A problem as a case; whatever is not to be read, and the whole result, is NaN before the run."""
    g, element = problem.geometry, problem.element
    last = form.layout == "nhwc"
    x_pitch, y_pitch = (
        (-(-channels // 8) * 8 if form.plugin else channels + form.pad) if last else channels
        for channels in (g.channels, g.out_channels)
    )
    relu = 0 if form.plugin else g.relu  # the operator has no activation
    g = replace(g, packed_weight=int(form.packed), x_pitch=x_pitch, y_pitch=y_pitch, relu=relu)
    y = torch.full((g.batch, g.out_height, g.out_width, g.y_pitch), torch.nan, dtype=DTYPE[element])
    if last:
        x = torch.full((g.batch, g.height, g.width, g.x_pitch), torch.nan, dtype=DTYPE[element])
        x[..., : g.channels] = problem.x.permute(0, 2, 3, 1)
    else:
        x, y = problem.x, y.permute(0, 3, 1, 2).contiguous()
    weight = pack_weight(problem.weight, g.groups) if form.packed else problem.weight
    operands = (x, weight, problem.offset, problem.bias, y)
    if form.plugin:
        return Case(f"plugin_{element}", (1, 1, 1), form.layout, g, operands)
    return Case.of(choose_entry(element, form.layout, g.out_channels // g.groups), g, operands)


def in_nchw(case: Case, elements: np.ndarray) -> np.ndarray:
    """A program's result for a case in NCHW float64; channels that are only room must be zero."""
    result = elements.reshape(tuple(case.result.shape)).astype(np.float64)
    if case.layout == "nchw":
        return result
    channels = case.geometry.out_channels
    assert (result[..., channels:] == 0).all(), "the room behind the channels is not zero"
    return result[..., :channels].transpose(0, 3, 1, 2)


class CaseProgram:
    """A program that runs cases: the emulator, or the one for a GPU.

    Args:
        command: What starts it.
    """

    def __init__(self, *command: str) -> None:
        self.command = command

    def run(self, cases: Sequence[Case], *arguments: str) -> list[np.ndarray]:
        """The elements of each case's result, flat."""
        ended = self.try_to_run(cases, *arguments)
        assert ended.returncode == 0, ended.stderr.decode()[:4000]
        found, at = [], 0
        for case in cases:
            elements = np.frombuffer(ended.stdout, flat(case.result).numpy().dtype, case.result.numel(), at)
            found.append(elements)
            at += elements.nbytes
        assert at == len(ended.stdout)
        return found

    def try_to_run(self, cases: Sequence[Case], *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """The ended process, whatever it ended with."""
        given = b"".join(case.packed() for case in cases)
        command = [*self.command, *arguments]
        return subprocess.run(command, input=given, capture_output=True, timeout=_TIMEOUT_S, check=False)


class Emulator(CaseProgram):
    """The kernel on the processor."""

    def launch(self, entry: Entry, geometry: Geometry, operands: Sequence[Tensor | None]) -> np.ndarray:
        """Run an entry point on operands as they lie in memory; returns y's elements, flat."""
        return self.run([Case.of(entry, geometry, operands)], "0")[0]

    def solve(self, problem: Problem, form: Form, *, reverse: bool = False) -> np.ndarray:
        """Result in NCHW float64."""
        case = case_of(problem, form)
        return in_nchw(case, self.run([case], str(int(reverse)))[0])


def flat(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor in the order in which they lie in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def relative_errors(found: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Largest error over the largest magnitude of the exact result, and norm of the error over its norm."""
    scale, norm = np.abs(exact).max() or 1.0, np.linalg.norm(exact) or 1.0
    return float(np.abs(found - exact).max() / scale), float(np.linalg.norm(found - exact) / norm)


def build_emulator(compiler: str, folder: Path, *options: str, tensorrt: Path = HERE / "headers/tensorrt") -> Emulator:
    """Compile the kernels and the plugin for the processor; ``tensorrt`` is where TensorRT's headers are."""
    program = folder / "emulator"
    with resources.as_file(resources.files("deblur_deploy.kernels")) as kernels:
        includes = [f"-I{HERE}", f"-I{kernels}", f"-I{HERE / 'headers/cuda'}", "-isystem", str(tensorrt)]
        sources = [str(HERE / "emulator.cpp"), "-o", str(program)]
        command = [compiler, "-std=c++17", "-Wall", "-Wno-unknown-pragmas", *options, *includes, *sources]
        built = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert built.returncode == 0, built.stderr
    return Emulator(str(program))


def build_gpu_runner(nvcc: Path, arch: str, program: Path) -> CaseProgram:
    """Compile the kernels and the plugin for a GPU of one architecture, such as ``sm_90``."""
    with resources.as_file(resources.files("deblur_deploy.kernels")) as kernels:
        includes = [f"-I{HERE}", f"-I{kernels}", "-isystem", str(HERE / "headers/tensorrt")]
        options = ["-std=c++17", "-O3", "-lineinfo", f"-arch={arch}"]
        command = [str(nvcc), *options, *includes, str(HERE / "gpu_runner.cu"), "-o", str(program)]
        built = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert built.returncode == 0, built.stderr
    return CaseProgram(str(program))


def barriers() -> list[tuple[str, int]]:
    """File and line of every barrier in the kernel's sources."""
    folder = resources.files("deblur_deploy.kernels")
    return [
        (name, number)
        for name in ("deform_conv.cu", "tiles.cuh")
        for number, line in enumerate((folder / name).read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"__sync(threads|warp)\(\);", line)
    ]
