"""The kernel on the processor in several builds, problems for it, and TensorRT's headers."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deblur_deploy.core.errors import MissingDependencyError
from deblur_deploy.kernels.geometry import Element
from deblur_deploy.kernels.plugin_library import find_tensorrt_include, tensorrt_version

HERE = Path(__file__).parent


def _load_cases() -> Any:
    """Let the tests of this folder import ``kernel_cases`` by its name."""
    spec = spec_from_file_location("kernel_cases", HERE / "kernel_cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["kernel_cases"] = module
    spec.loader.exec_module(module)
    return module


_cases = _load_cases()


def _build_emulator(folder: Path, *options: str, **places: Path) -> Any:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to run the kernel on the processor")
    return _cases.build_emulator(compiler, folder, *options, **places)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled kernels are kept for the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The kernel on the processor, optimized."""
    return _build_emulator(tmp_path_factory.mktemp("emulator"), "-O2")


@pytest.fixture(scope="session")
def sanitized_emulator(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same with the address and undefined-behaviour sanitizers: what they find ends the run."""
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    return _build_emulator(tmp_path_factory.mktemp("sanitized"), "-O1", *sanitizers)


@pytest.fixture(scope="session")
def race_detector(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same with the thread sanitizer, to which every thread of a block is one; a race ends the run with 66."""
    from kernel_cases import Form, make_problem

    built = _build_emulator(tmp_path_factory.mktemp("races"), "-O1", "-fsanitize=thread")
    settings = ("env", "TSAN_OPTIONS=halt_on_error=1:exitcode=66")
    if setarch := shutil.which("setarch"):  # with more random address bits than it knows, the sanitizer does not start
        settings = (setarch, "-R", *settings)
    detector = _cases.Emulator(*settings, *built.command)
    probe = make_problem("f32", channels=4, size=(2, 2), out_channels=4, kernel=1)
    ended = detector.try_to_run([_cases.case_of(probe, Form("nchw"))], "0")
    if ended.returncode and b"FATAL: ThreadSanitizer" in ended.stderr:
        pytest.skip("the thread sanitizer does not start on this system")
    return detector


@pytest.fixture(scope="session")
def draw_problem() -> Callable[[int, Element], Any]:
    """Makes a random problem from a seed and an element type."""
    return _cases.draw_problem


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Any]:
    """Makes a plain problem of a given size."""
    return _cases.make_problem


@pytest.fixture
def assert_close() -> Callable[[np.ndarray, np.ndarray, Element], None]:
    """Compare with the exact result by the tolerance of an element type."""

    def check(found: np.ndarray, exact: np.ndarray, element: Element) -> None:
        assert found.shape == exact.shape
        assert np.isfinite(found).all()
        error, scale = np.abs(found - exact).max(), np.abs(exact).max()
        assert error <= _cases.TOLERANCE[element] * scale
        assert np.linalg.norm(found - exact) <= _cases.TOLERANCE[element] * np.linalg.norm(exact)

    return check


def _header_directories() -> list[Path]:
    """TensorRT's headers on this machine: those that were named, those that a package carries, those installed."""
    named = [Path(path) for path in os.environ.get("TENSORRT_INCLUDE_DIRS", "").split(os.pathsep) if path]
    carrier = find_spec("kernel_lens")
    if carrier is not None and carrier.submodule_search_locations:
        named.append(Path(carrier.submodule_search_locations[0]) / "include" / "tensorrt")
    with contextlib.suppress(MissingDependencyError):
        named.append(find_tensorrt_include())
    return named


def _header_version(path: Path | None) -> str:
    return tensorrt_version(path) if path else "none"


@pytest.fixture(scope="session", params=_header_directories() or [None], ids=_header_version)
def tensorrt_headers(request: pytest.FixtureRequest) -> Path:
    """A directory of TensorRT's headers."""
    if request.param is None:
        pytest.skip("needs TensorRT's headers: set TENSORRT_INCLUDE_DIRS, or pip install --no-deps kernel-lens")
    return Path(request.param)


@pytest.fixture(scope="session")
def tensorrt_include(tensorrt_headers: Path) -> Path:
    """A directory of TensorRT's headers; nvcc is there too."""
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc, which comes with the CUDA toolkit")
    return tensorrt_headers
