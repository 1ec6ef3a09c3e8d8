"""NVRTC compiles the kernel for every card without one, and what it made is kept."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from deblur_deploy.core.errors import BuildError, MissingDependencyError
from deblur_deploy.kernels import compiler
from deblur_deploy.kernels.compiler import compile_cached, compile_source, kernel_sources, lower_ptx_version
from deblur_deploy.kernels.geometry import ENTRIES
from deblur_deploy.kernels.resources import ARCHITECTURES, KernelResources, measure_resources, parse_report

PACKERS = {"deform_conv2d_pack_f16", "deform_conv2d_pack_f32"}


@pytest.fixture(scope="module")
def nvrtc():
    return pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC: pip install 'deblur-deploy[cuda]'")


@pytest.fixture(scope="module")
def resources(nvrtc) -> dict[str, dict[str, KernelResources]]:
    """Every entry point, compiled for every architecture."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(ARCHITECTURES, pool.map(measure_resources, ARCHITECTURES), strict=True))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "deblur-deploy" / "kernels"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_entry_point_fits_every_card_twice(resources, arch):
    """Two blocks to a multiprocessor: 128 registers; and no more shared memory than any card gives without asking."""
    assert resources[arch].keys() == {entry.name for entry in ENTRIES} | PACKERS
    for used in resources[arch].values():
        assert used.fits_twice, used
        assert 2 * used.shared_bytes <= 64 * 1024  # of SM75; every other card has more
        assert 2 * 256 * used.registers <= 64 * 1024


def test_the_tensor_cores_are_used(nvrtc):
    ptx = compile_source("compute_75", ENTRIES[0].definition).code.decode()

    assert "wmma.mma.sync.aligned.row.row.m16n16k16.f32.f32" in ptx
    corner_loads = re.findall(r"ld\.global\.(?:nc\.)?(?:v2\.[ub]64|v4\.[ub]32)", ptx)
    assert len(corner_loads) >= 4  # 16 bytes each


def test_one_entry_point_alone_can_be_asked_for(nvrtc):
    ptx = compile_source("compute_75", ENTRIES[1].definition).code.decode()

    assert set(re.findall(r"\.visible \.entry (\w+)", ptx)) == {ENTRIES[1].name} | PACKERS


def test_what_was_compiled_is_taken_from_the_cache(nvrtc, cache, monkeypatch):
    option = ENTRIES[4].definition
    first = compile_cached("compute_75", option)
    (kept,) = cache.iterdir()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("compiled again")

    with monkeypatch.context() as patch:
        patch.setattr(compiler, "compile_source", refuse)
        assert compile_cached("compute_75", option) == first == kept.read_bytes()
        with pytest.raises(AssertionError, match="compiled again"):
            compile_cached("compute_80", option)
        changed = kernel_sources() | {"tiles.cuh": "// changed"}
        patch.setattr(compiler, "kernel_sources", lambda: changed)
        with pytest.raises(AssertionError, match="compiled again"):
            compile_cached("compute_75", option)


def test_a_cache_that_cannot_be_written_is_done_without(nvrtc, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    assert b".version" in compile_cached("compute_75", ENTRIES[4].definition)


def test_a_card_that_the_compiler_does_not_know_is_named(nvrtc):
    with pytest.raises(BuildError, match="does not compile for sm_33"):
        compile_source("sm_33")


def test_without_the_bindings_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)

    with pytest.raises(MissingDependencyError, match=r"pip install 'deblur-deploy\[cuda\]'"):
        compile_source("sm_75")


def test_ptx_is_declared_for_older_drivers():
    ptx = b"// generated\n.version 9.5\n.target sm_75\n// .version 9.5"

    assert lower_ptx_version(ptx) == b"// generated\n.version 7.0\n.target sm_75\n// .version 9.5"


def test_the_assemblers_report_is_read():
    log = (
        "ptxas info    : Compiling entry function 'a' for 'sm_75'\n"
        "ptxas         .     8 bytes stack frame, 4 bytes spill stores, 2 bytes spill loads\n"
        "ptxas info    : Used 128 registers, used 1 barriers, 35840 bytes smem, 480 bytes cmem[0]\n"
        "ptxas info    : Compiling entry function 'b' for 'sm_75'\n"
        "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 16 registers, used 0 barriers, 456 bytes cmem[0]\n"
    )

    assert parse_report(log) == {"a": KernelResources(128, 8, 4, 2, 35840), "b": KernelResources(16, 0, 0, 0, 0)}


def test_what_the_compiler_says_is_not_written_into_python_s_own_bytes(nvrtc):
    compile_source("compute_75")  # PTX: nothing is said, which is a log of one byte
    assert [bytes([code])[0] for code in range(256)] == list(range(256))
