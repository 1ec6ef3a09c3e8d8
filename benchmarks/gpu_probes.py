"""Programs that prove something on a GPU: ``python benchmarks/gpu_probes.py NAME [--seconds S]``.

Each prints what it has found so far as lines of JSON; the last one counts. They need PyTorch with CUDA and what their
scenario names, and nothing else: no test runner, no TensorRT, no installed package.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import importlib.util
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from checkout import ROOT
from probing import Finding

_TOOLS: Mapping[str, tuple[str, ...]] = {
    # PyTorch and cuda-python ask the driver for what an older one lacks; such answers are no errors of the kernel.
    "memcheck": ("--report-api-errors", "no"),
    "racecheck": (),
    "synccheck": (),
    "initcheck": (),
}
_FOUND_BY_SANITIZER = 9


def kernel_cases() -> ModuleType:
    """The problems that the tests draw, and the programs that run them."""
    if "kernel_cases" not in sys.modules:
        path = ROOT / "tests/kernels/kernel_cases.py"
        spec = importlib.util.spec_from_file_location("kernel_cases", path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["kernel_cases"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["kernel_cases"])
    return sys.modules["kernel_cases"]


def judge(errors: Mapping[str, Sequence[float]], tolerance: Mapping[str, float], what: str, total: int) -> Finding:
    """Proven where all errors are there, and each is within the tolerance of its type.

    Args:
        errors: Errors by element type.
        tolerance: The largest that is allowed, likewise.
        what: What there is an error of, in the plural.
        total: How many there will be.
    """
    worst = {element: max(found) for element, found in errors.items() if found}
    good = all(error <= tolerance[element] for element, error in worst.items())
    told = ", ".join(f"{error:.1e} in {element}" for element, error in worst.items())
    count = sum(map(len, errors.values()))
    details = {"errors": {element: [float(f"{e:.3e}") for e in found] for element, found in errors.items()}}
    verdict = so_far(count == total) if good else "failed"
    return Finding(verdict, f"{count} of {total} {what}, largest error {told}", details)


def so_far(complete: bool) -> str:
    """The verdict on what was good so far: a part of it proves nothing yet."""
    return "proven" if complete else "unproven"


def kernel_parity(seconds: float, device: str = "cuda") -> Iterator[Finding]:
    """The operator on PyTorch's tensors in both layouts, over the tests' sweep, then its gradients."""
    import torch

    from deblur_deploy.kernels.torch_kernel import ConvSteps, run_deform_conv
    from deblur_deploy.network.deform_conv import deform_conv2d

    cases = kernel_cases()
    errors: dict[str, list[float]] = {"f16": [], "f32": []}
    total = 2 * len(errors) * len(cases.SWEEP)
    for seed in cases.SWEEP:
        for element in errors:
            problem = cases.draw_problem(seed, element)
            g, exact = problem.geometry, problem.exact()
            bias = None if problem.bias is None else problem.bias.to(device)
            strides, pads = (g.stride_h, g.stride_w), (g.pad_h, g.pad_w)
            steps = ConvSteps(strides, pads, (g.dilation_h, g.dilation_w), g.groups, g.offset_groups)
            for layout in (torch.contiguous_format, torch.channels_last):
                x = problem.x.to(device).contiguous(memory_format=layout)
                tensors = (x, problem.offset.to(device), problem.weight.to(device))
                found = run_deform_conv(tensors, steps, bias, bool(g.relu)).double().cpu().numpy()
                errors[element].append(max(cases.relative_errors(found, exact)))
        yield judge(errors, cases.TOLERANCE, "problems", total + 1)
    problem = cases.make_problem("f32", channels=8, size=(6, 7), out_channels=8)
    gradients = []
    for where in ("cpu", device):
        operands = [t.detach().to(where).requires_grad_() for t in (problem.x, problem.offset, problem.weight)]
        deform_conv2d(*operands, padding=1).square().sum().backward()
        gradients.append([operand.grad.cpu().numpy() for operand in operands])
    off = max(max(cases.relative_errors(here, there)) for there, here in zip(*gradients, strict=True))
    judged = judge(errors, cases.TOLERANCE, "problems", total)
    verdict = judged.verdict if off < 1e-4 else "failed"
    yield Finding(verdict, f"{judged.found}; gradients {off:.1e}", judged.details)


def flat_ptx(seconds: float, device: str = "cuda") -> Iterator[Finding]:
    """What TensorRT does with the plugin inside an engine: the driver assembles the PTX, arguments are plain."""
    from deblur_deploy.kernels.aot_plugin import plugin_ptx
    from deblur_deploy.kernels.geometry import choose_entry
    from deblur_deploy.kernels.torch_kernel import launch_function, load_function

    cases, errors = kernel_cases(), {"f16": list[float](), "f32": list[float]()}
    for element in errors:
        for layout in ("nchw", "nhwc") if element == "f16" else ("nchw",):
            for seed in cases.SWEEP:
                problem = cases.draw_problem(seed, element)
                problem = replace(problem, bias=None, geometry=replace(problem.geometry, relu=0))
                case = cases.case_of(problem, cases.Form(layout, pad=-problem.geometry.channels % 8))
                g = case.geometry
                entry = choose_entry(element, layout, g.out_channels // g.groups)
                x, weight, offset, _, y = (t if t is None else t.to(device) for t in case.operands)
                function = load_function(0, entry.name, plugin_ptx(entry))
                numbers = struct.iter_unpack("<i", g.packed())
                pointers = [struct.pack("<Q", tensor.data_ptr()) for tensor in (x, weight, offset, y)]
                parameters = [*pointers[:3], *(struct.pack("<i", number) for (number,) in numbers), pointers[3]]
                launch_function(function, y.device, entry.grid(g), parameters)
                found = cases.in_nchw(case, cases.flat(y.cpu()).numpy())
                errors[element].append(max(cases.relative_errors(found, problem.exact())))
            yield judge(errors, cases.TOLERANCE, "launches", 3 * len(cases.SWEEP))


def plugin_enqueue(seconds: float) -> Iterator[Finding]:
    """The plugin as TensorRT drives it, from a C++ program, on linear and HWC8 buffers."""
    cases = kernel_cases()
    errors: dict[str, list[float]] = {"f16": [], "f32": []}
    program = gpu_runner()
    for element in errors:
        problems = [cases.draw_problem(seed, element) for seed in cases.SWEEP]
        problems = [replace(problem, geometry=replace(problem.geometry, relu=0)) for problem in problems]
        for layout in ("nchw", "nhwc") if element == "f16" else ("nchw",):
            given = [cases.case_of(problem, cases.Form(layout, plugin=True)) for problem in problems]
            for case, problem, elements in zip(given, problems, program.run(given), strict=True):
                found = cases.in_nchw(case, elements)
                errors[element].append(max(cases.relative_errors(found, problem.exact())))
            yield judge(errors, cases.TOLERANCE, "calls", 3 * len(cases.SWEEP))


def sanitizers(seconds: float) -> Iterator[Finding]:
    """All four tools of compute-sanitizer on the C++ program, over kernels and plugin."""
    cases = kernel_cases()
    forms = [cases.Form("nhwc", packed=True), cases.Form("nchw"), cases.Form("nchw", plugin=True)]
    problems = [cases.draw_problem(seed, element) for seed in (0, 3, 7) for element in ("f32", "f16")]
    given = [cases.case_of(problem, form) for problem in problems for form in forms]
    given += [cases.case_of(p, cases.Form("nhwc", plugin=True)) for p in problems if p.element == "f16"]
    clean: list[str] = []
    program = gpu_runner()
    for tool, options in _TOOLS.items():
        watched = cases.CaseProgram(*sanitizer_command(tool, options, program.command))
        ended = watched.try_to_run(given)
        if ended.returncode:
            said = (ended.stderr + ended.stdout[-2000:]).decode(errors="replace")
            yield Finding("failed", f"{tool} ended with {ended.returncode}: {' '.join(said.split())[-200:]}")
            return
        clean.append(tool)
        found = f"{len(given)} cases, nothing found by {', '.join(clean)}"
        yield Finding(so_far(len(clean) == len(_TOOLS)), found)


def sanitizer_command(tool: str, options: Sequence[str], command: Sequence[str]) -> list[str]:
    """A program under one of compute-sanitizer's tools, which ends with an error where it finds something."""
    sanitizer = shutil.which("compute-sanitizer") or "compute-sanitizer"
    return [sanitizer, "--tool", tool, *options, "--error-exitcode", str(_FOUND_BY_SANITIZER), *command]


