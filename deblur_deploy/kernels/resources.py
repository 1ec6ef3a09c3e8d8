"""Resources of a card that the compiled kernel takes: registers, spills and shared memory, as the assembler reports."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from deblur_deploy.core.errors import BuildError, MissingDependencyError
from deblur_deploy.kernels.compiler import compile_source

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""Cards from Turing to Blackwell, which the kernel is compiled for in the tests."""

MAX_REGISTERS, MAX_SPILL_BYTES, MAX_SHARED_BYTES = 128, 16, 32 * 1024
"""Within these, two blocks of 256 threads fit a multiprocessor of every card, SM75 with its 64 KiB included."""

_TIMEOUT_S = 300

_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


@dataclass(frozen=True)
class KernelResources:
    """One entry point on one architecture.

    Args:
        registers: 32-bit registers of a thread.
        stack_bytes: Local memory of a thread, spills included.
        spill_store_bytes: Written to local memory because registers ran out.
        spill_load_bytes: Read back.
        shared_bytes: Shared memory of a block.
    """

    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    shared_bytes: int

    @property
    def fits_twice(self) -> bool:
        """Whether two blocks fit a multiprocessor of every card, with next to nothing spilled."""
        spilled = max(self.spill_store_bytes, self.spill_load_bytes)
        return self.registers <= MAX_REGISTERS and spilled <= MAX_SPILL_BYTES and self.shared_bytes <= MAX_SHARED_BYTES


def measure_resources(arch: str) -> dict[str, KernelResources]:
    """Compile every entry point for an architecture and read the assembler's report.

    Args:
        arch: As NVRTC names it, such as ``sm_75``.

    Raises:
        MissingDependencyError: NVRTC is not installed.
        BuildError: The source does not compile for ``arch``.
    """
    return parse_report(compile_source(arch).log)


def find_ptxas() -> Path:
    """NVIDIA's assembler: of the package ``nvidia-cuda-nvcc``, else the one on the path.

    Raises:
        MissingDependencyError: There is none.
    """
    package = find_spec("nvidia")
    folders = [Path(folder) for folder in package.submodule_search_locations or ()] if package else []
    shipped = sorted(path for folder in folders for path in folder.glob("*/bin/ptxas"))
    on_path = shutil.which("ptxas")
    if not shipped and on_path is None:
        hint = "pip install nvidia-cuda-nvcc"
        raise MissingDependencyError("PTX is assembled by ptxas, which is not installed", hint=hint)
    return shipped[-1] if shipped else Path(str(on_path))


def assemble(ptx: bytes, arch: str) -> dict[str, KernelResources]:
    """Assemble PTX for an architecture, as the driver does when an engine is loaded, and read the assembler's report.

    Args:
        ptx: Text of one or more entry points.
        arch: Such as ``sm_86``.

    Returns:
        Resources by entry point.

    Raises:
        MissingDependencyError: There is no assembler.
        BuildError: The assembler refuses it.
    """
    assembler = find_ptxas()
    with tempfile.TemporaryDirectory(prefix="deblur-deploy-ptx-") as name:
        source = Path(name) / "kernel.ptx"
        source.write_bytes(ptx)
        command = [str(assembler), "-v", f"-arch={arch}", str(source), "-o", str(source.with_suffix(".cubin"))]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if ended.returncode:
        lines = (ended.stderr or ended.stdout).splitlines()
        reason = next((line for line in lines if "error" in line or "fatal" in line), f"exit code {ended.returncode}")
        raise BuildError(f"ptxas refuses the PTX for {arch}: {reason}", hint="pip install -U nvidia-cuda-nvcc")
    return parse_report(ended.stderr + ended.stdout)


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
