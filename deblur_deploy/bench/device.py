"""Facts about the machine, recorded with every measurement: figures from two machines are never compared silently."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from deblur_deploy.artifact import library_versions

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
        ``cpu``, ``instruction_sets``, ``cores``, ``memory_gib``, ``os``, ``python``, ``libraries``.
    """
    cpuinfo = _read_cpuinfo()
    flags = set(cpuinfo.get("flags", cpuinfo.get("Features", "")).split())
    return {
        "cpu": cpuinfo.get("model name") or platform.processor() or platform.machine(),
        "instruction_sets": [flag for flag in _TELLING_FLAGS if flag in flags],
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": platform.system(),
        "python": platform.python_version(),
        "libraries": library_versions(),
    }


def usable_cores() -> int:
    """Processor cores that this process may use, which in a container may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_cpuinfo() -> dict[str, str]:
    """Fields of the first processor in Linux's ``/proc/cpuinfo``; nothing on other systems."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    fields = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in fields}
