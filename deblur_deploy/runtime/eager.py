"""Networks in PyTorch: eager or compiled, on the processor or on a GPU, in float32 or in half the bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.denormals import flushed_denormals
from deblur_deploy.core.errors import DeblurDeployError, MissingDependencyError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.core.threads import default_threads
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.network.generator import ScaleRecurrent
from deblur_deploy.network.srn import SRN
from deblur_deploy.network.temporal import TemporalStep
from deblur_deploy.runtime.runner import Batch, Pictures, Runner
from deblur_deploy.runtime.runtimes import OpenOptions, TorchVariant, find_runtime

_WARM_UP = 3
"""Runs before a capture, in which kernels are compiled and chosen; PyTorch's documentation asks for three."""


class GraphedNetwork:
    """A network whose kernels are captured at the first picture of a size, and replayed from then on.

    Args:
        net: On a CUDA device, in evaluation mode.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._graph: torch.cuda.CUDAGraph | None = None
        self._input: Tensor | None = None
        self._output: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Run the network.

        Args:
            x: (N, 3, H, W) on the network's device; another size than the last one is captured anew.

        Returns:
            The result, which the next call overwrites.
        """
        if self._input is None or self._input.shape != x.shape:
            self._capture(x)
        assert self._graph is not None
        assert self._input is not None
        assert self._output is not None
        self._input.copy_(x)
        self._graph.replay()
        return self._output

    def _capture(self, x: Tensor) -> None:
        self._graph = self._output = None  # their memory may be needed
        self._input = x.clone()
        stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._net(self._input)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._output = self._net(self._input)
        self._graph = graph


class TorchRunner(Runner):
    """A network in PyTorch on the processor; :class:`~deblur_deploy.runtime.torch_cuda.TorchCudaRunner` is for GPUs.

    Args:
        net: Maps (N, 3, H, W) float32 to the same shape. It is used as it is and stays the caller's; where it is to run
            in another type, it has been brought to it (see :func:`prepare_network`).
        image: What it takes.
        name: The runtime; it says how the network is run.
        threads: Processor threads; a setting of the whole process in PyTorch, put back on leaving.
    """

    failures: ClassVar = (RuntimeError, MemoryError)

    def __init__(self, net: nn.Module, image: ImageSpec, name: str = "torch", threads: int | None = None) -> None:
        super().__init__(name, image)
        self._variant = variant_of(name)
        self._net: Callable[[Tensor], Tensor] | None = _in_mode(net, self._variant)
        self._recurrent = net if self._variant.mode == "eager" and isinstance(net, ScaleRecurrent) else None
        self.scales = self._recurrent.scales if self._recurrent else None
        self._format = _memory_format(self._variant)
        self._threads_before = torch.get_num_threads()
        self._threads = threads or min(self._threads_before, default_threads())
        # PyTorch's helpers belong to the thread that asks for work, and have the mode that it had when they began. The
        # caller's may have begun long ago; those of a thread of our own begin inside `flushed_denormals`.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="deblur-deploy-torch")

    def close(self) -> None:
        """As :meth:`Runner.close`."""
        self._net = self._recurrent = None
        self._worker.shutdown()
        torch.set_num_threads(self._threads_before)

    def infer(self, batch: Pictures) -> Pictures:
        """As :meth:`Runner.infer`."""
        self._use_threads()
        return super().infer(batch)

    def _run(self, batch: Batch) -> Batch:
        assert self._net is not None, "the runner was closed"
        return self._worker.submit(self._run_in_worker, self._net, batch).result()

    def _run_in_worker(self, net: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
        self._use_threads()
        with torch.inference_mode(), flushed_denormals():
            restored = net(self._placed(batch))
            return cast(Batch, restored.float().contiguous().numpy())

    def run_step(self, tensors: dict[str, Any]) -> tuple[Batch, Batch]:
        """As :meth:`deblur_deploy.runtime.film_runner.RunsSteps.run_step`; the network is a ``TemporalStep``."""
        assert self._net is not None, "the runner was closed"
        return self._worker.submit(self._step_in_worker, self._net, tensors).result()

    def _step_in_worker(self, net: Callable[..., Any], tensors: dict[str, Any]) -> tuple[Batch, Batch]:
        self._use_threads()
        with torch.inference_mode(), flushed_denormals():
            given = {name: torch.from_numpy(array).to(self._variant.device) for name, array in tensors.items()}
            for name in ("blurred", "before", "state"):  # places stay float32
                given[name] = given[name].to(getattr(torch, self._variant.dtype)).contiguous(memory_format=self._format)
            restored, state = (tensor.float().contiguous().cpu().numpy() for tensor in net(**given))
            return restored, state

    def infer_scale(self, image: Batch, coarser: tuple[Batch, Batch] | None) -> tuple[Batch, Batch]:
        """As :meth:`deblur_deploy.runtime.abilities.RunsScales.infer_scale`."""
        assert self._recurrent is not None, "the runner was closed, or runs no single scales"
        with self._failures_named(image.shape):
            return self._worker.submit(self._run_scale_in_worker, self._recurrent, image, coarser).result()

    def _run_scale_in_worker(
        self, net: ScaleRecurrent, image: Batch, coarser: tuple[Batch, Batch] | None
    ) -> tuple[Batch, Batch]:
        self._use_threads()
        with torch.inference_mode(), flushed_denormals():
            given = None if coarser is None else (self._placed(coarser[0]), self._placed(coarser[1]))
            estimate, state = (x.float().cpu().contiguous() for x in net.run_scale(self._placed(image), given))
            return estimate.numpy(), state.numpy()

    def _placed(self, values: Batch) -> Tensor:
        """Values on the device, in the type and order of the network."""
        moved = torch.from_numpy(values).to(self._variant.device, getattr(torch, self._variant.dtype))
        return moved.contiguous(memory_format=self._format)

    def _use_threads(self) -> None:
        """Set how many threads work for this thread, which PyTorch keeps for each, and for libraries of the process."""
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)


def open_torch(artifact: Artifact, name: str, options: OpenOptions) -> TorchRunner:
    """Load a checkpoint for one of the PyTorch runtimes on the processor.

    Raises:
        ArtifactError: Weights and manifest do not belong together.
        MissingDependencyError: The network is quantized and ModelOpt is not installed.
    """
    net = network_to_run(artifact, name, options)
    return TorchRunner(net, artifact.image, name, options.threads)


def network_to_run(artifact: Artifact, name: str, options: OpenOptions) -> nn.Module:
    """An artifact's network as a runtime of PyTorch uses it; a temporal one with the frame before where that is asked.

    Raises:
        ArtifactError: Weights and manifest do not belong together.
        MissingDependencyError: The network is quantized and ModelOpt is not installed.
    """
    net: nn.Module = load_network(artifact)
    if options.temporal:
        assert isinstance(net, SRN)
        net = TemporalStep(net)
    return prepare_network(net, variant_of(name))


def prepare_network(net: nn.Module, variant: TorchVariant) -> nn.Module:
    """Put a network's weights where, and in the type and order in which, a variant uses them; changes the network."""
    moved = net.to(variant.device, getattr(torch, variant.dtype))
    return moved.to(memory_format=_memory_format(variant))  # type: ignore[call-overload, no-any-return]


def variant_of(name: str) -> TorchVariant:
    """How a runtime of PyTorch runs a network."""
    variant = find_runtime(name).torch
    assert variant is not None, f"{name} is not a runtime of PyTorch"
    return variant


def torch_unavailable(name: str) -> DeblurDeployError | None:
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
