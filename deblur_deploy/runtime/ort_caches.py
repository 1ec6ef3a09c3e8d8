"""Where onnxruntime's TensorRT providers keep what they build, which takes them minutes at each start otherwise.

The files lie in the user's cache folder and not beside the ONNX file, which may be part of an installed package. By
onnxruntime's documentation of the TensorRT provider, a kept engine has to go when the network, a version or the card is
another. So each ONNX file has a folder of its own, inside one for the versions and the card, and nothing has to go.
"""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import metadata

import onnxruntime

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.caches import user_cache
from deblur_deploy.runtime.nvidia import find_gpu

TENSORRT, TENSORRT_RTX = "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"

_LIBRARIES = {
    TENSORRT: ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    TENSORRT_RTX: ("onnxruntime-ep-nv-tensorrt-rtx", "tensorrt-rtx-cu13"),
}
"""Packages whose versions a provider's files are bound to, the first that is installed counts."""


def cache_options(artifact: Artifact, provider: str) -> dict[str, str]:
    """A provider's options that make it keep its engines and kernels.

    Args:
        artifact: The ONNX file.
        provider: onnxruntime's name of the provider.

    Returns:
        The options; none for a provider that builds nothing, or where the folder cannot be made.
    """
    if provider not in _LIBRARIES:
        return {}
    common = user_cache(f"onnxruntime/{provider}") / _machine(provider)
    own = common / artifact.sha256[:32]
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {}  # a home that cannot be written to: it is built at each start, as without a cache
    if provider == TENSORRT_RTX:
        return {"nv_runtime_cache_path": str(own)}
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(own),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(common),
    }


def _machine(provider: str) -> str:
    """What an engine is bound to: the versions, the driver and the card."""
    gpu = find_gpu()
    library = next(filter(None, map(_version, _LIBRARIES[provider])), "unknown")
    card = "no-gpu"
    if gpu:
        name = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
        card = f"{name}-{gpu.sm.lower()}-cuda{gpu.driver_cuda}"
    return f"ort{onnxruntime.__version__}-trt{library}-{card}"


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None
