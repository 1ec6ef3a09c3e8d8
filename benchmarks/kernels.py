"""Measurements of the deformable convolution's CUDA kernel: its compilation, and its speed where there is a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from deform_ways import IM2COL
from measurement import Measurement

from deblur_deploy.core.errors import ConfigError, MissingDependencyError, VerificationError

_TOLERANCES = {"f16": 2e-3, "f32": 1e-5}
_WARMUP_RUNS = 10
_CEILING_SIZE = 4096


@dataclass(frozen=True)
class Size:
    """Size of a layer's input and output.

    Args:
        width: In pixels.
        height: In pixels.
        channels: Of input and output.
    """

    width: int
    height: int
    channels: int

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.channels) < 1:
            raise ConfigError(f"a layer of {self} is empty", hint="give positive sizes")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.channels}"


@dataclass(frozen=True)
class KernelBuild:
    """Compilation of the kernel with NVRTC, and what it takes of each card.

    Args:
        card: Architecture that is timed, such as ``sm_75``.
        repeats: Number of compilations.
    """

    card: str
    repeats: int

    def measure(self) -> Measurement:
        """Seconds until the first call can start, with nothing cached: one entry point, the median."""
        from deblur_deploy.kernels.compiler import compile_source, nvrtc_version
        from deblur_deploy.kernels.geometry import choose_entry
        from deblur_deploy.kernels.resources import ARCHITECTURES, measure_resources

        entry = choose_entry("f16", "nhwc", 128)
        samples = [_milliseconds(lambda: compile_source(self.card, entry.definition)) for _ in range(self.repeats)]
        resources = {arch: measure_resources(arch) for arch in ARCHITECTURES}
        used = [kernel for kernels in resources.values() for kernel in kernels.values()]
        details = {
            "nvrtc": nvrtc_version(),
            "entry": entry.name,
            "resources": {arch: {k: asdict(v) for k, v in kernels.items()} for arch, kernels in resources.items()},
        }
        note = (
            f"{entry.name} for {self.card}, NVRTC {details['nvrtc']}; over {len(ARCHITECTURES)} architectures at most "
            f"{max(kernel.registers for kernel in used)} registers, "
            f"{max(kernel.spill_store_bytes for kernel in used)} bytes spilled, "
            f"{max(kernel.shared_bytes for kernel in used) / 1024:.0f} KiB shared memory"
        )
        return Measurement(statistics.median(samples) / 1000, "s", {"compile_source": samples}, note, details)


@dataclass(frozen=True)
class KernelSpeed:
    """The fused kernel against im2col with cuBLAS, grid_sample and torch.compile, on a GPU, timed by CUDA events.

    Args:
        sizes: Layers to time.
        elements: Types to time them in.
        judged: The type whose ratios are held against the target.
        runs: Timed calls of each.
    """

    sizes: tuple[Size, ...]
    elements: tuple[Literal["f16", "f32"], ...]
    judged: Literal["f16", "f32"]
    runs: int

    def __post_init__(self) -> None:
        if not self.sizes or self.judged not in self.elements or self.runs < 1:
            raise ConfigError("the kernels scenario times nothing that is judged", hint="name sizes, elements and runs")

    def measure(self) -> Measurement:
        """The smallest ratio of im2col's median to the kernel's, over all sizes, in the judged type."""
        import torch

        if not torch.cuda.is_available():
            raise MissingDependencyError("the kernel is timed on a GPU, and there is none", hint="run it where one is")
        samples: dict[str, list[float]] = {}
        rows = []
        for element in self.elements:
            ceilings = measure_ceilings(element)
            for size in self.sizes:
                timed, row = self._time_layer(size, element, ceilings)
                samples |= {f"{size}, {element}, {way}": times for way, times in timed.items()}
                rows.append(row)
        details = {"gpu": _gpu_facts(), "rows": rows}
        figure = min(row["im2col_ratio"] for row in rows if row["element"] == self.judged)
        return Measurement(figure, "×", samples, summarize(rows, details["gpu"]["name"]), details)

    def _time_layer(
        self, size: Size, element: Literal["f16", "f32"], ceilings: Mapping[str, float]
    ) -> tuple[dict[str, list[float]], dict[str, Any]]:
        from deform_rivals import Layer, ways_on_gpu

        layer = Layer.draw((size.width, size.height, size.channels), element, "cuda:0")
        exact = Layer(layer.x.double(), layer.offset.double(), layer.weight.double()).grid_sample()
        ways = ways_on_gpu(layer, element)
        ours = next(iter(ways))
        error = relative_error(ways[ours](), exact)
        if error > _TOLERANCES[element]:
            raise VerificationError(
                f"the kernel is off by {error:.1e} at {size} in {element}", hint="run the tests marked gpu"
            )
        timed = {name: _time_on_gpu(way, self.runs) for name, way in ways.items()}
        floor_ms = roofline_floor_ms(layer.macs, layer.bytes_moved, ceilings)
        return timed, make_row(str(size), element, timed, (floor_ms, error))


def make_row(
    size: str, element: str, timed: Mapping[str, Sequence[float]], facts: tuple[float, float]
) -> dict[str, Any]:
    """One layer's figures: medians by way, ratios to the first way, and the share of the roofline that it reaches.

    Args:
        size: Of the layer.
        element: Its type.
        timed: Milliseconds by way; the first is ours.
        facts: The roofline floor in milliseconds, and the relative error of the first way.
    """
    floor_ms, error = facts
    medians = {way: statistics.median(times) for way, times in timed.items()}
    ours = next(iter(medians.values()))
    return {
        "size": size,
        "element": element,
        "median_ms": medians,
        "ratios": {way: median / ours for way, median in medians.items()},
        "im2col_ratio": medians[IM2COL] / ours,
        "floor_ms": floor_ms,
        "floor_share": floor_ms / ours,
        "relative_error": error,
    }


def summarize(rows: Sequence[Mapping[str, Any]], gpu: str) -> str:
    """The table's note: each layer with its time, its ratio to im2col and its share of the roofline floor."""
    layers = [
        f"{row['size']} {row['element']} {next(iter(row['median_ms'].values())):.3f} ms, {row['im2col_ratio']:.2f}×, "
        f"{100 * row['floor_share']:.0f} % of the floor"
        for row in rows
    ]
    return f"{gpu}; {'; '.join(layers)}"


