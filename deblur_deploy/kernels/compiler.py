"""Compiles ``deform_conv.cu`` with NVRTC, which needs neither a GPU nor the CUDA toolkit, and caches the result.

The cache is one file for each combination of source, options and compiler, in the user's cache directory
(``$XDG_CACHE_HOME/deblur-deploy/kernels``, by default under ``~/.cache``). A file is there in full or not at all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from typing import Any

from deblur_deploy.core.errors import ArtifactError, BuildError, MissingDependencyError
from deblur_deploy.core.files import user_cache, whole_file

SOURCE, HEADERS = "deform_conv.cu", ("tiles.cuh", "hardware.cuh")
_OPTIONS = ("--std=c++17", "--ptxas-options=-v")


@dataclass(frozen=True)
class Compiled:
    """The compiler's output.

    Args:
        code: A cubin for a real architecture (``sm_75``), PTX for a virtual one (``compute_75``).
        log: The compiler's messages: for a cubin, the registers and memory of each kernel.
    """

    code: bytes
    log: str


def kernel_sources() -> dict[str, str]:
    """The CUDA C++ source and its headers, by file name."""
    folder = resources.files("deblur_deploy.kernels")
    return {name: (folder / name).read_text(encoding="utf-8") for name in (SOURCE, *HEADERS)}


def compile_cached(arch: str, *options: str, sources: Mapping[str, str] | None = None) -> bytes:
    """Compile the kernels, or take them from the cache; arguments and errors as for :func:`compile_source`.

    Returns:
        The cubin or the PTX.
    """
    nvrtc = _load_nvrtc()
    sources = sources or kernel_sources()
    facts = (sorted(sources.items()), arch, options, _OPTIONS, nvrtc_version(nvrtc))
    key = hashlib.sha256(repr(facts).encode()).hexdigest()
    kept = user_cache("kernels") / f"{key}.{'cubin' if arch.startswith('sm') else 'ptx'}"
    try:
        return kept.read_bytes()
    except OSError:
        code = compile_source(arch, *options, sources=sources).code
    with suppress(ArtifactError), whole_file(kept) as partial:  # else it is compiled again next time
        partial.write_bytes(code)
    return code


def compile_source(arch: str, *options: str, sources: Mapping[str, str] | None = None) -> Compiled:
    """Compile the kernels.

    Args:
        arch: As NVRTC names it: ``sm_75`` for a cubin, ``compute_75`` for PTX.
        options: Further options, such as an entry point's definition.
        sources: The file to compile, then its headers, by name. None: the deformable convolution.

    Raises:
        MissingDependencyError: NVRTC is not installed.
        BuildError: The source does not compile for ``arch``.
    """
    nvrtc = _load_nvrtc()
    (main, text), *headers = (sources or kernel_sources()).items()
    names, texts = [name.encode() for name, _ in headers], [header.encode() for _, header in headers]
    program = _checked(nvrtc, nvrtc.nvrtcCreateProgram(text.encode(), main.encode(), len(headers), texts, names))
    try:
        arguments = [option.encode() for option in (f"--gpu-architecture={arch}", *_OPTIONS, *options)]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(arguments), arguments)
        log = _read(nvrtc, program, "ProgramLog").decode().strip("\0 \n")
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            reason = next((line for line in log.splitlines() if "error" in line), status.name)
            raise BuildError(
                f"{main} does not compile for {arch}: {reason}",
                hint="a newer card needs a newer compiler: pip install -U nvidia-cuda-nvrtc",
            )
        return Compiled(_read(nvrtc, program, "CUBIN" if arch.startswith("sm") else "PTX"), log)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def nvrtc_version(nvrtc: Any = None) -> str:
    """Version of NVRTC, such as ``13.5``.

    Raises:
        MissingDependencyError: NVRTC is not installed.
    """
    nvrtc = nvrtc or _load_nvrtc()
    _, major, minor = nvrtc.nvrtcVersion()
    return f"{major}.{minor}"


def lower_ptx_version(ptx: bytes, version: str = "7.0") -> bytes:
    """Declare PTX for an older instruction set, so that older drivers take it.

    NVRTC stamps its own, newest version on everything. The kernel uses nothing that PTX 7.0 (CUDA 11.0) lacks.
    """
    return re.sub(rb"(?m)^\.version \d+\.\d+$", f".version {version}".encode(), ptx, count=1)


def _load_nvrtc() -> Any:
    """The bindings, with the library behind them found."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as err:  # a missing library is a RuntimeError of cuda.pathfinder
        raise MissingDependencyError(
            "the CUDA kernel is compiled at first use with NVRTC, which is not installed",
            hint="pip install 'deblur-deploy[cuda]'",
        ) from err
    return nvrtc


def _checked(nvrtc: Any, answer: tuple[Any, ...]) -> Any:
    """The value of a call's answer."""
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BuildError(f"NVRTC answers {status.name}", hint="check that it is installed whole: pip check")
    return values[0] if values else None


def _read(nvrtc: Any, program: Any, what: str) -> bytes:
    """A buffer of the program: its log, cubin or PTX."""
    size: int = _checked(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program))
    # NVRTC writes into the object itself. Python keeps one object for each single byte, and an empty log is one byte
    # long: written into, every b" " of the process would read as zero from then on.
    buffer = bytes(size + 2)
    _checked(nvrtc, getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer[:size]
