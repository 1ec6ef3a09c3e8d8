"""onnxruntime's execution providers for NVIDIA GPUs: which are there, and whether one really runs the network.

onnxruntime falls back to the processor where a provider cannot be loaded or does not take a node, and says so in its
log at most. Here that is an error.

What the TensorRT providers build, which takes them minutes, is kept in the user's cache folder and not beside the ONNX
file, which may be part of an installed package. By onnxruntime's documentation of the TensorRT provider, a kept engine
has to go when the network, a version or the card is another. So each ONNX file has a folder of its own, inside one for
the versions and the card, and nothing has to go.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import onnxruntime

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import DeblurDeployError, MissingDependencyError
from deblur_deploy.core.files import user_cache
from deblur_deploy.graph.operators import WEIGHTED
from deblur_deploy.runtime.nvidia import find_gpu
from deblur_deploy.runtime.runtimes import CPU_PROVIDER as CPU
from deblur_deploy.runtime.runtimes import find_runtime

_COMPUTE_OPERATORS = WEIGHTED | {"FusedConv", "QLinearConv", "QLinearMatMul", "ConvInteger"}
"""With the names that onnxruntime gives to layers that it has rewritten."""

_RECORD_PLACES = "session.record_ep_graph_assignment_info"

TENSORRT, TENSORRT_RTX = "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"

_LIBRARIES = {
    TENSORRT: ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    TENSORRT_RTX: ("onnxruntime-ep-nv-tensorrt-rtx", "tensorrt-rtx-cu13"),
}
"""Packages whose versions a provider's files are bound to, the first that is installed counts."""


def provider_unavailable(name: str) -> DeblurDeployError | None:
    """The error where the installed onnxruntime lacks a runtime's provider, else None.

    Args:
        name: A runtime of onnxruntime.
    """
    runtime, available = find_runtime(name), onnxruntime.get_available_providers()
    if runtime.provider in available or (runtime.provider_module and find_spec(runtime.provider_module)):
        return None
    return MissingDependencyError(
        f"{name} needs onnxruntime's {runtime.provider}, and the one installed has {' and '.join(available)}",
        hint=runtime.install,
    )


def open_session(artifact: Artifact, options: Any, name: str) -> Any:
    """Load an ONNX file on a runtime's provider, and on nothing else.

    Args:
        artifact: The ONNX file.
        options: onnxruntime's ``SessionOptions``.
        name: The runtime.

    Returns:
        onnxruntime's ``InferenceSession``.

    Raises:
        DeblurDeployError: The provider cannot be loaded, or leaves computation to another.
    """
    runtime, path = find_runtime(name), str(artifact.path)
    provider = runtime.provider
    assert provider is not None
    if provider == CPU:  # there is nowhere else to go, and older releases keep no record
        return onnxruntime.InferenceSession(path, options, providers=[CPU])
    options.add_session_config_entry(_RECORD_PLACES, "1")
    caches = cache_options(artifact, provider)
    if provider not in onnxruntime.get_available_providers():
        assert runtime.provider_module is not None, "a runtime without its provider is not opened"
        provider = _add_provider(runtime.provider_module, options, caches)
        session = onnxruntime.InferenceSession(path, options, enable_fallback=0)
    else:
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        session = onnxruntime.InferenceSession(path, options, providers=_in_order(provider, caches), enable_fallback=0)
    require_provider(session, provider, name)
    return session


def require_provider(session: Any, provider: str, name: str) -> None:
    """Refuse a session that computes elsewhere than on a provider.

    Args:
        session: onnxruntime's ``InferenceSession``, made with a record of where its nodes were placed.
        provider: Where it should compute.
        name: The runtime, for the message.

    Raises:
        MissingDependencyError: This release cannot tell.
        DeblurDeployError: The provider is not in use, or convolutions or matrix products run on another.
    """
    if provider not in session.get_providers():
        raise DeblurDeployError(
            f"{name}: onnxruntime could not load {provider} and would compute on the processor",
            hint="install the CUDA libraries that it was built for: pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise MissingDependencyError(
            f"{name}: onnxruntime {onnxruntime.__version__} does not report where it computes",
            hint=find_runtime(name).install,
        )
    elsewhere = [
        f"{node.name or node.op_type} on {part.ep_name}"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
        if node.op_type in _COMPUTE_OPERATORS
    ]
    if elsewhere:
        more = f" and {len(elsewhere) - 3} more" if len(elsewhere) > 3 else ""
        raise DeblurDeployError(
            f"{name}: {provider} does not take all of the network: {', '.join(elsewhere[:3])}{more}",
            hint="use another runtime, or export the network again: `deblur-deploy export-onnx`",
        )


def _in_order(provider: str, caches: Mapping[str, str]) -> list[str | tuple[str, dict[str, str]]]:
    """A provider with its options, and the one that runs shapes and small operators for it."""
    if provider == "CUDAExecutionProvider":
        return [provider, CPU]
    return [(provider, dict(caches)), "CUDAExecutionProvider", CPU]


def _add_provider(module: str, options: Any, caches: Mapping[str, str]) -> str:
    """Let a session use a provider from its own library, as onnxruntime does from 1.24 on; the provider's name."""
    name = _register_provider(module)
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    if not devices:
        raise DeblurDeployError(
            f"onnxruntime's {name} finds no GPU that it runs on", hint="it needs an RTX card, Ampere or later"
        )
    options.add_provider_for_devices(devices[:1], dict(caches))
    return name


@functools.cache
def _register_provider(module: str) -> str:
    """Load the library, once in a process."""
    plugin = importlib.import_module(module)
    name = str(plugin.get_ep_name())
    onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
    return name


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
    """Everything that an engine depends on: the versions, the driver and the card."""
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
