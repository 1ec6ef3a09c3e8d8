"""What the compiled kernel takes of a card: registers, spills and shared memory, as the assembler reports them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deblur_deploy.kernels.compiler import compile_source

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""Cards from Turing to Blackwell, which the kernel is compiled for in the tests."""

_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


@dataclass(frozen=True)
class KernelResources:
    """One entry point on one architecture.

    Args:
        registers: 32-bit registers of a thread.
        stack_bytes: Local memory of a thread, spills included.
        spill_store_bytes: Written to local memory for want of registers.
        spill_load_bytes: Read back.
        shared_bytes: Shared memory of a block.
    """

    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    shared_bytes: int


def measure_resources(arch: str) -> dict[str, KernelResources]:
    """Compile every entry point for an architecture and read the assembler's report.

    Args:
        arch: As NVRTC names it, such as ``sm_75``.

    Raises:
        MissingDependencyError: NVRTC is not installed.
        BuildError: The source does not compile for ``arch``.
    """
    return parse_report(compile_source(arch).log)


def parse_report(log: str) -> dict[str, KernelResources]:
    """Resources by entry point, from what ``ptxas -v`` prints."""
    found = {}
    for section in log.split("Compiling entry function ")[1:]:
        name = section[1:].partition("'")[0]
        spills, used = _SPILLS.search(section), _USED.search(section)
        if spills and used:
            stack, stores, loads = map(int, spills.groups())
            found[name] = KernelResources(int(used[1]), stack, stores, loads, int(used[2] or 0))
    return found
