"""Which channels of a network live and die together.

Removing an output channel of one convolution removes an input channel of its readers, and where values are added,
multiplied or carried through a recurrence, the same channel of everything they meet. Torch-Pruning follows these
dependencies along the autograd graph; here its groups are turned into plain data. Nothing knows a layer by name.

A network whose layers run several times in one pass, such as one with a recurrence over scales, offers
``forward_once``: a pass that runs each layer exactly once and meets the recurrence's ends (see
``SRN.forward_once``).

Source: Fang et al., *DepGraph: Towards Any Structural Pruning*, CVPR 2023.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from deblur_deploy.compress.layers import WEIGHTED, Side, channel_tensors, layout_of
from deblur_deploy.compress.operations import check_operations, outputs_of
from deblur_deploy.errors import ConfigError
from deblur_deploy.images import Resolution
from deblur_deploy.network.deform_conv import DeformConv2dPack

TRACED = Resolution(64, 64)
"""Size of the frame that is sent through a network to see what depends on what."""


@dataclass(frozen=True)
class Member:
    """One side of one layer, as far as it belongs to a group.

    Args:
        layer: The layer's name.
        side: Its outputs or its inputs.
        places: For every channel of the group, where it is on that side: more than one place where it was
            concatenated with itself.
    """

    layer: str
    side: Side
    places: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are removed together, each independently of the next.

    Args:
        layers: Names of the layers whose outputs they are.
        channels: How many there are.
        members: Everything in the network that they touch.
    """

    layers: tuple[str, ...]
    channels: int
    members: tuple[Member, ...]


def find_groups(net: nn.Module, traced: Resolution = TRACED) -> list[ChannelGroup]:
    """All groups of channels that may be removed, in the network's order; not those that are the picture itself.

    Args:
        net: A float network from (1, 3, H, W) to one picture or several; it is left as it is. Traced through
            ``forward_once`` where it has that, else through a plain call.
        traced: Size of the frame that it is traced with.

    Raises:
        ConfigError: The network has a layer or an operation through which channels cannot be followed.
    """
    _check_layers(net)
    shadow = copy.deepcopy(net).eval()
    for name, module in net.named_modules():
        if isinstance(module, DeformConv2dPack):
            shadow.set_submodule(name, _undeformed(module))
    names = {module: name for name, module in shadow.requires_grad_(True).named_modules()}
    with torch.enable_grad():
        graph = _trace(shadow, names, traced)
    groups = [_plain_group(net, graph, group, names) for group in _inner_groups(graph)]
    order = list(names.values())
    return sorted(groups, key=lambda group: order.index(group.layers[0]))


def example_frame(traced: Resolution, device: torch.device | None = None) -> Tensor:
    """The same random frame (1, 3, H, W) in [0, 1] every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, traced.height, traced.width, generator=generator).to(device)


def _check_layers(net: nn.Module) -> None:
    """Refuse parameters whose channels nobody knows."""
    for name, module in net.named_modules():
        own = next(module.named_parameters(recurse=False), None)
        if own is None or layout_of(module) is not None:
            continue
        if isinstance(module, nn.PReLU):  # one slope for all channels
            continue
        raise ConfigError(
            f"the layer {name or 'at the top'} is a {type(module).__name__} with a parameter {own[0]!r}, "
            "and pruning does not know where it keeps its channels",
            hint="pruning follows ordinary, transposed, depthwise and deformable convolutions, batch norm and PReLU",
        )


def _undeformed(layer: DeformConv2dPack) -> nn.Conv2d:
    """What a deformable layer is to its neighbours: channels in, channels out.

    The offsets that it predicts inside are positions of kernel taps, not features, so they are nobody's channels.
    """
    kernel, stride, padding, dilation = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    return nn.Conv2d(layer.in_channels, layer.out_channels, kernel, stride, padding, dilation)


def _trace(net: nn.Module, names: Mapping[nn.Module, str], traced: Resolution) -> tp.DependencyGraph:
    """Torch-Pruning's dependency graph of one pass."""
    layers = [module for module in net.modules() if layout_of(module) is not None]

    def forward(module: nn.Module, frame: Tensor) -> list[Tensor]:
        outputs, runs = _watched_pass(module, frame, names)
        for layer in layers:
            if runs[layer] > 1:
                raise ConfigError(
                    f"the layer {names[layer]} runs {runs[layer]} times in one pass, which cannot be followed",
                    hint="give the network a method `forward_once` in which every layer runs once",
                )
        # A node of its own marks what leaves the network, also where that is a layer's output as it stands.
        return [output.clone() for output in outputs]

    return tp.DependencyGraph().build_dependency(
        net,
        example_frame(traced),
        forward_fn=forward,
        # Fresh containers on every call: the library keeps and changes the ones that it is given.
        customized_pruners={},
        ignored_layers=[],
        verbose=False,
    )


