"""Running an artifact of any kind: one small interface over every row of the table of runtimes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import (
    ConfigError,
    DeblurDeployError,
    MissingDependencyError,
    VerificationError,
    first_line,
)
from deblur_deploy.core.images import ImageSpec, Resolution, from_frames, to_frames
from deblur_deploy.core.lazy import load_named
from deblur_deploy.runtime.engine_fit import engine_unavailable, flavour_of, flavour_title, rebuild_hint
from deblur_deploy.runtime.nvidia import count_nvidia_gpus, find_gpu
from deblur_deploy.runtime.runtimes import RUNTIMES, OpenOptions, Runtime, find_runtime

Batch = NDArray[np.float32]
"""(N, 3, H, W), RGB in [0, 1]."""

Frames = NDArray[np.uint8]
"""(N, H, W, 3), RGB as a camera gives it."""

Pictures = TypeVar("Pictures", Batch, Frames)
"""Either of the two; a runner returns the one that it was given."""


_TEMPORAL = "deblur_deploy.runtime.film_runner"
"""Imported where it is wanted: it needs OpenCV, and this module."""


class Runner(ABC):
    """A loaded network. Leaving its ``with`` block gives its memory back.

    A runtime overrides :meth:`_run` and :meth:`close`, and lists what its library raises.

    Attributes:
        name: The runtime, one of :data:`RUNTIMES`.
        image: What the network takes.

    Args:
        name: The runtime.
        image: What the network takes.
    """

    failures: ClassVar[tuple[type[Exception], ...]] = ()
    """What the library raises where an inference fails."""

    def __init__(self, name: str, image: ImageSpec) -> None:
        self.name = name
        self.image = image

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
            DeblurDeployError: The runtime failed, for instance because memory ran out.
        """
        check_batch(batch, self.image)
        with self._failures_named(batch.shape):
            return infer_in_form(self._run, batch, self.image)

    @abstractmethod
    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Run the network on an array in the form that ``image`` describes."""

    @abstractmethod
    def close(self) -> None:
        """Give the memory back; the runner cannot be used any more."""

    @contextmanager
    def _failures_named(self, shape: tuple[int, ...]) -> Iterator[None]:
        """What the library raises, as an error that names the batch."""
        try:
            yield
        except self.failures as err:
            raise DeblurDeployError(
                f"{self.name} failed on a {'x'.join(map(str, shape))} batch: {self._reason(err)}",
                hint="try a smaller picture",
            ) from err

    def _reason(self, err: Exception) -> str:
        """The message of an exception of the library, in one line."""
        return first_line(err)


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
    return open_with(artifact, runtime, OpenOptions(threads, batch, spin_wait))


def open_with(artifact: Artifact, runtime: str | None, options: OpenOptions) -> Runner:
    """As :func:`open_runner`, with all that a runtime has a choice of.

    With ``options.temporal`` pictures are frames of a film, in order, and the runner is a
    :class:`~deblur_deploy.runtime.film_runner.TemporalRunner`. Without it, a temporal network restores each picture by
    itself.

    Raises:
        ConfigError: As there, or the network is not a temporal one and should be.
        DeblurDeployError: As there.
    """
    name = runtime or default_runtime(artifact)
    if unavailable := _unavailable(artifact, name):
        raise unavailable
    takes_steps = options.temporal or takes_film(artifact)
    if takes_steps:
        load_named(f"{_TEMPORAL}:require_temporal")(artifact, name)
    runner = cast(Runner, load_named(RUNTIMES[name].opener)(artifact, name, options))
    if takes_steps:
        return cast(Runner, load_named(f"{_TEMPORAL}:TemporalRunner")(runner, artifact, remembers=options.temporal))
    return runner


def takes_film(artifact: Artifact) -> bool:
    """Whether a file takes the frame before as further inputs; timed, it is timed as on a film, motion included."""
    return artifact.image.state is not None


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
        fitting = [name for name in fitting if RUNTIMES[name].flavour == flavour_of(artifact)]
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
    return _as_reason(_unavailable(artifact, runtime))


def reason_missing(runtime: str) -> str | None:
    """What this machine lacks for one of :data:`RUNTIMES` and what to do about that, or None where it is ready."""
    return _as_reason(_missing_here(runtime))


def runtime_states() -> dict[str, str | None]:
    """For every runtime, what :func:`reason_missing` says."""
    return {name: reason_missing(name) for name in RUNTIMES}


def infer_finite(runner: Runner, batch: Batch, name: str) -> Batch:
    """Restore a photograph whose quality is to be measured, and refuse NaN and infinite values.

    Args:
        runner: An open runner.
        batch: As for :meth:`Runner.infer`.
        name: The photograph's name in the message.

    Raises:
        VerificationError: The network gives NaN or infinite values.
        DeblurDeployError: As :meth:`Runner.infer`.
    """
    restored = runner.infer(batch)
    if not np.isfinite(restored).all():
        raise VerificationError(
            f"the network gives NaN or infinite values for {name} on {runner.name}",
            hint="its weights or its number format overflow; take an earlier checkpoint, or evaluate it in float32",
        )
    return restored


def infer_in_form(run: Callable[[NDArray[Any]], NDArray[Any]], batch: Pictures, image: ImageSpec) -> Pictures:
    """Run a network on pictures in either form, converted where it takes the other.

    Args:
        run: The network, on an array of the form that ``image`` says.
        batch: Pictures in either form. Floats are rounded to 8 bits for a network of frames.
        image: What the network takes and gives.

    Returns:
        The result in the form of ``batch``.

    Raises:
        DeblurDeployError: The network gives another shape.
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
    if restored.shape != given.shape:
        gives, takes = ("x".join(map(str, shape)) for shape in (restored.shape, given.shape))
        raise DeblurDeployError(
            f"the network gives {gives} for pictures of {takes}",
            hint="the file does not hold for this size, or the runtime computes it wrongly: export it for one size "
            "with --res, or use another --runtime",
        )
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


