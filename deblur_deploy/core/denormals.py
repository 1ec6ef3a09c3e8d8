"""Numbers too small for full precision, which many processors compute with 10 to 100 times slower, taken for zero.

A float32 below 1.2e-38 is denormal. Nothing that small shows in a picture, but a network with tiny weights makes
millions of them. Processors have a mode that treats them as zero. It belongs to a thread, and a new thread starts with
the mode of the thread that made it. So a thread pool that waited already keeps the mode that it began with: what needs
the mode on all of its threads starts them inside :func:`flushed_denormals`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MODES = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}
"""By machine: the byte of C's ``fenv_t`` on Linux at which the control register is, and the bits of the mode. These are
DAZ and FTZ in MXCSR (Intel 64 manual, volume 1, section 10.2.3), and FZ in FPCR (Arm architecture manual, C5.2.8)."""

_ENVIRONMENT_BYTES = 64
"""More than a ``fenv_t`` has on either."""


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


def _set_mode(flush: bool) -> bool | None:
    """Switch the mode of this thread; returns the previous one, or None on processors where this is not supported."""
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