def _watched_pass(
    net: nn.Module, frame: Tensor, names: Mapping[nn.Module, str]
) -> tuple[list[Tensor], Counter[nn.Module]]:
    """One pass with its operations checked: the outputs, and how often each module ran."""
    runs: Counter[nn.Module] = Counter()
    made_by: dict[Any, str] = {}

    def count(module: nn.Module, _: Any, output: Any) -> None:
        runs[module] += 1
        if isinstance(output, Tensor):
            made_by[output.grad_fn] = names[module]

    handles = [module.register_forward_hook(count) for module in net.modules()]
    try:
        outputs = outputs_of(getattr(net, "forward_once", net)(frame))
    finally:
        for handle in handles:
            handle.remove()
    check_operations(outputs, made_by)
    return outputs, runs


def _inner_groups(graph: tp.DependencyGraph) -> list[Any]:
    """All groups but those that leave the network."""
    outputs = tp.ops._OutputOp
    groups = graph.get_all_groups(ignored_layers=[], root_module_types=list(WEIGHTED))
    return [group for group in groups if not any(isinstance(dep.target.module, outputs) for dep, _ in group)]


def _plain_group(net: nn.Module, graph: tp.DependencyGraph, group: Any, names: Mapping[nn.Module, str]) -> ChannelGroup:
    """A group of Torch-Pruning as plain data."""
    channels = len(group[0].idxs)
    members = []
    for item in group:
        layer = item.dep.target.module
        if not isinstance(layer, nn.Module) or layer not in names or layout_of(layer) is None:
            continue
        side: Side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
        places = _places(item.root_idxs, item.idxs, channels)
        _check_places(layer, names[layer], side, places)
        members.append(Member(names[layer], side, places))
        if side == "in" and isinstance(net.get_submodule(names[layer]), DeformConv2dPack):
            # Offsets are predicted from the same input.
            members.append(Member(f"{names[layer]}.conv_offset", side, places))
    made_by = {member.layer for member in members if member.side == "out"}
    layers = tuple(name for layer, name in names.items() if name in made_by and isinstance(layer, WEIGHTED))
    return ChannelGroup(layers, channels, tuple(members))


def _places(channels: Sequence[int], places: Sequence[int], count: int) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in range(count)]
    for channel, place in zip(channels, places, strict=True):
        found[channel].append(place)
    return tuple(tuple(sorted(places_of_channel)) for places_of_channel in found)


def _check_places(layer: nn.Module, name: str, side: Side, places: tuple[tuple[int, ...], ...]) -> None:
    """Every channel must be somewhere in the layer, and all of them equally often."""
    _, tensor, axis = channel_tensors(layer, side)[0]
    size = tensor.shape[axis]
    often = {len(of_channel) for of_channel in places}
    if len(often) != 1 or max(map(max, places)) >= size:
        raise ConfigError(
            f"the {size} {side}puts of the layer {name} meet {len(places)} channels of another layer, "
            "and which belongs to which cannot be followed",
            hint="values that are added or multiplied need equally many channels",
        )
