"""CUDA through cuda-python's own functions: every call is one that they take, and every failure a sentence."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.runtime.cuda import LEGACY_STREAM, Cuda, stream_handle
from deblur_deploy.runtime.nvidia import count_nvidia_gpus

runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python: pip install cuda-python")

CALLS: dict[str, tuple[Any, ...]] = {
    "allocate": (16,),
    "free": (4096,),
    "allocate_host": (16,),
    "free_host": (4096,),
    "device_of": (4096,),
    "upload": (4096, 8192, 16, 7),
    "download": (4096, 8192, 16, 7),
    "create_stream": (),
    "destroy_stream": (7,),
    "synchronize": (7,),
    "synchronize_event": (7,),
    "create_event": (),
    "destroy_event": (7,),
    "record": (7, 8),
    "wait_for": (7, 8),
    "elapsed_ms": (7, 8),
    "begin_capture": (7,),
    "end_capture": (7,),
    "launch_graph": (7, 8),
    "destroy_graph": (7,),
}


def without_a_device() -> Cuda:
    cuda = object.__new__(Cuda)
    cuda._runtime = runtime
    return cuda


def methods(cls: type) -> dict[str, inspect.Signature]:
    functions = inspect.getmembers(cls, inspect.isfunction)
    return {name: inspect.signature(function) for name, function in functions if not name.startswith("_")}


def test_the_stand_in_has_the_same_methods(stand_in: Any) -> None:
    real, played = methods(Cuda), methods(stand_in.StandInCuda)
    assert {name: played.get(name) for name in real} == real
    assert set(CALLS) | {"abandon_capture"} == set(real)


@pytest.mark.parametrize("name", CALLS)
def test_every_call_is_one_that_cuda_python_takes(name: str) -> None:
    if count_nvidia_gpus():
        pytest.skip("the handles are made up: only without a device nothing is done with them")
    with pytest.raises(DeblurDeployError, match="this machine has no NVIDIA driver"):
        getattr(without_a_device(), name)(*CALLS[name])


@pytest.mark.parametrize(("blocking", "flag"), [(True, "cudaEventBlockingSync"), (False, "cudaEventDefault")])
def test_events_are_waited_for_awake_or_asleep_and_keep_the_time(blocking: bool, flag: str) -> None:
    cuda, given = without_a_device(), []
    cuda._runtime = SimpleNamespace(
        cudaEventCreateWithFlags=lambda flags: (given.append(flags), (runtime.cudaError_t.cudaSuccess, 7))[1],
        cudaEventBlockingSync=runtime.cudaEventBlockingSync,
        cudaEventDefault=runtime.cudaEventDefault,
    )
    assert cuda.create_event(blocking=blocking) == 7
    assert given == [getattr(runtime, flag)]
    assert not given[0] & runtime.cudaEventDisableTiming


def test_the_default_stream_is_named_by_its_handle() -> None:
    assert stream_handle(0) == LEGACY_STREAM == int(runtime.cudaStreamLegacy)
    assert stream_handle(77) == 77


def test_an_address_is_asked_for_its_device() -> None:
    cuda, kinds = without_a_device(), runtime.cudaMemoryType
    found = {"type": kinds.cudaMemoryTypeDevice, "device": 3}
    cuda._runtime = SimpleNamespace(
        cudaPointerGetAttributes=lambda _: (runtime.cudaError_t.cudaSuccess, SimpleNamespace(**found)),
        cudaMemoryType=kinds,
    )
    assert cuda.device_of(4096) == 3
    found |= {"type": kinds.cudaMemoryTypeUnregistered, "device": -2}
    assert cuda.device_of(4096) is None


def test_without_a_driver_cuda_cannot_be_opened() -> None:
    if count_nvidia_gpus() is not None:
        pytest.skip("this machine has a driver")
    with pytest.raises(DeblurDeployError, match="this machine has no NVIDIA driver"):
        Cuda()


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        ("cudaErrorMemoryAllocation", "the GPU has no memory left", "a smaller picture"),
        ("cudaErrorNoDevice", "CUDA finds no GPU", "CUDA_VISIBLE_DEVICES"),
        ("cudaErrorInsufficientDriver", "the NVIDIA driver knows CUDA 12.4, and CUDA 13.5", "'cuda-python<13'"),
        ("cudaErrorIllegalAddress", "CUDA's cudaMalloc failed: an illegal memory access", "nvidia-smi"),
    ],
)
def test_failures_of_cuda_are_sentences(status: str, message: str, hint: str) -> None:
    cuda = without_a_device()
    error = getattr(runtime.cudaError_t, status)
    cuda._runtime = SimpleNamespace(
        cudaMalloc=lambda size: (error, None),
        cudaError_t=runtime.cudaError_t,
        cudaGetErrorString=runtime.cudaGetErrorString,
        cudaDriverGetVersion=lambda: (runtime.cudaError_t.cudaSuccess, 12040),
        cudaRuntimeGetVersion=lambda: (runtime.cudaError_t.cudaSuccess, 13050),
    )
    with pytest.raises(DeblurDeployError, match=message) as e:
        cuda.allocate(1)
    assert hint in e.value.hint


@pytest.mark.gpu
def test_memory_streams_events_and_graphs_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe of ``benchmarks/`` that is run on lent GPUs, too."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    probes = importlib.import_module("gpu_probes")
    *_, last = probes.cuda_runtime(60)
    assert last.verdict == "proven", last.found
