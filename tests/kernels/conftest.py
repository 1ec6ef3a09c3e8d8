"""Random problems for the deformable convolution, their exact result, and the kernel run on the processor."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deblur_deploy.core.errors import MissingDependencyError
from deblur_deploy.kernels.geometry import Element, Entry, Geometry, Layout, choose_entry
from deblur_deploy.kernels.plugin_library import find_tensorrt_include, tensorrt_version
from deblur_deploy.kernels.torch_kernel import pack_weight
from deblur_deploy.network.deform_conv import deform_conv2d

HERE = Path(__file__).parent

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


def _draw_problem(seed: int, element: Element) -> Problem:
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


def _make_problem(
    element: Element, channels: int, size: tuple[int, int], out_channels: int, kernel: int = 3
) -> Problem:
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


class Emulator:
    """The kernel on the processor."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def launch(
        self, entry: Entry, geometry: Geometry, operands: Sequence[Tensor | None], *, reverse: bool = False
    ) -> np.ndarray:
        """Run an entry point on x, weight, offset, bias and y as they lie in memory; returns y's elements, flat."""
        blobs = [b"" if tensor is None else flat(tensor).numpy().tobytes() for tensor in operands]
        case = geometry.packed() + b"".join(struct.pack("<Q", len(blob)) + blob for blob in blobs)
        command = [str(self.program), entry.name, *map(str, entry.grid(geometry)), str(int(reverse))]
        ended = subprocess.run(command, input=case, capture_output=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stderr.decode()[:4000]
        return np.frombuffer(ended.stdout, flat(operands[-1]).numpy().dtype)

    def run(
        self, problem: Problem, layout: Layout, *, packed: bool = False, pad: int = 0, reverse: bool = False
    ) -> np.ndarray:
        """Result in NCHW float64; ``pad`` is how many more channels a pixel has room for, where channels come last."""
        g, pad = problem.geometry, pad if layout == "nhwc" else 0
        g = replace(g, packed_weight=int(packed), x_pitch=g.channels + pad, y_pitch=g.out_channels + pad)
        dtype = DTYPE[problem.element]
        y = torch.full((g.batch, g.out_height, g.out_width, g.y_pitch), torch.nan, dtype=dtype)
        if layout == "nhwc":
            x = torch.full((g.batch, g.height, g.width, g.x_pitch), torch.nan, dtype=dtype)
            x[..., : g.channels] = problem.x.permute(0, 2, 3, 1)
        else:
            x, y = problem.x, y.permute(0, 3, 1, 2).contiguous()
        weight = pack_weight(problem.weight, g.groups) if packed else problem.weight
        entry = choose_entry(problem.element, layout, g.out_channels // g.groups)
        operands = (x, weight, problem.offset, problem.bias, y)
        result = self.launch(entry, g, operands, reverse=reverse).reshape(tuple(y.shape)).astype(np.float64)
        if layout == "nchw":
            return result
        assert np.isnan(result[..., g.out_channels :]).all()
        return result[..., : g.out_channels].transpose(0, 3, 1, 2)


def flat(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor in the order in which they lie in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _build_emulator(folder: Path, *options: str) -> Emulator:
    """Compile deform_conv.cu for the processor."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to run the kernel on the processor")
    program = folder / "emulator"
    with resources.as_file(resources.files("deblur_deploy.kernels")) as kernels:
        includes = [f"-I{HERE}", f"-I{kernels}"]
        sources = [str(HERE / "emulator.cpp"), "-o", str(program)]
        command = [compiler, "-std=c++17", "-Wall", "-Wno-unknown-pragmas", *options, *includes, *sources]
        built = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    return Emulator(program)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled kernels are kept for the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    """The kernel on the processor, optimized."""
    return _build_emulator(tmp_path_factory.mktemp("emulator"), "-O2")


@pytest.fixture(scope="session")
def sanitized_emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    """The same with the address and undefined-behaviour sanitizers: what they find ends the run."""
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    return _build_emulator(tmp_path_factory.mktemp("sanitized"), "-O1", *sanitizers)


@pytest.fixture(scope="session")
def draw_problem() -> Callable[[int, Element], Problem]:
    """Makes a random problem from a seed and an element type."""
    return _draw_problem


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    """Makes a plain problem of a given size."""
    return _make_problem


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


def _header_directories() -> list[Path]:
    """TensorRT's headers on this machine: those that were named, those that a package carries, those installed."""
    named = [Path(path) for path in os.environ.get("TENSORRT_INCLUDE_DIRS", "").split(os.pathsep) if path]
    carrier = find_spec("kernel_lens")
    if carrier is not None and carrier.submodule_search_locations:
        named.append(Path(carrier.submodule_search_locations[0]) / "include" / "tensorrt")
    with contextlib.suppress(MissingDependencyError):
        named.append(find_tensorrt_include())
    return named


def _header_version(path: Path | None) -> str:
    return tensorrt_version(path) if path else "none"


@pytest.fixture(scope="session", params=_header_directories() or [None], ids=_header_version)
def tensorrt_include(request: pytest.FixtureRequest) -> Path:
    """A directory of TensorRT's headers; nvcc is there too."""
    if request.param is None:
        pytest.skip("needs TensorRT's headers: set TENSORRT_INCLUDE_DIRS, or pip install --no-deps kernel-lens")
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc, which comes with the CUDA toolkit")
    return Path(request.param)