def roofline_floor_ms(macs: int, bytes_moved: int, ceilings: Mapping[str, float]) -> float:
    """The time that neither arithmetic nor memory allows to be undercut (Williams et al., *Roofline*, CACM 2009).

    Args:
        macs: Multiply-accumulates.
        bytes_moved: Bytes that have to cross the memory bus.
        ceilings: ``macs_per_s`` and ``bytes_per_s`` as measured on the device.
    """
    return 1000 * max(macs / ceilings["macs_per_s"], bytes_moved / ceilings["bytes_per_s"])


def relative_error(found: Any, exact: Any) -> float:
    """Largest deviation over the largest magnitude."""
    return float((found.double() - exact).abs().max() / exact.abs().max())


def measure_ceilings(element: Literal["f16", "f32"]) -> dict[str, float]:
    """What the device reaches: multiply-accumulates of a large cuBLAS product, bytes of a large copy, per second."""
    import torch
    from deform_rivals import DTYPES

    n = _CEILING_SIZE
    a, b = (torch.randn(n, n, device="cuda:0").to(DTYPES[element]) for _ in range(2))
    source = torch.zeros(2**28, dtype=torch.uint8, device="cuda:0")
    target = torch.empty_like(source)
    product = min(_time_on_gpu(lambda: a @ b, 20))
    copy = min(_time_on_gpu(lambda: target.copy_(source), 20))
    return {"macs_per_s": n**3 / product * 1000, "bytes_per_s": 2 * source.numel() / copy * 1000}


def _time_on_gpu(action: Callable[[], object], runs: int) -> list[float]:
    """Milliseconds of each call, between two CUDA events."""
    import torch

    for _ in range(_WARMUP_RUNS):
        action()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    torch.cuda.synchronize()
    for start, end in events:
        start.record()
        action()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


def _gpu_facts() -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }


def _milliseconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1000
