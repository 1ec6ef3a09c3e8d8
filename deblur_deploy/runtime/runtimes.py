"""Every way to run an artifact, by name: a table without imports of the libraries that it names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from deblur_deploy.core.artifact import Kind
from deblur_deploy.core.errors import ConfigError

ComputeType = Literal["fp32", "fp16", "bf16"]

CPU_PROVIDER = "CPUExecutionProvider"


# The two packages install into the same folder.
_ORT_GPU = "pip uninstall onnxruntime; pip install onnxruntime-gpu"


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


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A way to run one kind of artifact.

    Args:
        kind: What it runs.
        opener: ``module:function`` that opens an artifact on it. The function takes the artifact, the runtime's name
            and :class:`OpenOptions`, and gives a :class:`~deblur_deploy.runtime.runner.Runner`.
        precision: Type that a network's float32 layers are computed in. Engines have theirs in their files.
        modules: Modules that it imports.
        packages: Distributions whose versions are recorded with measurements on it.
        install: The command that installs them.
        unavailable: ``module:function`` that takes the runtime's name and gives the error that this machine would end
            in, or None where it is ready. It is asked after the modules and, where one is needed, a GPU were found.
        needs_gpu: Whether it runs on an NVIDIA GPU.
        on_request: Whether it is measured only where it is named, because it takes long to start or, on many
            processors, to run.
        torch: How PyTorch runs it, for checkpoints.
        provider: onnxruntime's execution provider, for ONNX files in onnxruntime.
        provider_module: Module that brings the provider as a library of its own, where onnxruntime was built without.
        flavour: The TensorRT whose engines it runs.
        cuda_graph: Whether an engine runs as a CUDA graph.
    """

    kind: Kind
    opener: str
    precision: ComputeType = "fp32"
    modules: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    install: str
    unavailable: str | None = None
    needs_gpu: bool = False
    on_request: bool = False
    torch: TorchVariant | None = None
    provider: str | None = None
    provider_module: str | None = None
    flavour: Literal["rtx", "tensorrt"] | None = None
    cuda_graph: bool = False

    @property
    def can_keep_pictures(self) -> bool:
        """Whether it can run a network again on pictures that lie on the GPU, without copying them."""
        return self.kind == "engine" or (self.torch is not None and self.torch.device == "cuda")


@dataclass(frozen=True)
class OpenOptions:
    """How a network is run, as far as its runtime has a choice.

    Args:
        threads: Processor threads to use; None leaves it to the runtime.
        batch: How many pictures at a time it will be given.
        spin_wait: Whether the host waits for a GPU awake, which takes a core, or asleep.
        temporal: Whether the network is given the frame before (see ``film_runner.py``).
    """

    threads: int | None = None
    batch: int = 1
    spin_wait: bool = True
    temporal: bool = False


def _torch(variant: TorchVariant, *, on_request: bool = False) -> Runtime:
    needs_gpu = variant.device == "cuda"
    modules = ("torch", "triton") if needs_gpu and variant.mode == "compile" else ("torch",)
    precisions: dict[str, ComputeType] = {"float16": "fp16", "bfloat16": "bf16"}
    return Runtime(
        kind="checkpoint",
        opener=f"deblur_deploy.runtime.{'torch_cuda:open_torch_cuda' if needs_gpu else 'eager:open_torch'}",
        precision=precisions.get(variant.dtype, "fp32"),
        modules=modules,
        packages=("torch",),
        install=f"pip install {' '.join(modules)}",
        unavailable="deblur_deploy.runtime.eager:torch_unavailable",
        needs_gpu=needs_gpu,
        on_request=on_request,
        torch=variant,
    )


