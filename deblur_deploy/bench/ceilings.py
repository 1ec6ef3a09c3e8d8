"""What a machine reaches at best, measured in about two seconds: matrix products, convolutions, a copy.

The ceiling of a type is the best rate of anything here that computes in it: a large matrix product and a convolution in
PyTorch, and a stack of convolutions in every ONNX runtime that is installed. A network that came close to it would
have nothing left to gain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from deblur_deploy.config import REDUCED_CODE
from deblur_deploy.core.artifact import Artifact, NetworkSpec, Step, hash_file
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.runtime.runner import open_runner, reason_unavailable, runtimes_for
from deblur_deploy.runtime.runtimes import RUNTIMES

if TYPE_CHECKING:
    import onnx
    import torch

_CHANNELS, _SIZE, _LAYERS = 64, 96, 6
_OPSET, _IR_VERSION = 19, 10
_STACK_GMACS = _LAYERS * 9 * _CHANNELS**2 * _SIZE**2 / 1e9
_PRODUCT, _GPU_PRODUCT = 1024, 4096
_COPY_BYTES = 2**27


@dataclass(frozen=True)
class Ceilings:
    """The best rates that the probes reached.

    Args:
        device: ``cpu`` or the GPU's name.
        gmacs_per_s: 10**9 multiply-accumulates per second, by type.
        gb_per_s: 10**9 bytes per second of a copy, reads and writes together.
        best: What reached the rate of each type.
    """

    device: str
    gmacs_per_s: dict[str, float]
    gb_per_s: float
    best: dict[str, str]


def measure_cpu_ceilings(threads: int, seconds: float = 2.0) -> Ceilings:
    """Probe the processor.

    Args:
        threads: Threads to use.
        seconds: Time for all probes together, without loading.
    """
    rates: dict[tuple[str, str], float] = {}
    share = seconds / 8
    if find_spec("torch"):
        rates |= {(kind, f"torch {what}"): rate for kind, what, rate in _torch_rates(threads, share)}
    if find_spec("onnx"):
        rates |= {(kind, runtime): rate for kind, runtime, rate in _onnx_rates(threads, share)}
    if not rates:
        rates["fp32", "numpy product"] = _numpy_rate(share)
    return _ceilings("cpu", rates, _numpy_copy_rate(share))


def measure_gpu_ceilings(seconds: float = 2.0) -> Ceilings | None:
    """Probe the GPU through PyTorch; None where PyTorch has no GPU."""
    if not find_spec("torch"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    share, n = seconds / 5, _GPU_PRODUCT
    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    rates = {(kind, "torch product"): _gpu_product_rate(dtype, share) for kind, dtype in types.items()}
    a8, b8 = (torch.randint(-99, 99, (n, n), device="cuda", dtype=torch.int8) for _ in range(2))
    with suppress(RuntimeError):  # a card without integer tensor cores
        rates["int8", "torch product"] = n**3 / 1e9 / _best_seconds(_synchronized(lambda: torch._int_mm(a8, b8)), share)
    source = torch.zeros(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * _COPY_BYTES / 1e9 / _best_seconds(_synchronized(lambda: target.copy_(source)), share)
    return _ceilings(torch.cuda.get_device_name(), rates, copy)


def _gpu_product_rate(dtype: torch.dtype, seconds: float) -> float:
    """10**9 multiply-accumulates per second of a large product."""
    import torch

    n = _GPU_PRODUCT
    a, b = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
    return n**3 / 1e9 / _best_seconds(_synchronized(lambda: a @ b), seconds)


def _ceilings(device: str, rates: dict[tuple[str, str], float], gb_per_s: float) -> Ceilings:
    """The best rate of each type."""
    best = {kind: max((rate, who) for (k, who), rate in rates.items() if k == kind) for kind, _ in rates}
    return Ceilings(
        device,
        {kind: rate for kind, (rate, _) in best.items()},
        gb_per_s,
        {kind: who for kind, (_, who) in best.items()},
    )


def _torch_rates(threads: int, seconds: float) -> Iterator[tuple[str, str, float]]:
    """(type, what, 10**9 multiply-accumulates per second) of a product and a convolution."""
    import torch
    from torch.nn import functional

    before, n = torch.get_num_threads(), _PRODUCT
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            a, b = torch.randn(n, n), torch.randn(n, n)
            yield "fp32", "product", n**3 / 1e9 / _best_seconds(lambda: a @ b, seconds)
            half_a, half_b = a.bfloat16(), b.bfloat16()
            yield "bf16", "product", n**3 / 1e9 / _best_seconds(lambda: half_a @ half_b, seconds)
            x = torch.randn(1, _CHANNELS, _SIZE, _SIZE).to(memory_format=torch.channels_last)
            weight = torch.randn(_CHANNELS, _CHANNELS, 3, 3).to(memory_format=torch.channels_last)
            convolution = _best_seconds(lambda: functional.conv2d(x, weight, padding=1), seconds)
            yield "fp32", "convolution", _STACK_GMACS / _LAYERS / convolution
    finally:
        torch.set_num_threads(before)


def _onnx_rates(threads: int, seconds: float) -> Iterator[tuple[str, str, float]]:
    """(type, runtime, 10**9 multiply-accumulates per second) of a stack of convolutions."""
    import onnx

    frame = np.random.default_rng(0).random((1, _CHANNELS, _SIZE, _SIZE), dtype=np.float32)
    with TemporaryDirectory() as name:
        for kind in ("fp32", "int8"):
            path = Path(name) / f"{kind}.onnx"
            onnx.save(convolution_stack(_CHANNELS, _SIZE, _LAYERS, quantized=kind == "int8"), path)
            artifact = _probe(path)
            for runtime in runtimes_for(artifact):
                row = RUNTIMES[runtime]
                computed = row.precision if kind == "fp32" else kind
                redundant = kind == "int8" and row.precision != "fp32"
                if redundant or row.needs_gpu or reason_unavailable(artifact, runtime):
                    continue
                with suppress(DeblurDeployError), open_runner(artifact, runtime, threads) as runner:
                    yield computed, runtime, _STACK_GMACS / _best_seconds(lambda r=runner: r.infer(frame), seconds)  # type: ignore[misc]


def _probe(path: Path) -> Artifact:
    """An ONNX file that is not an artifact, as runners take it."""
    image = ImageSpec(channels=_CHANNELS, height=_SIZE, width=_SIZE)
    history = (Step("probe", {}, {}, None, "", {}),)
    return Artifact("onnx", path, hash_file(path), NetworkSpec("probe", {}), image, history)


def _numpy_rate(seconds: float) -> float:
    a, b = np.random.default_rng(0).random((2, _PRODUCT, _PRODUCT), dtype=np.float32)
    return _PRODUCT**3 / 1e9 / _best_seconds(lambda: a @ b, seconds)


def _numpy_copy_rate(seconds: float) -> float:
    """10**9 bytes per second, read and written; by PyTorch's threads where it is installed, else by one."""
    if find_spec("torch"):
        import torch

        held = torch.ones(_COPY_BYTES, dtype=torch.uint8)
        copied = torch.empty_like(held)
        return 2 * _COPY_BYTES / 1e9 / _best_seconds(lambda: copied.copy_(held), seconds)
    source = np.ones(_COPY_BYTES, dtype=np.uint8)
    target = np.empty_like(source)
    return 2 * _COPY_BYTES / 1e9 / _best_seconds(lambda: np.copyto(target, source), seconds)


