"""What a proof takes beside a GPU, and whether this machine has it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from deblur_deploy.runtime.nvidia import count_nvidia_gpus

Need = Literal[
    "compute-sanitizer", "cuda-python", "nvcc", "nvml", "onnxruntime", "pytest", "tensorrt", "tensorrt-rtx",
    "torch-cuda", "triton",
]  # fmt: skip

_MODULES: Mapping[Need, str] = {
    "cuda-python": "cuda.bindings",
    "nvml": "pynvml",
    "onnxruntime": "onnxruntime",
    "pytest": "pytest",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "triton": "triton",
}
_PACKAGES: Mapping[Need, str] = {"nvml": "nvidia-ml-py", "tensorrt-rtx": "tensorrt-rtx-cu13"}


def lacking(needs: Iterable[Need]) -> str:
    """All that this machine lacks of what a proof takes, the GPU among it, in one line; nothing where it has all."""
    reasons = [_without_a_gpu()] if not count_nvidia_gpus() else []
    missing = [_PACKAGES.get(need, need) for need in needs if need != "torch-cuda" and not has(need)]
    if missing:
        reasons.append(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed")
    if "torch-cuda" in needs and (reason := _torch_without_cuda()):
        reasons.append(reason)
    return "; ".join(reasons)


def has(need: Need) -> bool:
    """Whether a library or a program is there."""
    module = _MODULES.get(need)
    if module is None:
        in_toolkit = Path(os.environ.get("CUDA_HOME", "/nonexistent")) / "bin" / need
        return in_toolkit.is_file() or shutil.which(need) is not None
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is missing too
        return False


def _without_a_gpu() -> str:
    return "this machine has no NVIDIA GPU"


def _torch_without_cuda() -> str:
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch

    return "" if torch.version.cuda else "the PyTorch that is installed has no CUDA"
