"""Networks in PyTorch, as they are."""

from __future__ import annotations

from types import TracebackType
from typing import Self, cast

import torch
from torch import nn

from deblur_deploy.artifact import Artifact
from deblur_deploy.errors import DeblurDeployError
from deblur_deploy.images import ImageSpec
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.runtime.runner import Batch, Pictures, check_batch, infer_in_form


class TorchRunner:
    """A network in PyTorch eager mode.

    Args:
        net: Maps (N, 3, H, W) float32 to the same shape. It is used as it is and stays the caller's.
        image: What it takes.
        channels_last: Whether inputs are laid out NHWC in memory; the network's weights should be, too.
        threads: Processor threads; a setting of the whole process in PyTorch, put back on leaving.
    """

    def __init__(
        self, net: nn.Module, image: ImageSpec, *, channels_last: bool = False, threads: int | None = None
    ) -> None:
        self.name = "torch-channels-last" if channels_last else "torch"
        self.image = image
        self._net: nn.Module | None = net
        self._format = torch.channels_last if channels_last else torch.contiguous_format
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
        try:
            return infer_in_form(self._run, batch, self.image)
        except (RuntimeError, MemoryError) as err:
            shape = "x".join(map(str, batch.shape))
            raise DeblurDeployError(
                f"{self.name} failed on a {shape} batch: {str(err).splitlines()[0] if str(err) else 'out of memory'}",
                hint="try a smaller picture",
            ) from err

    def _run(self, batch: Batch) -> Batch:
        assert self._net is not None, "the runner was closed"
        with torch.inference_mode():
            restored = self._net(torch.from_numpy(batch).contiguous(memory_format=self._format))
        return cast(Batch, restored.contiguous().numpy())


def open_torch(artifact: Artifact, name: str, threads: int | None) -> TorchRunner:
    """Load a checkpoint for one of the two PyTorch runtimes.

    Args:
        artifact: A checkpoint.
        name: ``torch`` or ``torch-channels-last``.
        threads: Processor threads, or None for PyTorch's choice.

    Raises:
        ArtifactError: Weights and manifest do not belong together.
        MissingDependencyError: The network is quantized and ModelOpt is not installed.
    """
    net = load_network(artifact)
    channels_last = name == "torch-channels-last"
    if channels_last:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TorchRunner(net, artifact.image, channels_last=channels_last, threads=threads)
