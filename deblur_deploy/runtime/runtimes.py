"""Every way to run an artifact, by name: a table without imports of the libraries that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from deblur_deploy.core.artifact import Kind


@dataclass(frozen=True)
class TorchVariant:
    """How PyTorch runs a network.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: Type of weights and features; the picture goes in and comes out as float32.
        channels_last: Whether pictures and features are laid out NHWC in memory, as tensor cores want them.
        mode: ``eager``, ``compile`` (``torch.compile``) or ``graph``: eager kernels captured once as a CUDA graph.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    channels_last: bool = False
    mode: Literal["eager", "compile", "graph"] = "eager"


@dataclass(frozen=True)
class Runtime:
    """A way to run one kind of artifact.

    Args:
        kind: What it runs.
        modules: Modules that it imports.
        install: The command that installs them.
        needs_gpu: Whether it runs on an NVIDIA GPU.
        on_request: Whether it is measured only where it is named, because it takes long to start or, on many
            processors, to run.
        torch: How PyTorch runs it, for checkpoints.
        provider: onnxruntime's execution provider, for ONNX files in onnxruntime.
        cuda_graph: Whether an engine runs as a CUDA graph.
    """

    kind: Kind
    modules: tuple[str, ...]
    install: str
    needs_gpu: bool = False
    on_request: bool = False
    torch: TorchVariant | None = None
    provider: str | None = None
    cuda_graph: bool = False

    @property
    def can_keep_pictures(self) -> bool:
        """Whether it can run a network again on pictures that lie on the GPU, without copying them."""
        return self.kind == "engine" or (self.torch is not None and self.torch.device == "cuda")


def _torch(variant: TorchVariant, *, on_request: bool = False) -> Runtime:
    needs_gpu = variant.device == "cuda"
    modules = ("torch", "triton") if needs_gpu and variant.mode == "compile" else ("torch",)
    return Runtime("checkpoint", modules, f"pip install {' '.join(modules)}", needs_gpu, on_request, torch=variant)


def _torch_on_gpu() -> dict[str, Runtime]:
    """Three types in three modes; the short types channels-last, without which tensor cores first lay out anew."""
    runtimes = {"torch-cuda-channels-last": _torch(TorchVariant("cuda", channels_last=True))}
    for suffix, dtype in (("", "float32"), ("-fp16", "float16"), ("-bf16", "bfloat16")):
        for ending, mode in (("", "eager"), ("-compile", "compile"), ("-graph", "graph")):
            variant = TorchVariant("cuda", dtype, dtype != "float32", mode)  # type: ignore[arg-type]
            runtimes[f"torch-cuda{suffix}{ending}"] = _torch(variant)
    return runtimes


def _onnxruntime(provider: str, install: str) -> Runtime:
    return Runtime("onnx", ("onnxruntime",), install, provider != "CPUExecutionProvider", provider=provider)


def _engine(module: str, install: str, *, cuda_graph: bool) -> Runtime:
    return Runtime("engine", (module, "cuda.bindings"), install, True, cuda_graph=cuda_graph)


_OPENVINO = Runtime("onnx", ("openvino", "onnx"), "pip install openvino onnx")
_RTX = ("tensorrt_rtx", "pip install tensorrt-rtx-cu13 cuda-python")
_FULL = ("tensorrt", "pip install tensorrt cuda-python")
# The two packages install into the same folder.
_ORT_GPU = "pip uninstall onnxruntime; pip install onnxruntime-gpu"

RUNTIMES: Mapping[str, Runtime] = {
    "torch": _torch(TorchVariant()),
    "torch-channels-last": _torch(TorchVariant(channels_last=True)),
    "torch-bf16": _torch(TorchVariant(dtype="bfloat16", channels_last=True), on_request=True),
    "torch-compile": _torch(TorchVariant(mode="compile"), on_request=True),
    **_torch_on_gpu(),
    "openvino": _OPENVINO,
    "openvino-bf16": _OPENVINO,
    "onnxruntime": _onnxruntime("CPUExecutionProvider", "pip install onnxruntime"),
    "onnxruntime-cuda": _onnxruntime("CUDAExecutionProvider", _ORT_GPU),
    "onnxruntime-tensorrt": _onnxruntime("TensorrtExecutionProvider", f"{_ORT_GPU} tensorrt"),
    "onnxruntime-tensorrt-rtx": _onnxruntime(
        "NvTensorRTRTXExecutionProvider", "pip install onnxruntime-ep-nv-tensorrt-rtx"
    ),
    "tensorrt-rtx": _engine(*_RTX, cuda_graph=True),
    "tensorrt-rtx-no-graph": _engine(*_RTX, cuda_graph=False),
    "tensorrt": _engine(*_FULL, cuda_graph=True),
    "tensorrt-no-graph": _engine(*_FULL, cuda_graph=False),
}
"""Every runtime by name; of several for one kind of artifact, the preferred first."""