def cuda_runtime(seconds: float) -> Iterator[Finding]:
    """The calls that engines make, and arrays that go from PyTorch and back without a copy."""
    parts = {
        "memory, events and a captured graph": _use_memory_and_graphs,
        "DLPack and the array interface on the default stream": _share_arrays,
        "one stream waiting for another": _wait_across_streams,
    }
    done: list[str] = []
    for name, part in parts.items():
        part()
        done.append(name)
        yield Finding(so_far(len(done) == len(parts)), ", ".join(done))


_COUNT = 1 << 20


@contextmanager
def _stream_and_host() -> Iterator[tuple[Any, int, int, Any]]:
    """CUDA, a stream, and the address and the values of pinned memory, given back afterwards."""
    import numpy as np

    from deblur_deploy.runtime.cuda import Cuda

    cuda = Cuda()
    stream, pinned = cuda.create_stream(), cuda.allocate_host(4 * _COUNT)
    try:
        yield cuda, stream, pinned, np.ctypeslib.as_array((ctypes.c_float * _COUNT).from_address(pinned))
    finally:
        cuda.free_host(pinned)
        cuda.destroy_stream(stream)


def _use_memory_and_graphs() -> None:
    import numpy as np

    values = np.arange(_COUNT, dtype=np.float32)
    with _stream_and_host() as (cuda, stream, pinned, back):  # within a capture, allocating is an error
        device = cuda.allocate(values.nbytes)
        assert (cuda.device_of(device), cuda.device_of(values.ctypes.data)) == (0, None)
        events = [cuda.create_event(blocking=blocking) for blocking in (False, True)]
        cuda.record(events[0], stream)
        cuda.upload(device, values.ctypes.data, values.nbytes, stream)
        cuda.record(events[1], stream)
        for event in events:
            cuda.synchronize_event(event)
        assert cuda.elapsed_ms(*events) > 0
        cuda.begin_capture(stream)
        cuda.download(pinned, device, values.nbytes, stream)
        graph = cuda.end_capture(stream)
        cuda.launch_graph(graph, stream)
        cuda.synchronize(stream)
        assert np.array_equal(back, values)
        cuda.destroy_graph(graph)
        cuda.free(device)
        for event in events:
            cuda.destroy_event(event)


