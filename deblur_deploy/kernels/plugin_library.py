"""Builds the C++ form of the TensorRT plugin: one shared library for trtexec and C++ programs.

The library links the CUDA runtime statically and nothing of TensorRT, so that it loads anywhere; TensorRT asks it for
its creators. Needs nvcc with a C++ compiler, and TensorRT's headers, which are NVIDIA's and not shipped here.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from deblur_deploy.core.errors import BuildError, ConfigError, MissingDependencyError

CAPABILITIES = ("75", "80", "86", "89", "90", "100", "120")
"""Compute capabilities that the library is built for where none are named."""

_FIRST_NVCC = {"86": (11, 1), "89": (11, 8), "90": (11, 8), "100": (12, 8), "103": (12, 9), "120": (12, 8)}
"""First release of nvcc that compiles for a capability; every release that builds the plugin knows those not listed."""

_OPTIONS = ("-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-cudart", "static")
_HEADER, _VERSION_HEADER = "NvInferRuntime.h", "NvInferVersion.h"
_USUAL_PLACES = (
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
    "/usr/local/include",
)
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class PluginBuildConfig:
    """How the plugin library is built.

    Args:
        tensorrt_include: Directory with ``NvInferRuntime.h``. None: ``$TENSORRT_ROOT/include``, then where Debian's
            packages put it.
        capabilities: Compute capabilities without the dot. The last one is also kept as PTX, for future cards.
        nvcc: The compiler. None: ``$CUDA_HOME/bin/nvcc``, then the one on the path.
    """

    tensorrt_include: Path | None = None
    capabilities: tuple[str, ...] = CAPABILITIES
    nvcc: Path | None = None

    def __post_init__(self) -> None:
        if not self.capabilities or not all(re.fullmatch(r"\d{2,3}", number) for number in self.capabilities):
            raise ConfigError(f"compute capabilities are {self.capabilities}", hint="give numbers such as 75 or 86")
        if old := [number for number in self.capabilities if int(number) < int(CAPABILITIES[0])]:
            raise ConfigError(
                f"the kernel's tensor-core path needs SM75, and SM{old[0]} was asked for", hint="leave it"
            )


@dataclass(frozen=True)
class PluginLibrary:
    """A plugin library that was built.

    Args:
        path: The file.
        tensorrt_version: Version of the headers, such as ``10.14.1``.
        cuda_version: Version of nvcc, such as ``13.0``.
        creators: Number of plugin creators that it offers: one for each namespace.
    """

    path: Path
    tensorrt_version: str
    cuda_version: str
    creators: int


def build_plugin(config: PluginBuildConfig, out: Path) -> PluginLibrary:
    """Compile the plugin library, load it, and put it in place.

    Args:
        config: Compiler, headers and cards.
        out: The file to write; an older one is replaced when the new one is whole.

    Raises:
        MissingDependencyError: nvcc or TensorRT's headers are not there.
        BuildError: nvcc is too old for a card, the source does not compile, or the library does not load.
    """
    nvcc = find_nvcc(config.nvcc)
    include = find_tensorrt_include(config.tensorrt_include)
    cuda_version = nvcc_version(nvcc)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".plugin-") as staging:
            library = Path(staging) / out.name
            _compile(nvcc, include, known_capabilities(config.capabilities, cuda_version), library)
            creators = count_creators(library)
            library.replace(out)
    except OSError as err:
        raise BuildError(f"{out} cannot be written: {err}", hint="name another file") from err
    return PluginLibrary(out, tensorrt_version(include), cuda_version, creators)


def known_capabilities(wanted: tuple[str, ...], cuda_version: str) -> tuple[str, ...]:
    """The capabilities to build for: all that were named; otherwise the usual cards that the compiler knows.

    Args:
        wanted: Compute capabilities; :data:`CAPABILITIES` where none were named.
        cuda_version: Version of nvcc, such as ``12.4``.

    Raises:
        BuildError: A capability that was named is newer than the compiler.
    """
    here = tuple(int(part) for part in cuda_version.split(".")) if cuda_version[0].isdigit() else (999,)
    too_new = [number for number in wanted if _FIRST_NVCC.get(number, (0,)) > here]
    if too_new and wanted != CAPABILITIES:
        first = ".".join(map(str, _FIRST_NVCC[too_new[0]]))
        raise BuildError(
            f"nvcc {cuda_version} cannot compile for SM{too_new[0]}, which CUDA {first} can",
            hint="install a newer CUDA toolkit and give --nvcc, or name other cards",
        )
    return tuple(number for number in wanted if number not in too_new)


def find_nvcc(given: Path | None = None) -> Path:
    """The CUDA compiler.

    Raises:
        MissingDependencyError: There is none.
    """
    home = os.environ.get("CUDA_HOME")
    candidates = [given] if given else [Path(home) / "bin" / "nvcc"] if home else []
    found = next((path for path in candidates if path.is_file()), None)
    if found is None and not given and (on_path := shutil.which("nvcc")):
        found = Path(on_path)
    if found is None:
        where = f"at {given}" if given else "on the path"
        raise MissingDependencyError(
            f"nvcc, which compiles the plugin, is not {where}",
            hint="install the CUDA toolkit and set CUDA_HOME, or give --nvcc",
        )
    return found


def find_tensorrt_include(given: Path | None = None) -> Path:
    """The directory of TensorRT's headers.

    Raises:
        MissingDependencyError: They are not there.
    """
    root = os.environ.get("TENSORRT_ROOT")
    usual = [Path(root) / "include"] if root else []
    candidates = [given] if given else [*usual, *map(Path, _USUAL_PLACES)]
    for directory in candidates:
        if (directory / _HEADER).is_file():
            return directory
    where = f"{given} has no {_HEADER}" if given else f"{_HEADER} is in none of {', '.join(map(str, candidates))}"
    raise MissingDependencyError(
        f"TensorRT's headers are missing: {where}",
        hint="install TensorRT's C++ package (Debian: libnvinfer-headers-dev), or give --tensorrt-include DIR",
    )


def tensorrt_version(include: Path) -> str:
    """Version of TensorRT's headers, such as ``10.14.1``."""
    text = (include / _VERSION_HEADER).read_text(encoding="utf-8", errors="replace")
    parts = []
    for name in ("MAJOR", "MINOR", "PATCH"):
        found = re.search(rf"#define (?:TRT_{name}_ENTERPRISE|NV_TENSORRT_{name}) (\d+)", text)
        parts.append(found[1] if found else "?")
    return ".".join(parts)