def _synchronized(action: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """The action, then a wait for the GPU."""
    import torch

    def wait() -> None:
        action()
        torch.cuda.synchronize()

    return wait


def _best_seconds(action: Callable[[], object], seconds: float) -> float:
    """The shortest of all calls in the given time, of at least three; one before them is not counted."""
    action()
    end, best, calls = time.perf_counter() + seconds, float("inf"), 0
    while calls < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        action()
        best, calls = min(best, time.perf_counter() - start), calls + 1
    return best


def convolution_stack(channels: int, size: int, layers: int, *, quantized: bool) -> onnx.ModelProto:
    """Convolutions one after the other, each followed by a Relu.

    Args:
        channels: Of every layer's input and output.
        size: Height and width.
        layers: How many.
        quantized: Put QuantizeLinear and DequantizeLinear around activations, and store the weights as int8.

    Returns:
        A model from ``x`` to ``y``, both (1, channels, size, size) float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = rng.normal(0, (2 / (9 * channels)) ** 0.5, (channels, channels, 3, 3)).astype(np.float32)
    nodes, constants = [], []
    if quantized:
        # Files with larger codes are computed in float32 on processors without VNNI.
        scale = np.abs(weights).max() / REDUCED_CODE
        constants = [
            numpy_helper.from_array(np.round(weights / scale).astype(np.int8), "weights"),
            numpy_helper.from_array(np.array(scale), "weight_scale"),
            numpy_helper.from_array(np.array(4 / 127, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", ["weights", "weight_scale", "zero"], ["w"]))
    else:
        constants = [numpy_helper.from_array(weights, "w")]
    current = "x"
    for layer in range(layers):
        if quantized:
            nodes += [
                helper.make_node("QuantizeLinear", [current, "scale", "zero"], [f"q{layer}"]),
                helper.make_node("DequantizeLinear", [f"q{layer}", "scale", "zero"], [f"d{layer}"]),
            ]
            current = f"d{layer}"
        last = "y" if layer == layers - 1 else f"r{layer}"
        nodes += [
            helper.make_node("Conv", [current, "w"], [f"c{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{layer}"], [last]),
        ]
        current = last
    shape = [1, channels, size, size]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "probe", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
