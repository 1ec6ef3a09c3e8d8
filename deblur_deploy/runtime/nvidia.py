"""The NVIDIA GPU of this machine, as the driver itself reports it, without any library."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

# CUdevice_attribute
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 128
_BUS_ID_BYTES = 32


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Args:
        name: As its maker writes it, such as ``NVIDIA GeForce RTX 2080 Ti``.
        capability: Compute capability, such as ``7.5``.
        driver_cuda: Newest CUDA that the driver knows, such as ``13.0``.
        pci_bus_id: Where it sits, such as ``0000:01:00.0``, by which every library of NVIDIA knows it.
    """

    name: str
    capability: str
    driver_cuda: str
    pci_bus_id: str = ""

    @property
    def sm(self) -> str:
        """The capability as TensorRT writes it, such as ``SM75``."""
        return f"SM{self.capability.replace('.', '')}"

    @property
    def version(self) -> tuple[int, ...]:
        """The capability in numbers, such as (7, 5)."""
        return tuple(map(int, self.capability.split(".")))


def count_nvidia_gpus() -> int | None:
    """Number of GPUs that CUDA sees.

    Returns:
        The number, 0 where the driver finds none, or None where there is no driver.
    """
    driver = _load_driver()
    return None if driver is None else _count(driver)


def find_gpu(index: int = 0) -> Gpu | None:
    """Facts about a GPU, or None where there is no such GPU.

    Args:
        index: Its number, as CUDA counts.
    """
    driver = _load_driver()
    if driver is None or index >= _count(driver):
        return None
    device, version = ctypes.c_int(), ctypes.c_int()
    name, bus_id = ctypes.create_string_buffer(_NAME_BYTES), ctypes.create_string_buffer(_BUS_ID_BYTES)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, _NAME_BYTES, device)
    driver.cuDeviceGetPCIBusId(bus_id, _BUS_ID_BYTES, device)
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor = (_attribute(driver, number, device) for number in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
    return Gpu(
        name.value.decode(errors="replace"),
        f"{major}.{minor}",
        cuda_version(version.value),
        bus_id.value.decode(errors="replace"),
    )


def cuda_version(number: int) -> str:
    """A version such as ``12.4`` from CUDA's own number for it, such as 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _load_driver() -> Any | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _count(driver: Any) -> int:
    count = ctypes.c_int()
    # Both calls return 0 for success; without a usable device cuInit already fails.
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _attribute(driver: Any, number: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return value.value
