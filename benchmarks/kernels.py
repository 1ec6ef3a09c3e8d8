"""Measurements of the deformable convolution's CUDA kernel: its compilation, and its speed where there is a GPU."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from measurement import Measurement
from proof_figures import IM2COL

from deblur_deploy.core.errors import ConfigError, MissingDependencyError, VerificationError

_TOLERANCES = {"f16": 2e-3, "f32": 1e-5}
_WARMUP_RUNS = 10
_REPLAY_MS, _MOST_CALLS = 2.0, 200
"""How long a timed replay should take at least, and how many calls it may be made of."""
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
        """Seconds of the processor until the first call can start, with nothing cached: one entry point, the median."""
        from deblur_deploy.kernels.compiler import compile_source, nvrtc_version
        from deblur_deploy.kernels.geometry import choose_entry
        from deblur_deploy.kernels.resources import ARCHITECTURES, measure_resources

        entry = choose_entry("f16", "nhwc", 128)

        def compile_entry() -> None:
            compile_source(self.card, entry.definition)

        samples = [_processor_milliseconds(compile_entry) for _ in range(self.repeats)]
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
class KernelPtx:
    """What goes into engines, assembled for each card: the driver does so where an engine is loaded.

    Args:
        cards: Architectures, such as ``sm_75``.
    """

    cards: tuple[str, ...]

    def measure(self) -> Measurement:
        """How many entry points take more of a card than two blocks to a multiprocessor allow."""
        from deblur_deploy.kernels.aot_plugin import plugin_ptx
        from deblur_deploy.kernels.geometry import ENTRIES
        from deblur_deploy.kernels.resources import MAX_REGISTERS, MAX_SHARED_BYTES, MAX_SPILL_BYTES, assemble

        rows, used = [], []
        for entry in ENTRIES:
            ptx = plugin_ptx(entry)
            on_cards = [assemble(ptx, card)[entry.name] for card in self.cards]
            used += on_cards
            cells = [f"{one.registers} / {one.spill_store_bytes} / {one.shared_bytes}" for one in on_cards]
            rows.append([entry.name, *cells])
        limits = f"{MAX_REGISTERS} registers, {MAX_SPILL_BYTES} bytes spilled, {MAX_SHARED_BYTES} bytes shared"
        note = f"registers / bytes spilled / bytes of shared memory; limits: {limits}"
        details = {"table": {"headings": ["entry point", *self.cards], "rows": rows}}
        over = sum(not one.fits_twice for one in used)
        return Measurement(float(over), "over the limits", {}, note, details)


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
        for timed, row in self.rows(GpuClock(self.runs)):
            samples |= {f"{row['size']}, {row['element']}, {way}": times for way, times in timed.items()}
            rows.append(row)
        details = {"gpu": _gpu_facts(), "rows": rows}
        figure = min(row["im2col_ratio"] for row in rows if row["element"] == self.judged)
        return Measurement(figure, "×", samples, summarize(rows, details["gpu"]["name"]), details)

    def rows(
        self, clock: GpuClock, *, compiled: bool = True
    ) -> Iterator[tuple[dict[str, list[float]], dict[str, Any]]]:
        """Each layer in each type, those of the judged type first, as it is done.

        Args:
            clock: Times the calls.
            compiled: With torch.compile among the rivals, which takes most of a minute to start.

        Yields:
            Milliseconds of a call by way, and the layer's row (see :func:`make_row`).

        Raises:
            VerificationError: The kernel's result is wrong.
        """
        for element in sorted(self.elements, key=lambda one: one != self.judged):
            ceilings = measure_ceilings(element, clock)
            for size in self.sizes:
                yield self._time_layer(size, element, (ceilings, clock, compiled))

    def _time_layer(
        self, size: Size, element: Literal["f16", "f32"], how: tuple[Mapping[str, float], GpuClock, bool]
    ) -> tuple[dict[str, list[float]], dict[str, Any]]:
        from deform_rivals import Layer, ways_on_gpu

        ceilings, clock, compiled = how
        layer = Layer.draw((size.width, size.height, size.channels), element, "cuda:0")
        exact = Layer(layer.x.double(), layer.offset.double(), layer.weight.double()).grid_sample()
        ways = ways_on_gpu(layer, element, compiled=compiled)
        ours = next(iter(ways))
        error = relative_error(ways[ours](), exact)
        if error > _TOLERANCES[element]:
            raise VerificationError(
                f"the kernel is off by {error:.1e} at {size} in {element}", hint="run the tests marked gpu"
            )
        timed = {name: clock.time(way) for name, way in ways.items()}
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


def measure_ceilings(element: Literal["f16", "f32"], clock: GpuClock) -> dict[str, float]:
    """What the device reaches: multiply-accumulates of a large cuBLAS product, bytes of a large copy, per second."""
    import torch
    from deform_rivals import DTYPES

    n = _CEILING_SIZE
    a, b = (torch.randn(n, n, device="cuda:0").to(DTYPES[element]) for _ in range(2))
    source = torch.zeros(2**28, dtype=torch.uint8, device="cuda:0")
    target = torch.empty_like(source)
    product = min(clock.time(lambda: a @ b))
    copy = min(clock.time(lambda: target.copy_(source)))
    return {"macs_per_s": n**3 / product * 1000, "bytes_per_s": 2 * source.numel() / copy * 1000}


class GpuClock:
    """Times what is put on a GPU, without what Python does to put it there.

    A kernel of some microseconds is shorter than the Python that launches it: calls in a row would be timed with the
    pauses between them. So many calls are captured as one CUDA graph, and its replays are timed by CUDA events.

    Args:
        runs: Number of replays that are timed.
        cuda: The module ``torch.cuda``, or what stands for it.
    """

    def __init__(self, runs: int, cuda: Any = None) -> None:
        import torch

        self._runs = runs
        self._cuda = cuda or torch.cuda

    def time(self, action: Callable[[], object]) -> list[float]:
        """Milliseconds of one call on the device, from each replay."""
        cuda, side = self._cuda, self._cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):  # whatever compiles or allocates at its first calls does so here
            for _ in range(_WARMUP_RUNS):
                action()
            (alone,) = self._span(action, 1)
        cuda.current_stream().wait_stream(side)
        calls = max(1, min(_MOST_CALLS, math.ceil(_REPLAY_MS / max(alone, 1e-3))))
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            for _ in range(calls):
                action()
        graph.replay()
        return [span / calls for span in self._span(graph.replay, self._runs)]

    def _span(self, action: Callable[[], object], runs: int) -> list[float]:
        """Milliseconds between an event before and one after, for each run."""
        pairs = [tuple(self._cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(runs)]
        self._cuda.synchronize()
        for start, end in pairs:
            start.record()
            action()
            end.record()
        self._cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]


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


def _processor_milliseconds(action: Callable[[], object]) -> float:
    """What the action takes of the processor: its wall time on an idle machine, whatever else a busy one does."""
    start = time.process_time()
    action()
    return (time.process_time() - start) * 1000
