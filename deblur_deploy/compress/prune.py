"""Channel pruning along the dependency graph.

Removing an output channel of one convolution removes an input channel of its readers, and where values are added,
multiplied or carried through the recurrence, the same channel of everything they meet. Torch-Pruning traces these
groups; this module asks it for the groups of one scale (see ``SRN.forward_once``), keeps the strongest channels of
each, and rebuilds the network from the widths that are left. Nothing here knows a layer by name.

Source: Fang et al., *DepGraph: Towards Any Structural Pruning*, CVPR 2023.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from deblur_deploy.artifact import Artifact, new_step
from deblur_deploy.compress.finetune import OnStep, evaluation_pairs, finetune
from deblur_deploy.config import PruneConfig
from deblur_deploy.errors import ArtifactError
from deblur_deploy.evaluate import evaluate_network
from deblur_deploy.network.checkpoint import build_network, load_network, save_network, spec_of
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.deform_conv import DeformConv2dPack
from deblur_deploy.network.srn import SRN

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, DeformConv2dPack)
_EXAMPLE = (1, 3, 64, 64)


@dataclass(frozen=True)
class PrunedGroup:
    """Channels that live and die together, and how many of them were kept.

    Args:
        layers: Names of the layers whose outputs they are.
        before: Channels before pruning.
        after: Channels kept.
        share: ``after / before``, which rounding makes differ from what was asked for.
    """

    layers: tuple[str, ...]
    before: int
    after: int
    share: float


def prune(source: Artifact, config: PruneConfig, out: Path, on_step: OnStep | None = None) -> Artifact:
    """Prune a float checkpoint and fine-tune it with the unpruned network as teacher.

    Args:
        source: A float checkpoint.
        config: How many channels to keep, and the fine-tuning.
        out: The artifact's directory.
        on_step: Called after each fine-tuning step with the step, their number, and the loss.

    Raises:
        ArtifactError: ``source`` is no float checkpoint, or ``out`` cannot be written.
    """
    if source.network.quantization is not None:
        raise ArtifactError(f"{source.path} is quantized", hint="prune first, quantize after: `prune`, then `qat`")
    teacher = load_network(source)
    assert isinstance(teacher, SRN)
    pairs = evaluation_pairs(config.tuning)
    pruned, groups = prune_network(teacher, config.keep, config.round_to)
    figures: dict[str, Any] = {
        **measure_cost(pruned),
        "groups": [vars(group) for group in groups],
        "psnr_untuned_db": evaluate_network(pruned, pairs),
    }
    report = finetune(pruned, teacher, config.tuning, on_step)
    figures |= {"psnr_db": evaluate_network(pruned, pairs), "seconds": report.seconds, "loss": report.loss}
    step = new_step("prune", config, source, figures)
    return save_network(out, pruned, spec_of(pruned), step, source.history)


def prune_network(net: SRN, keep: float, round_to: int) -> tuple[SRN, list[PrunedGroup]]:
    """Keep the strongest channels of every prunable group.

    Args:
        net: A float generator; it is left as it is.
        keep: Share of the channels to keep, in (0, 1].
        round_to: Kept channels are rounded down to a multiple of this (tensor cores want 8), but not below one
            multiple.

    Returns:
        A new network of the widths that are left, and what happened to each group.
    """
    shrunk = copy.deepcopy(net)
    names = {module: name for name, module in shrunk.named_modules()}
    graph = trace_dependencies(shrunk)
    # Each group is planned on the unpruned graph, then carried out: groups do not share a channel.
    plans = [(group, _kept_channels(len(group[0].idxs), keep, round_to)) for group in _prunable_groups(graph)]
    groups = []
    for group, kept in plans:
        root, before = group[0].dep, len(group[0].idxs)
        weakest = _channel_strength(graph, group).argsort()[: before - kept].tolist()
        if weakest:
            graph.get_pruning_group(root.target.module, root.handler, weakest).prune()
        layers = tuple(names[layer] for layer in _output_layers(graph, group))
        groups.append(PrunedGroup(layers, before, kept, round(kept / before, 4)))
    rebuilt = build_network(spec_of(shrunk))
    rebuilt.load_state_dict(shrunk.state_dict())
    assert isinstance(rebuilt, SRN)
    return rebuilt.eval(), groups


def trace_dependencies(net: SRN) -> tp.DependencyGraph:
    """Torch-Pruning's dependency graph of one scale of the network."""
    offset_layers = [module.conv_offset for module in net.modules() if isinstance(module, DeformConv2dPack)]
    return tp.DependencyGraph().build_dependency(
        net,
        torch.rand(_EXAMPLE),
        forward_fn=lambda module, frame: module.forward_once(frame),
        # Fresh containers on every call: the library keeps and changes the ones that it is given.
        customized_pruners={DeformConv2dPack: _DeformConvPruner()},
        ignored_layers=offset_layers,
        verbose=False,
    )


