"""The name and the instruction sets of the processor, as Linux reports them."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

_EXACT_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def read_cpuinfo() -> dict[str, str]:
    """Fields of the first processor in Linux's ``/proc/cpuinfo``; nothing on other systems."""
    try:
        first = _CPUINFO.read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    fields = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in fields}


@functools.cache
def instruction_sets() -> frozenset[str]:
    """Instruction sets by Linux's names, such as ``avx512_vnni``."""
    cpuinfo = read_cpuinfo()
    return frozenset(cpuinfo.get("flags", cpuinfo.get("Features", "")).split())


def adds_int8_exactly() -> bool:
    """Whether products of 8-bit integers are added in 32 bits.

    x86 processors without VNNI and AMX add pairs of products in 16 bits and cut off what does not fit (VPMADDUBSW).
    What is not known to be one of these is taken for exact.
    """
    sets = instruction_sets()
    return platform.machine() != "x86_64" or not sets or bool(sets & _EXACT_INT8)
