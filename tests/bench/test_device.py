"""What surrounds a measurement: the cores it is kept on, the memory it takes, and what the GPU says of itself."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deblur_deploy.bench import device
from deblur_deploy.bench.device import GpuSensors, conditions, device_facts, gpu_facts, gpu_sensors, throttle_reasons
from deblur_deploy.core.process_memory import peak_resident_bytes, reset_peak, resident_bytes
from deblur_deploy.core.threads import pinned
from deblur_deploy.runtime.nvidia import Gpu, count_nvidia_gpus


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_all_threads_are_pinned_and_let_go_again() -> None:
    allowed, done, tasks = os.sched_getaffinity(0), threading.Event(), []

    def work() -> None:
        tasks.append(threading.get_native_id())
        started.set()
        done.wait()

    started, thread = threading.Event(), threading.Thread(target=work)
    thread.start()
    started.wait()
    try:
        with pinned(1) as cores:
            assert cores == sorted(allowed)[:1]
            assert os.sched_getaffinity(0) == os.sched_getaffinity(tasks[0]) == set(cores)
        assert os.sched_getaffinity(0) == os.sched_getaffinity(tasks[0]) == allowed
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(resident_bytes() is None, reason="needs Linux's /proc")
def test_the_peak_is_that_since_the_last_reset() -> None:
    if not reset_peak():
        pytest.skip("this system does not let a process forget its peak")
    before = resident_bytes()
    assert before is not None
    np.ones(64 * 2**20, dtype=np.uint8).sum()  # held, written, and given back
    peak = peak_resident_bytes()
    assert peak is not None
    assert peak - before > 60 * 2**20
    reset_peak()
    lower = peak_resident_bytes()
    assert lower is not None
    assert lower < peak - 30 * 2**20


class NVMLError(Exception):
    """As the library's."""


def refused(*_: Any) -> None:
    raise NVMLError


def library(**changed: Any) -> SimpleNamespace:
    """The part of NVML that is asked, as a card answers."""
    answers = {
        "NVMLError": NVMLError,
        **{"NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0},
        "nvmlSystemGetDriverVersion": lambda: b"580.10",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=11 * 2**30, used=2**30),
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: 0x44,
        "nvmlDeviceGetPowerUsage": lambda _: 250_500,
        "nvmlDeviceGetClockInfo": lambda _, kind: {1: 1545, 2: 7000}[kind],
        "nvmlDeviceGetTemperature": lambda *_: 71,
        "nvmlDeviceGetTotalEnergyConsumption": lambda _: 123_400,
    }
    return SimpleNamespace(**(answers | changed))


def test_a_gpu_describes_itself() -> None:
    gpu = GpuSensors(library(), handle=object())
    assert gpu.facts() == {"driver": "580.10", "memory_gib": 11.0}
    assert gpu.conditions() == {
        **{"sm_mhz": 1545, "memory_mhz": 7000, "temperature_c": 71, "power_w": 250.5},
        "throttle_reasons": ["power cap", "too hot (hardware)"],
    }
    assert gpu.energy_joules() == pytest.approx(123.4)
    assert gpu.used_bytes() == 2**30
    assert conditions(gpu)["gpu"]["sm_mhz"] == 1545


def test_what_a_card_does_not_answer_is_left_out() -> None:
    gpu = GpuSensors(
        library(nvmlDeviceGetTotalEnergyConsumption=refused, nvmlDeviceGetPowerUsage=refused), handle=object()
    )
    assert gpu.energy_joules() is None
    assert "power_w" not in gpu.conditions()
    assert gpu.conditions()["sm_mhz"] == 1545


def test_reasons_that_are_not_known_are_kept_as_bits() -> None:
    assert throttle_reasons(0) == []
    assert throttle_reasons(0x1004) == ["power cap", "0x1000"]


@pytest.mark.skipif(bool(count_nvidia_gpus()), reason="this machine has a GPU")
def test_without_a_gpu_there_is_none_to_tell_of() -> None:
    with gpu_sensors() as gpu:
        assert gpu is None
    assert device_facts()["gpu"] is None
    assert "gpu" not in conditions(None)


def test_without_sensors_the_driver_tells_what_the_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "find_gpu", lambda: Gpu("a card", "7.5", "13.0", "0000:01:00.0"))
    assert gpu_facts(None) == {"name": "a card", "capability": "7.5", "driver_cuda": "13.0"}
    assert gpu_facts(GpuSensors(library(), handle=object())) == {
        **{"name": "a card", "capability": "7.5", "driver_cuda": "13.0"},
        **{"driver": "580.10", "memory_gib": 11.0},
    }


@pytest.mark.gpu
def test_the_gpu_that_is_here_tells_its_name_and_clocks() -> None:
    pytest.importorskip("pynvml", reason="pip install nvidia-ml-py")
    with gpu_sensors() as gpu:
        assert gpu is not None
        assert gpu.facts().keys() == {"driver", "memory_gib"}
        assert gpu.conditions()["sm_mhz"] > 0
