"""Every command and snippet of docs/plugin.md that can run without a GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deblur_deploy.network.srn import SRN, SRNConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "plugin.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def run_shell(script: str, folder: Path, include: Path) -> str:
    """Run a snippet with `deblur-deploy` and `python` being those of this test."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, module in (("python", ""), ("deblur-deploy", " -m deblur_deploy.cli")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{module} "$@"\n')
        (programs / name).chmod(0o755)
    paths = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": paths, "PYTHONPATH": str(ROOT), "TENSORRT_INCLUDE": str(include)}
    command = ["bash", "-euo", "pipefail", "-c", script]
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_library_is_built_by_the_command(tensorrt_include, tmp_path):
    printed = run_shell(blocks("sh")[0], tmp_path, tensorrt_include)

    assert "wrote     libdeblur_plugin.so" in printed
    assert (tmp_path / "libdeblur_plugin.so").stat().st_size > 100_000


def test_the_library_is_built_by_cmake(tensorrt_include, tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    run_shell(blocks("sh")[1], tmp_path, tensorrt_include)

    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(tmp_path / "build/libdeblur_plugin.so")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert {line.split()[-1] for line in listed.splitlines()} == {"getCreators", "setLoggerFinder"}


def test_the_cpp_snippet_compiles(tensorrt_include, tmp_path):
    (tmp_path / "snippet.cpp").write_text(blocks("cpp")[0], encoding="utf-8")
    command = ["nvcc", "-std=c++17", f"-isystem={tensorrt_include}", "-c", "snippet.cpp"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)


def test_the_python_snippet_names_the_plugin(tmp_path):
    onnx = pytest.importorskip("onnx")
    from deblur_deploy.core.images import Resolution
    from deblur_deploy.export.to_onnx import network_to_onnx

    torch.manual_seed(0)
    model = network_to_onnx(SRN(SRNConfig.from_base(8, (1, 1, 1))).eval(), Resolution(16, 16))
    onnx.save(model, tmp_path / "model.onnx")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", blocks("python")[0]]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
    )

    nodes = [node for node in model.graph.node if node.op_type == "DeformConv2d"]
    assert ended.stdout == f"{len(nodes)} nodes name the plugin\n"
    onnx.checker.check_model(tmp_path / "model-plugin.onnx", full_check=True)


def test_everything_that_cannot_run_here_is_known():
    """A new snippet needs a test above, or a line here that says why it has none."""
    assert [len(blocks(language)) for language in ("sh", "python", "cpp", "console")] == [2, 2, 1, 1]
    assert all(line.startswith("trtexec ") for line in blocks("console")[0].splitlines())
    assert "register_aot_plugin()" in blocks("python")[1]  # test_aot_plugin.py runs it against TensorRT's package
