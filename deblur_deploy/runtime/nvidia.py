"""Whether this machine has an NVIDIA GPU, asked of the driver itself, with no library installed."""

from __future__ import annotations

import ctypes


def count_nvidia_gpus() -> int | None:
    """Number of GPUs that CUDA sees.

    Returns:
        The number, 0 where the driver finds none, or None where there is no driver.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int()
    # Both calls return 0 for success; without a usable device cuInit already fails.
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