def _prunable_groups(graph: tp.DependencyGraph) -> list[Any]:
    """All groups but the one that is the picture itself."""
    groups = graph.get_all_groups(ignored_layers=[], root_module_types=list(_LAYERS))
    outputs = tp.ops._OutputOp
    return [group for group in groups if not any(isinstance(dep.target.module, outputs) for dep, _ in group)]


def _kept_channels(channels: int, keep: float, round_to: int) -> int:
    """Channels that stay of so many."""
    if keep == 1:
        return channels
    return min(channels, max(round_to, int(channels * keep + 1e-9) // round_to * round_to))


def _channel_strength(graph: tp.DependencyGraph, group: Any) -> Tensor:
    """Mean square of all weights that a channel touches, each layer scaled to a mean of one.

    This is Torch-Pruning's group magnitude importance, which passes over layers it does not know, such as deformable
    ones.
    """
    strength = torch.zeros(len(group[0].idxs))
    for item in group:
        layer = item.dep.target.module
        if not isinstance(layer, _LAYERS):
            continue
        outputs_first = not isinstance(layer, nn.ConvTranspose2d)
        axis = 0 if graph.is_out_channel_pruning_fn(item.dep.handler) == outputs_first else 1
        power = layer.weight.detach().square().transpose(0, axis).flatten(1).mean(1)[item.idxs]
        strength.index_add_(0, torch.tensor(item.root_idxs), power / power.mean().clamp_min(1e-20))
    return strength


def _output_layers(graph: tp.DependencyGraph, group: Any) -> Sequence[nn.Module]:
    """Layers of a group that lose output channels, in graph order and each once."""
    layers = [
        item.dep.target.module
        for item in group
        if isinstance(item.dep.target.module, _LAYERS) and graph.is_out_channel_pruning_fn(item.dep.handler)
    ]
    return list(dict.fromkeys(layers))


class _DeformConvPruner(tp.BasePruningFunc):  # type: ignore[misc]
    """Tells Torch-Pruning how a deformable convolution loses channels.

    Its inputs are also those of the convolution that predicts its offsets. The offsets themselves stay: they are
    positions of kernel taps, not features.
    """

    def prune_out_channels(self, layer: DeformConv2dPack, idxs: Sequence[int]) -> nn.Module:
        kept = sorted(set(range(layer.out_channels)) - set(idxs))
        layer.weight = self._prune_parameter_and_grad(layer.weight, kept, 0)
        layer.out_channels = len(kept)
        return layer

    def prune_in_channels(self, layer: DeformConv2dPack, idxs: Sequence[int]) -> nn.Module:
        kept = sorted(set(range(layer.in_channels)) - set(idxs))
        layer.weight = self._prune_parameter_and_grad(layer.weight, kept, 1)
        layer.in_channels = len(kept)
        tp.prune_conv_in_channels(layer.conv_offset, idxs)
        return layer

    def get_out_channels(self, layer: DeformConv2dPack) -> int:
        return layer.out_channels

    def get_in_channels(self, layer: DeformConv2dPack) -> int:
        return layer.in_channels
