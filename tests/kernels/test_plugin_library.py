"""The C++ plugin: compiled against TensorRT's headers, loaded without TensorRT, and asked what it is."""

from __future__ import annotations

import subprocess
from importlib import resources
from pathlib import Path

import pytest

from deblur_deploy.cli.build_plugin_command import capabilities_of
from deblur_deploy.core.errors import BuildError, ConfigError, MissingDependencyError
from deblur_deploy.kernels.aot_plugin import ATTRIBUTES
from deblur_deploy.kernels.plugin_library import (
    CAPABILITIES,
    PluginBuildConfig,
    build_plugin,
    count_creators,
    find_nvcc,
    find_tensorrt_include,
    known_capabilities,
    tensorrt_version,
)

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def library(tensorrt_include, tmp_path_factory):
    """The plugin library for one card."""
    out = tmp_path_factory.mktemp("plugin") / "libdeblur_plugin.so"
    return build_plugin(PluginBuildConfig(tensorrt_include, ("75",)), out)


@pytest.fixture(scope="module")
def facts(library, tensorrt_include, tmp_path_factory) -> dict[str, list[str]]:
    """What a C++ program that loads the library finds."""
    program = tmp_path_factory.mktemp("probe") / "probe"
    options = ["-std=c++17", "-isystem", str(tensorrt_include), str(HERE / "plugin_probe.cpp"), "-ldl"]
    command = [str(find_nvcc()), *options, "-o", str(program)]
    subprocess.run(command, check=True, timeout=120)
    ended = subprocess.run([str(program), str(library.path)], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, list[str]] = {}
    for line in ended.stdout.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def test_the_library_says_what_it_was_built_with(library, tensorrt_include):
    assert library.tensorrt_version == tensorrt_version(tensorrt_include)
    assert library.cuda_version[0].isdigit()
    assert library.creators == 2


def test_nothing_of_tensorrt_or_cuda_is_left_undefined(library):
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library.path)], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    needed = subprocess.run(["ldd", str(library.path)], capture_output=True, text=True, check=True, timeout=60).stdout

    symbols = [line.split()[-1] for line in listed.splitlines()]
    assert not [s for s in symbols if "nvinfer" in s.lower() or s.endswith("_INTERNAL") or s.startswith("cuda")]
    assert not [s for s in symbols if s.startswith("getPluginRegistry")]
    assert "nvinfer" not in needed
    assert "cudart" not in needed


def test_only_tensorrts_two_functions_are_exported(library):
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(library.path)], capture_output=True, text=True, check=True, timeout=60
    ).stdout

    assert {line.split()[-1] for line in listed.splitlines()} == {"getCreators", "setLoggerFinder"}


def test_the_creator_is_listed_in_both_namespaces(facts):
    assert facts["creator"] == ["DeformConv2d 1 [deblur]", "DeformConv2d 1 []"]
    assert facts["core"] == ["DeformConv2d 1 [deblur]"]


def test_the_attributes_are_those_of_the_node_and_of_the_other_form(facts):
    assert facts["attributes"] == [" ".join(ATTRIBUTES)]


def test_attributes_survive_in_the_engine(facts):
    assert facts["serialized"] == ["2 1 1 0 1 0 1 1 3 2 3 2"]


def test_the_workspace_holds_the_packed_weights(facts):
    assert facts["workspace"] == [str(21 * 16 * 3 * 2 * 2)]


def test_types_and_layouts_are_float_and_half(facts):
    linear, eights = "LINEAR LINEAR LINEAR LINEAR", "HWC8 LINEAR LINEAR HWC8"

    assert sorted(facts["formats"]) == sorted(
        [
            f"FLOAT FLOAT FLOAT FLOAT {linear}",
            *(f"HALF HALF {offset} HALF {layout}" for offset in ("HALF", "FLOAT") for layout in (linear, eights)),
        ]
    )


def test_without_headers_the_error_says_where_they_were_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    monkeypatch.setattr("deblur_deploy.kernels.plugin_library._USUAL_PLACES", (str(tmp_path / "usual"),))

    with pytest.raises(MissingDependencyError, match=r"in none of .*include, .*usual"):
        find_tensorrt_include()
    with pytest.raises(MissingDependencyError, match=r"has no NvInferRuntime\.h"):
        find_tensorrt_include(tmp_path)


def test_without_nvcc_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)

    with pytest.raises(MissingDependencyError, match="is not on the path"):
        find_nvcc()
    with pytest.raises(MissingDependencyError, match="is not at"):
        find_nvcc(tmp_path / "nvcc")


def fake_compiler(folder: Path, text: str) -> Path:
    path = folder / "nvcc"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_source_that_does_not_compile_is_reported(tmp_path):
    (tmp_path / "NvInferRuntime.h").touch()
    (tmp_path / "NvInferVersion.h").touch()
    nvcc = fake_compiler(tmp_path, '[ "$1" = --version ] || { echo "x.cu(1): error: no such thing" >&2; exit 1; }')

    with pytest.raises(BuildError, match=r"does not compile: x\.cu\(1\): error: no such thing"):
        build_plugin(PluginBuildConfig(tmp_path, ("75",), nvcc), tmp_path / "out.so")
    assert not (tmp_path / "out.so").exists()
    assert not list(tmp_path.glob(".plugin-*"))


def test_what_is_no_plugin_library_is_refused(tmp_path):
    (tmp_path / "lib.so").write_bytes(b"no library")

    with pytest.raises(BuildError, match="does not load"):
        count_creators(tmp_path / "lib.so")


@pytest.mark.parametrize(
    ("capabilities", "complaint"), [((), "compute capabilities are"), (("7.5",), "are"), (("70",), "needs SM75")]
)
def test_cards_that_cannot_be_served_are_refused(capabilities, complaint):
    with pytest.raises(ConfigError, match=complaint):
        PluginBuildConfig(capabilities=capabilities)


def test_cards_are_named_as_everywhere():
    assert capabilities_of(["2080ti", "sm75", "RTX 4090"]) == ("75", "89")
    assert len(capabilities_of([])) == 7
    with pytest.raises(ConfigError, match="particular cards"):
        capabilities_of(["portable"])


@pytest.mark.parametrize(
    ("version", "left"), [("13.0", CAPABILITIES), ("12.8", CAPABILITIES), ("12.4", ("75", "80", "86", "89", "90"))]
)
def test_an_older_compiler_builds_for_the_usual_cards_that_it_knows(version, left):
    assert known_capabilities(CAPABILITIES, version) == left
    if left != CAPABILITIES:
        with pytest.raises(BuildError, match=r"nvcc 12\.4 cannot compile for SM120, which CUDA 12\.8 can"):
            known_capabilities(("75", "120"), version)


def test_the_timings_of_a_layer_are_kept_by_its_attributes(facts):
    assert facts["timing"] == ["2 1 1 0 1 0 1 1 3 2 3 2 "]


def test_the_package_carries_the_sources():
    folder = resources.files("deblur_deploy.kernels")

    for name in (
        "deform_conv.cu",
        "tiles.cuh",
        "hardware.cuh",
        "plugin/deform_conv_plugin.cu",
        "plugin/CMakeLists.txt",
    ):
        assert (folder / name).is_file()
