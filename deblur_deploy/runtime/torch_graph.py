"""A PyTorch network as a CUDA graph: its kernels are launched all at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
