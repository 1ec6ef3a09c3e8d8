"""The operator's CUDA implementation: operands as it lays them out, run on the processor; the whole of it on a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kernel_cases import (
    SWEEP,
    TOLERANCE,
    Case,
    CaseProgram,
    Form,
    build_gpu_runner,
    case_of,
    in_nchw,
    relative_errors,
)
from kernel_cases import (
    draw_problem as draw_for_program,
)

from deblur_deploy.core.errors import ConfigError, MissingDependencyError
from deblur_deploy.kernels import torch_kernel
from deblur_deploy.kernels.plugin_library import find_nvcc
from deblur_deploy.kernels.torch_kernel import ConvSteps, prepare_call, run_deform_conv
from deblur_deploy.network.deform_conv import _deform_conv2d_cuda, deform_conv2d


def steps_of(geometry) -> ConvSteps:
    return ConvSteps(
        (geometry.stride_h, geometry.stride_w),
        (geometry.pad_h, geometry.pad_w),
        (geometry.dilation_h, geometry.dilation_w),
        geometry.groups,
        geometry.offset_groups,
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("seed", "element"), [(21, "f32"), (22, "f16"), (23, "f16")])
def test_operands_are_laid_out_as_the_kernel_reads_them(  # noqa: PLR0913
    emulator, draw_problem, assert_close, seed, element, memory_format
):
    problem = draw_problem(seed, element)
    x = problem.x.to(memory_format=memory_format)
    tensors = (x, problem.offset, problem.weight)
    call = prepare_call(tensors, steps_of(problem.geometry), problem.bias, problem.geometry.relu == 1)

    flat = torch.from_numpy(emulator.launch(call.entry, call.geometry, call.operands).copy())
    result = flat.as_strided(call.result.shape, call.result.stride()).double().numpy()
    assert call.result.is_contiguous(memory_format=memory_format)
    assert_close(result, problem.exact(), element)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_operator_launches_the_kernel_on_cuda(emulator, make_problem, assert_close, monkeypatch, memory_format):
    """All of it but the driver: the launch runs on the processor."""
    problem = make_problem("f16", channels=12, size=(7, 9), out_channels=20)

    def launch(call):
        elements = torch.from_numpy(emulator.launch(call.entry, call.geometry, call.operands).copy())
        call.result.copy_(elements.as_strided(call.result.shape, call.result.stride()))

    monkeypatch.setattr(torch_kernel, "launch_call", launch)
    x = problem.x.to(memory_format=memory_format)
    found = _deform_conv2d_cuda(x, problem.offset, problem.weight, [1, 1], [1, 1], [1, 1], 1, 1)
    assert found.is_contiguous(memory_format=memory_format)
    assert_close(found.double().numpy(), problem.exact(), "f16")
    with pytest.raises(ValueError, match="offset has shape"):
        _deform_conv2d_cuda(x, problem.offset[:, :4], problem.weight, [1, 1], [1, 1], [1, 1], 1, 1)


def test_types_that_the_kernel_does_not_take_are_sampled_and_multiplied(make_problem):
    problem = make_problem("f32", channels=4, size=(5, 6), out_channels=4)

    found = _deform_conv2d_cuda(problem.x.bfloat16(), problem.offset, problem.weight, [1, 1], [1, 1], [1, 1], 1, 1)
    assert found.dtype == torch.bfloat16
    assert (found.double() - torch.from_numpy(problem.exact())).abs().max() < 0.1


def test_a_launch_passes_each_parameter_where_it_lies(monkeypatch):
    driver = pytest.importorskip("cuda.bindings.driver", reason="needs the bindings: pip install 'deblur-deploy[cuda]'")
    seen = {}

    def launch(function, *grid_block_shared_stream, **_):
        *dimensions, address, extra = grid_block_shared_stream
        pointers = (ctypes.c_void_p * 2).from_address(address)
        seen.update(dimensions=dimensions, extra=extra, read=[ctypes.string_at(p, 3) for p in pointers])
        return (driver.CUresult.CUDA_SUCCESS,)

    monkeypatch.setattr(driver, "cuLaunchKernel", launch)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=7))
    torch_kernel.launch_function(object(), torch.device("cuda", 0), (5, 4, 3), [b"abc", b"d\0f"])

    assert seen == {"dimensions": [5, 4, 3, 256, 1, 1, 0, 7], "extra": 0, "read": [b"abc", b"d\0f"]}
    monkeypatch.setattr(driver, "cuLaunchKernel", lambda *_: (driver.CUresult.CUDA_ERROR_INVALID_VALUE,))
    with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_VALUE"):
        torch_kernel.launch_function(object(), torch.device("cuda", 0), (5, 4, 3), [b"abc"])


def test_operands_lie_on_16_byte_boundaries(make_problem):
    problem = make_problem("f16", channels=8, size=(5, 5), out_channels=8)
    shifted = torch.zeros(problem.x.numel() + 1, dtype=torch.float16)[1:].view_as(problem.x)

    call = prepare_call((shifted, problem.offset, problem.weight), ConvSteps(padding=(1, 1)))
    assert shifted.data_ptr() % 16
    assert [tensor.data_ptr() % 16 for tensor in call.operands if tensor is not None] == [0, 0, 0, 0]


def test_offsets_and_weights_of_other_types_are_converted(make_problem):
    problem = make_problem("f16", channels=8, size=(5, 5), out_channels=8)

    call = prepare_call((problem.x, problem.offset.bfloat16(), problem.weight.float()), ConvSteps(padding=(1, 1)))
    _, weight, offset, _, _ = call.operands
    assert (weight.dtype, offset.dtype, call.geometry.half_offset) == (torch.float16, torch.float32, 0)


def test_what_is_too_large_for_one_launch_is_refused(make_problem):
    problem = make_problem("f16", channels=8, size=(1, 1), out_channels=8, kernel=1)
    many = [tensor.expand(70_000, -1, -1, -1) for tensor in (problem.x, problem.offset)]

    with pytest.raises(ConfigError, match="too large for one launch"):
        prepare_call((*many, problem.weight), ConvSteps())


@pytest.mark.parametrize("astray", ["x", "offset", "weight", "bias"])
def test_operands_on_several_devices_are_refused_before_an_address_is_touched(make_problem, astray):
    problem = make_problem("f16", channels=8, size=(5, 5), out_channels=8)
    operands = {"x": problem.x, "offset": problem.offset, "weight": problem.weight, "bias": torch.zeros(8).half()}
    operands[astray] = operands[astray].to("meta")
    *tensors, bias = operands.values()

    with pytest.raises(ConfigError, match="lie on cpu and meta"):
        prepare_call(tuple(tensors), ConvSteps(padding=(1, 1)), bias)


def test_the_shape_function_on_cuda_keeps_the_memory_format(make_problem):
    problem = make_problem("f16", channels=8, size=(6, 5), out_channels=12)
    operands = [
        torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        for tensor in (problem.x.to(memory_format=torch.channels_last), problem.offset, problem.weight)
    ]
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        cuda = [
            torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda") for tensor in operands
        ]
        result = deform_conv2d(*cuda, padding=1)

    assert result.shape == (1, 12, 6, 5)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_the_operator_is_imported_without_the_kernels():
    module = "deblur_deploy.network.deform_conv"
    script = f"import sys, {module}; print([m for m in sys.modules if 'deblur_deploy.kernels' in m])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert ended.stdout.strip() == "[]"


@pytest.mark.gpu
def test_without_the_compiler_the_operator_says_what_to_install(make_problem, monkeypatch):
    problem = make_problem("f16", channels=8, size=(5, 5), out_channels=8)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    torch_kernel.compile_entry.cache_clear()

    with pytest.raises(MissingDependencyError, match=r"deblur-deploy\[cuda\]"):
        deform_conv2d(problem.x.cuda(), problem.offset.cuda(), problem.weight.cuda(), padding=1)


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("element", ["f32", "f16"])
@pytest.mark.parametrize("seed", range(40))
def test_the_gpu_is_exact_to_the_type(draw_problem, assert_close, seed, element, memory_format):
    problem = draw_problem(seed, element)
    x = problem.x.cuda().to(memory_format=memory_format)
    bias = None if problem.bias is None else problem.bias.cuda()
    tensors = (x, problem.offset.cuda(), problem.weight.cuda())

    found = run_deform_conv(tensors, steps_of(problem.geometry), bias, bool(problem.geometry.relu))
    assert_close(found.double().cpu().numpy(), problem.exact(), element)


@pytest.mark.gpu
def test_gradients_flow_through_the_kernel(make_problem):
    problem = make_problem("f32", channels=8, size=(6, 7), out_channels=8)
    grads = []
    for device in ("cpu", "cuda"):
        operands = [tensor.to(device).requires_grad_() for tensor in (problem.x, problem.offset, problem.weight)]
        deform_conv2d(*operands, padding=1).square().sum().backward()
        grads.append([operand.grad.cpu().numpy() for operand in operands])
    for here, there in zip(*grads, strict=True):
        assert np.abs(here - there).max() < 1e-4 * np.abs(here).max()


TOOLS = {
    # PyTorch and cuda-python ask the driver for what an older one lacks; such answers are no errors of the kernel.
    "memcheck": ("--report-api-errors", "no", "--leak-check", "full"),
    "racecheck": (),
    "synccheck": (),
    "initcheck": (),
}


def sanitized(program: CaseProgram, tool: str) -> CaseProgram:
    return CaseProgram("compute-sanitizer", "--tool", tool, *TOOLS[tool], "--error-exitcode", "9", *program.command)


def cases_for_sanitizers() -> list[Case]:
    forms = [Form("nhwc", packed=True), Form("nchw"), Form("nchw", plugin=True)]
    problems = [draw_for_program(seed, element) for seed in (0, 3, 7) for element in ("f32", "f16")]
    cases = [case_of(problem, form) for problem in problems for form in forms]
    return cases + [case_of(problem, Form("nhwc", plugin=True)) for problem in problems if problem.element == "f16"]


def test_the_gpus_program_compiles_and_is_what_the_sanitizers_watch(tmp_path):
    """Without a GPU it says so and ends; that it starts shows that nothing is missing."""
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc, which comes with the CUDA toolkit")
    program = build_gpu_runner(find_nvcc(), "sm_75", tmp_path / "gpu_runner")
    ended = program.try_to_run(cases_for_sanitizers()[:1])

    assert sanitized(program, "memcheck").command[:5] == (
        "compute-sanitizer", "--tool", "memcheck", "--report-api-errors", "no"
    )  # fmt: skip
    if not torch.cuda.is_available():
        assert ended.returncode == 4
        assert ended.stderr.startswith(b"cudaMalloc: ")


@pytest.fixture(scope="module")
def gpu_runner(tmp_path_factory):
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc, which comes with the CUDA toolkit")
    return build_gpu_runner(find_nvcc(), torch_kernel.device_arch(0), tmp_path_factory.mktemp("gpu") / "gpu_runner")


@pytest.mark.gpu
def test_kernel_and_plugin_in_cpp_are_exact_to_the_type(gpu_runner):
    forms = [Form("nhwc", packed=True, pad=4), Form("nchw"), Form("nchw", plugin=True)]
    for element in ("f32", "f16"):
        problems = [draw_for_program(seed, element) for seed in SWEEP]
        problems = [replace(problem, geometry=replace(problem.geometry, relu=0)) for problem in problems]
        for form in [*forms, *([Form("nhwc", plugin=True)] if element == "f16" else [])]:
            cases = [case_of(problem, form) for problem in problems]
            for case, problem, elements in zip(cases, problems, gpu_runner.run(cases), strict=True):
                assert max(relative_errors(in_nchw(case, elements), problem.exact())) <= TOLERANCE[element]


@pytest.mark.gpu
@pytest.mark.parametrize("tool", TOOLS)
def test_compute_sanitizer_finds_nothing(gpu_runner, tool):
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("needs compute-sanitizer, which comes with the CUDA toolkit")
    ended = sanitized(gpu_runner, tool).try_to_run(cases_for_sanitizers())
    assert ended.returncode == 0, ended.stderr.decode()[-3000:]
