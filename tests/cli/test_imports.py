"""What a command does not import: a library that it does not need costs more than its work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deblur_deploy.core.sources import shipped

PROGRAM = """
import atexit, sys
from deblur_deploy.cli import main
atexit.register(lambda: print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}), *sys.modules))
main()
"""
LARGE = {"numpy", "PIL", "torch", "onnx", "onnx_ir", "onnxscript", "sympy", "modelopt", "onnxruntime", "openvino"}
LARGE |= {"tensorrt", "tensorrt_rtx", "scipy", "matplotlib", "jinja2", "cv2", "rich.progress"}


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("inspect {model}", set()),
        ("infer {model} {picture} --out {out} --runtime torch", {"numpy", "PIL", "torch", "sympy", "rich.progress"}),
    ],
)
def test_a_command_imports_no_large_library_that_it_does_not_need(
    tmp_path: Path, command: str, needed: set[str]
) -> None:
    picture = tmp_path / "small.png"
    Image.fromarray(np.full((64, 96, 3), 99, np.uint8)).save(picture)
    filled = command.format(model=shipped("models") / "srn-demo", picture=picture, out=tmp_path / "out")
    done = subprocess.run([sys.executable, "-c", PROGRAM, *filled.split()], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("loaded:")[1].split())
    assert loaded & LARGE <= needed
    assert needed - {"sympy"} <= loaded  # the list is one of modules
