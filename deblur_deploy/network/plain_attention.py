"""Attention layers of PyTorch computed step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def plain_attention() -> Iterator[None]:
    """While open, attention layers compute in single operations instead of one fused call.

    The fused call is taken in evaluation mode without gradients, and nothing that looks at operations knows it: not the
    exporter, not what counts multiply-accumulates, not what follows channels.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
