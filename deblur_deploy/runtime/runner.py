"""Running an artifact, whatever it is made of: one small interface over PyTorch, onnxruntime, OpenVINO and TensorRT."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError, DeblurDeployError, MissingDependencyError
from deblur_deploy.core.images import ImageSpec, Resolution, from_frames, to_frames
from deblur_deploy.runtime.engine_fit import engine_obstacle, flavour_of, flavour_title, rebuild_hint
from deblur_deploy.runtime.nvidia import count_nvidia_gpus, find_gpu
from deblur_deploy.runtime.runtimes import RUNTIMES, Runtime

Batch = NDArray[np.float32]
"""(N, 3, H, W), RGB in [0, 1]."""

Frames = NDArray[np.uint8]
"""(N, H, W, 3), RGB as a camera gives it."""

Pictures = TypeVar("Pictures", Batch, Frames)
"""Either of the two; what goes into a runner as one comes out as the same."""


class Runner(AbstractContextManager["Runner"], Protocol):
    """A loaded network. Leaving its ``with`` block gives its memory back.

    Attributes:
        name: The runtime, one of :data:`RUNTIMES`.
        image: What the network takes.
    """

    name: str
    image: ImageSpec

    def infer(self, batch: Pictures) -> Pictures:
        """Restore photographs.

        Every runner takes both forms. The one that ``image`` says is the network's own; the other is converted before
        and after it, and rounded to 8 bits.

        Args:
            batch: (N, 3, H, W) float32, RGB in [0, 1], or (N, H, W, 3) uint8, RGB; where the network has a fixed size,
                of that size, with N = 1.

        Returns:
            Same shape and dtype; floats of a network of floats are close to [0, 1] but not clipped.

        Raises:
            ConfigError: The batch has a shape that the network does not take.
            DeblurDeployError: The runtime gave up, for instance for want of memory.
        """


@runtime_checkable
class KeepsMemory(Protocol):
    """A runner that keeps what one inference took for the next one."""

    def give_back_memory(self) -> None:
        """Give it back to the system; the next inference takes it anew."""


def open_runner(
    artifact: Artifact,
    runtime: str | None = None,
    threads: int | None = None,
    *,
    batch: int = 1,
    spin_wait: bool = True,
) -> Runner:
    """Load an artifact, ready to run.

    Args:
        artifact: What to run.
        runtime: One of :data:`RUNTIMES`; by default the preferred one that is installed (see :func:`default_runtime`).
        threads: Processor threads to use; by default what the runtime chooses.
        batch: How many pictures at a time it will be given; an engine that does not take so many is refused at once.
        spin_wait: How engines and PyTorch on a GPU wait for it: awake, which takes a core, or asleep.

    Returns:
        The runner, to be used in a ``with`` block.

    Raises:
        ConfigError: There is no such runtime, or it runs other kinds of artifact, or an engine takes other numbers of
            pictures alone.
        MissingDependencyError: The runtime is not installed.
        ArtifactError: The runtime cannot read the payload.
        DeblurDeployError: This machine cannot run it.
    """
    name = runtime or default_runtime(artifact)
    if obstacle := _obstacle(artifact, name):
        raise obstacle
    known = RUNTIMES[name]
    if known.kind == "engine":
        from deblur_deploy.runtime.trt import EngineOptions, EngineRunner

        options = EngineOptions(cuda_graph=known.cuda_graph, spin_wait=spin_wait, batch=batch)
        return EngineRunner(artifact, options)
    if known.torch:
        from deblur_deploy.runtime.eager import open_torch

        return open_torch(artifact, name, threads, spin_wait=spin_wait)
    if known.provider:
        from deblur_deploy.runtime.ort import OnnxruntimeRunner

        return OnnxruntimeRunner(artifact, threads, name)
    from deblur_deploy.runtime.ov import OpenVINORunner

    return OpenVINORunner(artifact, name, threads)


def default_runtime(artifact: Artifact) -> str:
    """The preferred runtime for an artifact: of those that fit, the first that is installed, else the first."""
    fitting = runtimes_for(artifact)
    if artifact.kind == "onnx" and artifact.figures.get("deform_op") == "standard":
        fitting = ("onnxruntime",)
    return next((name for name in fitting if not _missing_modules(RUNTIMES[name])), fitting[0])


def runtimes_for(artifact: Artifact) -> tuple[str, ...]:
    """Names of all runtimes for an artifact, the preferred first. An engine runs only on the TensorRT that built it."""
    fitting = [name for name, runtime in RUNTIMES.items() if runtime.kind == artifact.kind]
    if artifact.kind == "engine":
        is_rtx = flavour_of(artifact) == "rtx"
        fitting = [name for name in fitting if name.startswith("tensorrt-rtx") == is_rtx]
    return tuple(fitting)


def measurable_runtimes(artifact: Artifact) -> tuple[str, ...]:
    """Of :func:`runtimes_for`, those to measure where none is named.

    Without an NVIDIA driver, what would run a network on a GPU is left out, but for engines, which run nowhere else. So
    is what takes long to start. The others are there whether they can run or not: :func:`reason_unavailable` says.
    """
    has_driver = count_nvidia_gpus() is not None
    return tuple(
        name
        for name in runtimes_for(artifact)
        if not RUNTIMES[name].on_request and (has_driver or artifact.kind == "engine" or not RUNTIMES[name].needs_gpu)
    )


def reason_unavailable(artifact: Artifact, runtime: str) -> str | None:
    """Why this machine cannot run an artifact on a runtime, with what to do about it, or None if it can.

    Raises:
        ConfigError: There is no such runtime.
    """
    obstacle = _obstacle(artifact, runtime)
    return f"{obstacle.message}; {obstacle.hint}" if obstacle else None


def runtime_states() -> dict[str, str | None]:
    """For every runtime, what this machine lacks for it and what to do about that, or None where it is ready."""
    obstacles = {name: _machine_obstacle(name) for name in RUNTIMES}
    return {name: f"{obstacle.message}; {obstacle.hint}" if obstacle else None for name, obstacle in obstacles.items()}


def infer_in_form(run: Callable[[NDArray[Any]], NDArray[Any]], batch: Pictures, image: ImageSpec) -> Pictures:
    """Run a network on pictures in either form, converted where it takes the other.

    Args:
        run: The network, on an array of the form that ``image`` says.
        batch: Pictures in either form. Floats are rounded to 8 bits for a network of frames.
        image: What the network takes and gives.

    Returns:
        The result in the form of ``batch``.
    """
    given: NDArray[Any] = batch
    takes_frames = image.dtype == "uint8"
    restored: Any
    if (given.dtype == np.uint8) == takes_frames:
        restored = run(given)
    elif takes_frames:
        restored = from_frames(run(to_frames(given)))
    else:
        restored = to_frames(run(from_frames(given)))
    return cast(Pictures, restored)


def check_batch(batch: NDArray[Any], image: ImageSpec) -> None:
    """Refuse a batch that the network would not take in either form.

    Raises:
        ConfigError: It is neither (N, 3, H, W) float32 nor (N, H, W, 3) uint8, or not of the network's fixed size.
    """
    is_batch = batch.ndim == 4 and batch.dtype == np.float32 and batch.shape[1] == image.channels
    is_frames = batch.ndim == 4 and batch.dtype == np.uint8 and batch.shape[3] == image.channels
    if not (is_batch or is_frames) or 0 in batch.shape:
        raise ConfigError(
            f"a batch has shape {batch.shape} and dtype {batch.dtype}",
            hint=f"give float32 of shape (N, {image.channels}, H, W), or uint8 of shape (N, H, W, {image.channels})",
        )
    if (size := fixed_size(image)) is None:
        return
    height, width = batch.shape[2:] if is_batch else batch.shape[1:3]
    if (height, width) != (size.height, size.width):
        raise ConfigError(
            f"the network was exported for {size} and cannot take {width}x{height}",
            hint=f"give images of {size}, or export again with --res {width}x{height}, or --dynamic for every size",
        )
    if batch.shape[0] != 1:
        raise ConfigError(
            f"the network takes one image at a time, not {batch.shape[0]}",
            hint="give them one by one, or export with --dynamic",
        )


def fixed_size(image: ImageSpec) -> Resolution | None:
    """The only size that a network takes, or None where it takes any."""
    if image.height is None or image.width is None:
        return None
    return Resolution(image.width, image.height)


def _obstacle(artifact: Artifact, name: str) -> DeblurDeployError | None:
    """The error that opening the artifact on this runtime would end in, as far as is known before trying."""
    if name not in RUNTIMES:
        near = difflib.get_close_matches(name, RUNTIMES, n=1)
        known = f"did you mean {near[0]!r}?" if near else f"known runtimes: {', '.join(RUNTIMES)}"
        raise ConfigError(f"there is no runtime {name!r}", hint=known)
    runtime = RUNTIMES[name]
    if runtime.kind != artifact.kind:
        return ConfigError(
            f"{name} runs artifacts of kind {runtime.kind}; {artifact.path} is of kind {artifact.kind}",
            hint=f"choose {' or '.join(runtimes_for(artifact))}",
        )
    return _engine_obstacle(artifact, name) if artifact.kind == "engine" else _machine_obstacle(name)


def _machine_obstacle(name: str) -> DeblurDeployError | None:
    """What this machine lacks for a runtime, whatever is to run on it."""
    runtime = RUNTIMES[name]
    if missing := _missing_modules(runtime):
        return MissingDependencyError(f"{name} needs {' and '.join(missing)}", hint=runtime.install)
    if runtime.provider:
        from deblur_deploy.runtime.ort_providers import provider_obstacle

        if obstacle := provider_obstacle(name):
            return obstacle
    if runtime.needs_gpu and (obstacle := _gpu_obstacle(name)):
        return obstacle
    if runtime.torch:
        from deblur_deploy.runtime.eager import torch_obstacle

        return torch_obstacle(name)
    if name == "openvino-bf16":
        from deblur_deploy.runtime.ov import computes_bf16

        if not computes_bf16():
            return DeblurDeployError(
                "this processor has no bfloat16 arithmetic (AVX512-BF16 or AMX)", hint="use the runtime openvino"
            )
    return None


def _engine_obstacle(artifact: Artifact, name: str) -> DeblurDeployError | None:
    """What speaks against an engine here: it is of another TensorRT, for another card, or there is no GPU at all."""
    if name not in runtimes_for(artifact):
        built_by = flavour_title(flavour_of(artifact))
        wanted = "rtx" if name.startswith("tensorrt-rtx") else "tensorrt"
        return ConfigError(
            f"{name} cannot run {artifact.path}: it was built by {built_by}",
            hint=f"choose {' or '.join(runtimes_for(artifact))}, or {rebuild_hint(artifact, find_gpu(), wanted)}",
        )
    if obstacle := engine_obstacle(artifact):
        return obstacle
    return _machine_obstacle(name)


def _gpu_obstacle(name: str) -> DeblurDeployError | None:
    """There is no NVIDIA GPU."""
    gpus = count_nvidia_gpus()
    if gpus:
        return None
    lacks = "this machine has no NVIDIA driver" if gpus is None else "the driver of this machine finds none"
    return DeblurDeployError(
        f"{name} needs an NVIDIA GPU, and {lacks}", hint="check nvidia-smi, or use another runtime"
    )


def _missing_modules(runtime: Runtime) -> list[str]:
    return [module for module in runtime.modules if not _is_installed(module)]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is missing, too
        return False