def _unavailable(artifact: Artifact, name: str) -> DeblurDeployError | None:
    """The error that opening the artifact on this runtime would end in, as far as is known before trying."""
    runtime = find_runtime(name)
    if runtime.kind != artifact.kind:
        return ConfigError(
            f"{name} runs artifacts of kind {runtime.kind}; {artifact.path} is of kind {artifact.kind}",
            hint=f"choose {' or '.join(runtimes_for(artifact))}",
        )
    return _engine_unavailable(artifact, name) if artifact.kind == "engine" else _missing_here(name)


def _as_reason(error: DeblurDeployError | None) -> str | None:
    """What is wrong and what to do about it, in one line."""
    return f"{error.message}; {error.hint}" if error else None


def _missing_here(name: str) -> DeblurDeployError | None:
    """What this machine lacks for a runtime, independent of the artifact."""
    runtime = RUNTIMES[name]
    if missing := _missing_modules(runtime):
        return MissingDependencyError(f"{name} needs {' and '.join(missing)}", hint=runtime.install)
    if runtime.needs_gpu and (found := _gpu_unavailable(name)):
        return found
    return cast("DeblurDeployError | None", load_named(runtime.unavailable)(name)) if runtime.unavailable else None


def _engine_unavailable(artifact: Artifact, name: str) -> DeblurDeployError | None:
    """Why an engine cannot run here: it is of another TensorRT, for another card, or there is no GPU at all."""
    if name not in runtimes_for(artifact):
        built_by = flavour_title(flavour_of(artifact))
        wanted = RUNTIMES[name].flavour or "tensorrt"
        return ConfigError(
            f"{name} cannot run {artifact.path}: it was built by {built_by}",
            hint=f"choose {' or '.join(runtimes_for(artifact))}, or {rebuild_hint(artifact, find_gpu(), wanted)}",
        )
    if unavailable := engine_unavailable(artifact):
        return unavailable
    return _missing_here(name)


def _gpu_unavailable(name: str) -> DeblurDeployError | None:
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
