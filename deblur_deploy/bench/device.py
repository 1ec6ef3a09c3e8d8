"""Facts about the machine, recorded with every measurement: figures from two machines are never compared silently.

The GPU is the one that CUDA calls number 0: the driver says what it is, NVIDIA's management library how it is doing.
Without the package nvidia-ml-py only the driver is asked. A card that does not answer one of the questions (many have
no energy counter) leaves that one out.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deblur_deploy.core.artifact import library_versions
from deblur_deploy.core.processor import instruction_sets, read_cpuinfo
from deblur_deploy.core.threads import usable_cores
from deblur_deploy.runtime.nvidia import find_gpu
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

_THROTTLE_REASONS = {
    0x0001: "idle",
    0x0002: "clocks set by the user",
    0x0004: "power cap",
    0x0008: "hardware slowdown",
    0x0010: "sync boost",
    0x0020: "too hot (software)",
    0x0040: "too hot (hardware)",
    0x0080: "power brake",
    0x0100: "display clocks",
}
"""Bits of NVML's clocks-event reasons (``nvmlClocksEventReasons`` in nvml.h)."""
_SLICE = " MIG "
"""Part of the names that the driver gives to slices of a card."""


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
    """The conditions of a measurement: recorded before and after, because a throttling machine changes in between.

    Args:
        gpu: The sensors of the GPU, if there are any.

    Returns:
        ``load_average`` of the last minute, ``cpu_mhz`` (mean over the cores) and ``cpu_throttled`` (how often the
        processor has slowed down because of heat since it was started), each where Linux reports it, and ``gpu``.
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


class GpuSensors:
    """A GPU as NVML sees it.

    Args:
        nvml: The module ``pynvml``, initialised.
        handle: NVML's handle of the device.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    def facts(self) -> dict[str, Any]:
        """What does not change: ``driver``, ``memory_gib``."""
        nvml, handle = self._nvml, self._handle
        total = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total)
        return _known(
            driver=self._ask(lambda: _text(nvml.nvmlSystemGetDriverVersion())),
            memory_gib=None if total is None else round(total / 2**30, 1),
        )

    def conditions(self) -> dict[str, Any]:
        """What changes: ``sm_mhz``, ``memory_mhz``, ``temperature_c``, ``power_w``, ``throttle_reasons``."""
        nvml, handle = self._nvml, self._handle
        reasons = self._ask(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        power = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return _known(
            sm_mhz=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_mhz=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            temperature_c=self._ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            power_w=None if power is None else power / 1000,
            throttle_reasons=None if reasons is None else throttle_reasons(reasons),
        )

    def energy_joules(self) -> float | None:
        """Energy that the card has used since its driver was loaded."""
        millijoules = self._ask(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return None if millijoules is None else millijoules / 1000

    def used_bytes(self) -> int | None:
        """Memory in use on the card, by any process."""
        used: int | None = self._ask(lambda: self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)
        return used

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The answer, or None where the card has none."""
        try:
            return question()
        except self._nvml.NVMLError:
            return None


def gpu_facts(sensors: GpuSensors | None) -> dict[str, Any] | None:
    """What does not change of the GPU, or None where there is none.

    Args:
        sensors: As :func:`gpu_sensors` gives them.

    Returns:
        ``name``, ``capability`` and ``driver_cuda``, with sensors ``driver`` and ``memory_gib`` as well.
    """
    gpu = find_gpu()
    if gpu is None:
        return None
    facts = {"name": gpu.name, "capability": gpu.capability, "driver_cuda": gpu.driver_cuda}
    return facts | (sensors.facts() if sensors else {})


@contextmanager
def gpu_sensors() -> Iterator[GpuSensors | None]:
    """The sensors of the GPU, or None where there is none or NVML cannot be asked.

    A slice of a card has none: NVML reports on the whole card, which others may be using.
    """
    gpu = find_gpu()
    if gpu is None or _SLICE in gpu.name or find_spec("pynvml") is None:
        yield None
        return
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield _sensors_at(pynvml, gpu.pci_bus_id)
    finally:
        pynvml.nvmlShutdown()


def _sensors_at(nvml: Any, pci_bus_id: str) -> GpuSensors | None:
    try:
        return GpuSensors(nvml, nvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id))
    except nvml.NVMLError:
        return None


def throttle_reasons(bits: int) -> list[str]:
    """NVML's reasons for a lower clock in words; ones that are not known here as hexadecimal."""
    known = [words for bit, words in _THROTTLE_REASONS.items() if bits & bit]
    unknown = bits & ~sum(_THROTTLE_REASONS)
    return [*known, *([hex(unknown)] if unknown else [])]


def _text(value: str | bytes) -> str:
    """Older versions of the package give bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _known(**answers: Any) -> dict[str, Any]:
    return {name: answer for name, answer in answers.items() if answer is not None}