def _torch_on_gpu() -> dict[str, Runtime]:
    """Three types in three modes; the short types channels-last, without which tensor cores first lay out anew."""
    runtimes = {"torch-cuda-channels-last": _torch(TorchVariant("cuda", channels_last=True))}
    for suffix, dtype in (("", "float32"), ("-fp16", "float16"), ("-bf16", "bfloat16")):
        for ending, mode in (("", "eager"), ("-compile", "compile"), ("-graph", "graph")):
            variant = TorchVariant("cuda", dtype, dtype != "float32", mode)  # type: ignore[arg-type]
            runtimes[f"torch-cuda{suffix}{ending}"] = _torch(variant)
    return runtimes


def _openvino(precision: ComputeType, unavailable: str | None = None) -> Runtime:
    return Runtime(
        kind="onnx",
        opener="deblur_deploy.runtime.ov:open_openvino",
        precision=precision,
        modules=("openvino", "onnx"),
        packages=("openvino",),
        install="pip install openvino onnx",
        unavailable=unavailable,
    )


def _onnxruntime(provider: str, install: str, provider_module: str | None = None) -> Runtime:
    return Runtime(
        kind="onnx",
        opener="deblur_deploy.runtime.ort:open_onnxruntime",
        modules=("onnxruntime",),
        packages=("onnxruntime", "onnxruntime-gpu"),
        install=install,
        unavailable="deblur_deploy.runtime.ort_providers:provider_unavailable",
        needs_gpu=provider != CPU_PROVIDER,
        provider=provider,
        provider_module=provider_module,
    )


def _engine(flavour: Literal["rtx", "tensorrt"], *, cuda_graph: bool) -> Runtime:
    module, package = ("tensorrt_rtx", "tensorrt-rtx-cu13") if flavour == "rtx" else ("tensorrt", "tensorrt")
    return Runtime(
        kind="engine",
        opener="deblur_deploy.runtime.engine_steps:open_engine",
        modules=(module, "cuda.bindings"),
        packages=(package, "cuda-python"),
        install=f"pip install {package} cuda-python",
        needs_gpu=True,
        flavour=flavour,
        cuda_graph=cuda_graph,
    )


RUNTIMES: Mapping[str, Runtime] = {
    "torch": _torch(TorchVariant()),
    "torch-channels-last": _torch(TorchVariant(channels_last=True)),
    "torch-bf16": _torch(TorchVariant(dtype="bfloat16", channels_last=True), on_request=True),
    "torch-compile": _torch(TorchVariant(mode="compile"), on_request=True),
    **_torch_on_gpu(),
    "openvino": _openvino("fp32"),
    "openvino-bf16": _openvino("bf16", "deblur_deploy.runtime.ov:bf16_unavailable"),
    "onnxruntime": _onnxruntime(CPU_PROVIDER, "pip install onnxruntime"),
    "onnxruntime-cuda": _onnxruntime("CUDAExecutionProvider", _ORT_GPU),
    "onnxruntime-tensorrt": _onnxruntime("TensorrtExecutionProvider", f"{_ORT_GPU} tensorrt"),
    "onnxruntime-tensorrt-rtx": _onnxruntime(
        "NvTensorRTRTXExecutionProvider",
        "pip install onnxruntime-ep-nv-tensorrt-rtx",
        provider_module="onnxruntime_ep_nv_tensorrt_rtx",
    ),
    "tensorrt-rtx": _engine("rtx", cuda_graph=True),
    "tensorrt-rtx-no-graph": _engine("rtx", cuda_graph=False),
    "tensorrt": _engine("tensorrt", cuda_graph=True),
    "tensorrt-no-graph": _engine("tensorrt", cuda_graph=False),
}
"""Every runtime by name; of several for one kind of artifact, the preferred first."""


def find_runtime(name: str) -> Runtime:
    """The row of a runtime.

    Raises:
        ConfigError: There is no runtime of that name.
    """
    if name in RUNTIMES:
        return RUNTIMES[name]
    near = difflib.get_close_matches(name, RUNTIMES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known runtimes: {', '.join(RUNTIMES)}"
    raise ConfigError(f"there is no runtime {name!r}", hint=hint)