def _share_arrays() -> None:
    import torch

    from deblur_deploy.runtime.cuda import LEGACY_STREAM
    from deblur_deploy.runtime.device_array import DeviceArray, as_device_array

    tensor = torch.rand(1, 3, 64, 48, device="cuda")
    current = torch.cuda.current_stream().cuda_stream
    found = as_device_array(tensor, current)
    assert (found.address, found.device) == (tensor.data_ptr(), 0)
    assert torch.equal(torch.as_tensor(found, device="cuda"), tensor)
    named = DeviceArray(tensor.data_ptr(), tuple(tensor.shape), "float32", current, 0, tensor)
    assert named.__cuda_array_interface__["stream"] == (current or LEGACY_STREAM)
    assert torch.equal(torch.as_tensor(named, device="cuda"), tensor)


def _wait_across_streams() -> None:
    import torch

    from deblur_deploy.runtime.device_array import as_device_array

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with _stream_and_host() as (cuda, stream, pinned, back):
        event = cuda.create_event()
        with torch.cuda.stream(side):
            slow = torch.rand(4096, 4096, device="cuda")
            for _ in range(20):
                slow = slow @ slow / slow.norm()
            late = torch.full((_COUNT,), 7.0, device="cuda")
        cuda.record(event, side.cuda_stream)
        cuda.wait_for(event, stream)
        cuda.download(pinned, as_device_array(late, stream).address, 4 * _COUNT, stream)
        cuda.synchronize(stream)
        assert (back == 7).all()
        cuda.destroy_event(event)


