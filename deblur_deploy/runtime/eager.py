"""Networks in PyTorch: eager or compiled, on the processor or on a GPU, in float32 or in half the bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import DeblurDeployError, MissingDependencyError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.runtime.runner import Batch, Pictures, check_batch, infer_in_form
from deblur_deploy.runtime.runtimes import RUNTIMES, TorchVariant
from deblur_deploy.runtime.torch_graph import GraphedNetwork


class TorchRunner:
    """A network in PyTorch on the processor; :class:`~deblur_deploy.runtime.torch_cuda.TorchCudaRunner` is for GPUs.

    Args:
        net: Maps (N, 3, H, W) float32 to the same shape. It is used as it is and stays the caller's; where it is to run
            in another type, it has been brought to it (see :func:`prepare_network`).
        image: What it takes.
        name: The runtime; it says how the network is run.
        threads: Processor threads; a setting of the whole process in PyTorch, put back on leaving.
    """

    def __init__(self, net: nn.Module, image: ImageSpec, name: str = "torch", threads: int | None = None) -> None:
        self.name = name
        self.image = image
        self._variant = variant_of(name)
        self._net: Callable[[Tensor], Tensor] | None = _in_mode(net, self._variant)
        self._format = _memory_format(self._variant)
        self._threads_before = torch.get_num_threads()
        self._threads = threads or self._threads_before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._net = None
        torch.set_num_threads(self._threads_before)

    def infer(self, batch: Pictures) -> Pictures:
        """As :meth:`deblur_deploy.runtime.runner.Runner.infer`."""
        check_batch(batch, self.image)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with self._failures_named(batch.shape):
            return infer_in_form(self._run, batch, self.image)

    @contextmanager
    def _failures_named(self, shape: tuple[int, ...]) -> Iterator[None]:
        """What PyTorch raises, as an error that says on what."""
        try:
            yield
        except (RuntimeError, MemoryError) as err:
            raise DeblurDeployError(
                f"{self.name} failed on a {'x'.join(map(str, shape))} batch: "
                f"{str(err).splitlines()[0] if str(err) else 'out of memory'}",
                hint="try a smaller picture",
            ) from err

    def _run(self, batch: Batch) -> Batch:
        assert self._net is not None, "the runner was closed"
        with torch.inference_mode():
            picture = torch.from_numpy(batch).to(getattr(torch, self._variant.dtype))
            restored = self._net(picture.contiguous(memory_format=self._format))
            return cast(Batch, restored.float().contiguous().numpy())


def open_torch(artifact: Artifact, name: str, threads: int | None, *, spin_wait: bool = True) -> TorchRunner:
    """Load a checkpoint for one of the PyTorch runtimes.

    Args:
        artifact: A checkpoint.
        name: A runtime whose name begins with ``torch``.
        threads: Processor threads, or None for PyTorch's choice.
        spin_wait: How a GPU is waited for: awake or asleep.

    Raises:
        ArtifactError: Weights and manifest do not belong together.
        MissingDependencyError: The network is quantized and ModelOpt is not installed.
    """
    variant = variant_of(name)
    net = prepare_network(load_network(artifact), variant)
    if variant.device == "cpu":
        return TorchRunner(net, artifact.image, name, threads)
    from deblur_deploy.runtime.torch_cuda import TorchCudaRunner, TorchDevice

    return TorchCudaRunner(net, artifact.image, name, TorchDevice(spin_wait=spin_wait))


def prepare_network(net: nn.Module, variant: TorchVariant) -> nn.Module:
    """Put a network's weights where, and in the type and order in which, a variant uses them; changes the network."""
    moved = net.to(variant.device, getattr(torch, variant.dtype))
    return moved.to(memory_format=_memory_format(variant))  # type: ignore[call-overload, no-any-return]


def variant_of(name: str) -> TorchVariant:
    """How a runtime of PyTorch runs a network."""
    variant = RUNTIMES[name].torch
    assert variant is not None, f"{name} is no runtime of PyTorch"
    return variant


def torch_obstacle(name: str) -> DeblurDeployError | None:
    """The error where this PyTorch cannot run a variant, else None; that there is a GPU is known."""
    variant = variant_of(name)
    if variant.device == "cuda" and not torch.cuda.is_available():
        built = "has no CUDA" if torch.version.cuda is None else f"has CUDA {torch.version.cuda}, which finds no GPU"
        return MissingDependencyError(
            f"{name} needs PyTorch with CUDA, and the one installed {built}", hint="pip install torch, its CUDA build"
        )
    if variant.mode == "compile" and variant.device == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return DeblurDeployError(f"{name} needs a C++ compiler, and there is none", hint="install g++")
    return None


def _in_mode(net: nn.Module, variant: TorchVariant) -> Callable[[Tensor], Tensor]:
    if variant.mode == "compile":
        compiled: Any = torch.compile(net, dynamic=False)
        return cast(Callable[[Tensor], Tensor], compiled)
    return GraphedNetwork(net) if variant.mode == "graph" else net


def _memory_format(variant: TorchVariant) -> torch.memory_format:
    return torch.channels_last if variant.channels_last else torch.contiguous_format
