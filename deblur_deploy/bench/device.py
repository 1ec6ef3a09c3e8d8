"""Facts about the machine, recorded with every measurement: figures from two machines are never compared silently."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from deblur_deploy.bench.gpu import GpuSensors, gpu_facts, gpu_sensors
from deblur_deploy.core.artifact import library_versions
from deblur_deploy.core.processor import instruction_sets, read_cpuinfo
from deblur_deploy.core.threads import usable_cores
from deblur_deploy.runtime.runtimes import RUNTIMES

_CPUINFO, _CPUS = Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu")
_TELLING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "i8mm",
    "bf16",
)
"""Instruction sets that decide how fast convolutions run in float32, bfloat16 and INT8."""


def device_facts() -> dict[str, Any]:
    """What this machine is.

    Returns:
        ``cpu``, ``instruction_sets``, ``cores``, ``memory_gib``, ``gpu`` (see :func:`gpu_facts`),
        ``os``, ``python``, ``libraries``.
    """
    with gpu_sensors() as sensors:
        gpu = gpu_facts(sensors)
    flags = instruction_sets()
    return {
        "cpu": read_cpuinfo().get("model name") or platform.processor() or platform.machine(),
        "instruction_sets": [flag for flag in _TELLING_FLAGS if flag in flags],
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": gpu,
        "os": platform.system(),
        "python": platform.python_version(),
        "libraries": library_versions(name for row in RUNTIMES.values() for name in row.packages),
    }


def conditions(gpu: GpuSensors | None) -> dict[str, Any]:
    """What a measurement was taken under: recorded before and after, for a machine that throttles changes between.

    Args:
        gpu: The sensors of the GPU, if there are any.

    Returns:
        ``load_average`` of the last minute, ``cpu_mhz`` (mean over the cores) and ``cpu_throttled`` (how often the
        processor has slowed down for heat since it was started), each where Linux tells it, and ``gpu``.
    """
    found: dict[str, Any] = {}
    if hasattr(os, "getloadavg"):
        found["load_average"] = round(os.getloadavg()[0], 2)
    if clocks := _core_clocks():
        found["cpu_mhz"] = round(sum(clocks) / len(clocks))
    counters = [int(path.read_text()) for path in _CPUS.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    if counters:
        found["cpu_throttled"] = sum(counters)
    if gpu:
        found["gpu"] = gpu.conditions()
    return found


def _core_clocks() -> list[float]:
    """Present clock of every core in MHz, from Linux's ``/proc/cpuinfo``."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
