"""Torch-Pruning's global pruning of a generator: a rival for pruning to a frame time.

Source: Fang et al., *DepGraph: Towards Any Structural Pruning*, CVPR 2023, and its library, of which
`pip install torch-pruning` brings the version that is named in the record.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.compress.prune import rebuilt
from deblur_deploy.core.errors import MissingDependencyError
from deblur_deploy.network.deform_conv import DeformConv2dPack
from deblur_deploy.network.generator import Generator

_SIDE = 64


def prune_globally(net: Generator, share: float, round_to: int, batches: Sequence[tuple[Tensor, Tensor]]) -> Generator:
    """Keep a share of all channels, those with the greatest Taylor importance wherever they are.

    Args:
        net: A float network; it is left as it is.
        share: Of the channels that stay.
        round_to: Widths are multiples of this.
        batches: Blurred and sharp crops, each (N, 3, H, W), that the importance is measured on.

    Raises:
        MissingDependencyError: Torch-Pruning is not installed.
    """
    tp = _library()
    shrunk = copy.deepcopy(net)
    for array in shrunk.parameters():
        array.requires_grad_(True)  # the library follows the autograd graph
    packs = [module for module in shrunk.modules() if isinstance(module, DeformConv2dPack)]
    whole = [layer for layer in shrunk.modules() if isinstance(layer, nn.Conv2d) and layer.out_channels <= 3]
    pruner = tp.pruner.BasePruner(
        shrunk,
        torch.rand(1, 3, *net.padded_size(_SIDE, _SIDE)),
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=1 - share,
        max_pruning_ratio=0.9,  # a group of no channels would be no network
        ignored_layers=[*whole, *(pack.conv_offset for pack in packs)],
        round_to=round_to,
        customized_pruners={DeformConv2dPack: _deform_pruner(tp)},
        root_module_types=[nn.Conv2d, nn.ConvTranspose2d],
        forward_fn=lambda module, frame: module.forward_once(frame),
    )
    for blurred, sharp in batches:
        F.l1_loss(shrunk(blurred), sharp).backward()  # type: ignore[no-untyped-call]
    pruner.step()
    return rebuilt(shrunk)


def library_version() -> str:
    """Version of Torch-Pruning.

    Raises:
        MissingDependencyError: It is not installed.
    """
    return str(_library().__version__)


def _library() -> Any:
    try:
        import torch_pruning
    except ImportError as err:
        raise MissingDependencyError("Torch-Pruning is not installed", hint="pip install torch-pruning") from err
    return torch_pruning


def _deform_pruner(tp: Any) -> Any:
    """How a deformable convolution loses channels: those that it reads are also read by the layer of its offsets."""

    class DeformPruner(tp.BasePruningFunc):  # type: ignore[misc]
        def prune_out_channels(self, layer: DeformConv2dPack, idxs: Sequence[int]) -> nn.Module:
            kept = sorted(set(range(layer.weight.shape[0])) - set(idxs))
            layer.weight = self._prune_parameter_and_grad(layer.weight, kept, 0)
            return layer

        def prune_in_channels(self, layer: DeformConv2dPack, idxs: Sequence[int]) -> nn.Module:
            kept = sorted(set(range(layer.weight.shape[1])) - set(idxs))
            layer.weight = self._prune_parameter_and_grad(layer.weight, kept, 1)
            tp.prune_conv_in_channels(layer.conv_offset, idxs)
            return layer

        def get_out_channels(self, layer: DeformConv2dPack) -> int:
            return int(layer.weight.shape[0])

        def get_in_channels(self, layer: DeformConv2dPack) -> int:
            return int(layer.weight.shape[1])

    return DeformPruner()