def kernel_speed(seconds: float) -> Iterator[Finding]:
    """The kernel against its rivals on the layers of the scenario ``kernels``, by replays of CUDA graphs."""
    from kernels import GpuClock, KernelSpeed
    from scenario import load_scenario

    work = load_scenario(Path(__file__).parent / "scenarios/kernels.toml").work
    assert isinstance(work, KernelSpeed)
    rows: list[dict[str, Any]] = []
    for _, row in work.rows(GpuClock(runs=21), compiled=False):
        rows.append(row)
        judged = [one for one in rows if one["element"] == work.judged]
        if not judged:
            continue
        told = "; ".join(
            f"{one['size']} {next(iter(one['median_ms'].values())):.3f} ms, {one['im2col_ratio']:.2f}×, "
            f"{100 * one['floor_share']:.0f} % of the floor"
            for one in judged
        )
        yield Finding(so_far(len(rows) == len(work.sizes) * len(work.elements)), told, {"rows": rows})


def gpu_runner() -> Any:
    """The C++ program, compiled for the GPU at hand, or taken from the cache: two probes run it."""
    from deblur_deploy.core.files import user_cache
    from deblur_deploy.kernels.plugin_library import find_nvcc
    from deblur_deploy.runtime.nvidia import find_gpu

    cases, gpu = kernel_cases(), find_gpu()
    assert gpu is not None
    kernels = ROOT / "deblur_deploy/kernels"
    sources = sorted([*cases.HERE.glob("*.[hc][pu]*"), *kernels.rglob("*.cu*")])
    facts = (gpu.sm, *(path.read_bytes() for path in sources))
    program = user_cache("kernels") / f"gpu-runner-{hashlib.sha256(repr(facts).encode()).hexdigest()}"
    if program.exists():
        return cases.CaseProgram(str(program))
    program.parent.mkdir(parents=True, exist_ok=True)
    partial = program.with_name(f"{program.name}.{os.getpid()}")
    cases.build_gpu_runner(find_nvcc(), gpu.sm.lower().replace("sm", "sm_"), partial)
    partial.replace(program)
    return cases.CaseProgram(str(program))


Probe = Callable[[float], Iterator[Finding]]

PROBES: Mapping[str, str] = {
    "kernel-parity": "gpu_probes:kernel_parity",
    "flat-ptx": "gpu_probes:flat_ptx",
    "kernel-speed": "gpu_probes:kernel_speed",
    "cuda-runtime": "gpu_probes:cuda_runtime",
    "plugin-enqueue": "gpu_probes:plugin_enqueue",
    "sanitizers": "gpu_probes:sanitizers",
    "torch-runners": "network_probes:torch_runners",
    "torch-compile": "network_probes:torch_compile",
    "energy": "network_probes:energy",
    "training-speed": "network_probes:training_speed",
    "fine-tune": "network_probes:fine_tune",
}
"""Every probe by name: module and function."""


def load_probe(name: str) -> Probe:
    """A probe's function."""
    module, _, function = PROBES[name].partition(":")
    probe: Probe = getattr(importlib.import_module(module), function)
    return probe


def main(arguments: Sequence[str]) -> int:
    """Run a probe and print what it finds.

    Args:
        arguments: What follows the script on the command line.

    Returns:
        The exit code: 0, whatever was found.
    """
    parser = argparse.ArgumentParser("benchmarks/gpu_probes.py", description="Prove one thing on a GPU.")
    parser.add_argument("name", choices=PROBES)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long it may take")
    options = parser.parse_args(arguments)
    for finding in load_probe(options.name)(options.seconds):
        finding.tell()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