def nvcc_version(nvcc: Path) -> str:
    """Version of the CUDA compiler, such as ``13.0``.

    Raises:
        BuildError: It does not run.
    """
    found = re.search(r"release (\d+\.\d+)", _run([str(nvcc), "--version"], "nvcc does not run"))
    return found[1] if found else "unknown"


def count_creators(library: Path) -> int:
    """Load a plugin library, without TensorRT, and ask for its creators.

    Raises:
        BuildError: It does not load, or is not a plugin library.
    """
    try:
        entry = ctypes.CDLL(str(library), mode=os.RTLD_NOW).getCreators
    except (OSError, AttributeError) as err:
        raise BuildError(f"the plugin library does not load: {err}", hint="check nvcc's host compiler") from err
    count = ctypes.c_int32(0)
    entry.restype, entry.argtypes = ctypes.c_void_p, [ctypes.POINTER(ctypes.c_int32)]
    return count.value if entry(ctypes.byref(count)) else 0


def _compile(nvcc: Path, include: Path, capabilities: Iterable[str], library: Path) -> None:
    numbers = sorted(set(capabilities), key=int)
    codes = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    codes.append(f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}")
    with resources.as_file(resources.files("deblur_deploy.kernels")) as kernels:
        source = kernels / "plugin" / "deform_conv_plugin.cu"
        places = ["-isystem", str(include), f"-I{kernels}"]
        command = [str(nvcc), *_OPTIONS, "-t0", *codes, *places, str(source), "-o", str(library)]
        _run(command, "the plugin does not compile")


def _run(command: list[str], failure: str) -> str:
    """Run a program; its output."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise BuildError(f"{failure}: {err}", hint="run it by hand to see why: " + " ".join(command)) from err
    if ended.returncode:
        lines = (ended.stderr or ended.stdout).splitlines()
        reason = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
        raise BuildError(f"{failure}: {reason}", hint="run it by hand to see the rest: " + " ".join(command))
    return ended.stdout
