"""Numbers too small for full precision, which many processors compute with 10 to 100 times slower, taken for zero.

A float32 below 1.2e-38 is denormal. Nothing that small shows in a picture, but a network with tiny weights makes
millions of them. Processors have a mode that takes them for zero. It belongs to a thread, and a new thread starts with
the mode of the thread that made it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MODES = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}
"""By machine: the byte of C's ``fenv_t`` on Linux at which the control register is, and the bits of the mode. These are
DAZ and FTZ in MXCSR (Intel 64 manual, volume 1, section 10.2.3), and FZ in FPCR (Arm architecture manual, C5.2.8)."""

_ENVIRONMENT_BYTES = 64
"""More than a ``fenv_t`` has on either."""

_OPENMP_LIBRARIES = ("libgomp", "libomp", "libiomp5")
_PAUSE_HARD = 2
"""``omp_pause_hard`` of OpenMP 5.0, section 3.2.44."""

_renewed = threading.local()


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take denormal numbers for zero in this thread, and in threads that it starts, inside the context.

    Does nothing on systems other than Linux, and on processors other than x86-64 and Arm64.
    """
    had = _set_mode(True)
    try:
        yield
    finally:
        if had is False:
            _set_mode(False)


def renew_openmp_threads() -> None:
    """End the OpenMP threads that wait for work of this thread; the next work starts new ones, with its mode.

    Threads that began to wait before the mode was set would keep computing without it. Done once in each thread: what
    runs inside :func:`flushed_denormals` later finds threads that have the mode.
    """
    if getattr(_renewed, "done", False):
        return
    _renewed.done = True
    for library in _loaded_openmp():
        library.omp_pause_resource_all(_PAUSE_HARD)


def _set_mode(flush: bool) -> bool | None:
    """Switch the mode of this thread; returns what it was, or None where it is not known how to."""
    if (math := _math_library()) is None:
        return None
    where, bits = _MODES[platform.machine()]
    environment = (ctypes.c_char * _ENVIRONMENT_BYTES)()
    math.fegetenv(environment)
    control = ctypes.c_uint32.from_buffer(environment, where)
    had = control.value & bits == bits
    if had != flush:
        control.value = control.value | bits if flush else control.value & ~bits
        math.fesetenv(environment)
    return had


@functools.cache
def _math_library() -> Any:
    """C's mathematical library, or None on a machine whose control register is not known."""
    if sys.platform != "linux" or platform.machine() not in _MODES:
        return None
    name = ctypes.util.find_library("m")
    return ctypes.CDLL(name) if name else None


def _loaded_openmp() -> list[Any]:
    """OpenMP's libraries in this process; several where packages bring their own."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/") and len(line.split(maxsplit=5)) > 5}
    libraries = [ctypes.CDLL(path) for path in sorted(paths) if Path(path).name.startswith(_OPENMP_LIBRARIES)]
    return [library for library in libraries if hasattr(library, "omp_pause_resource_all")]
