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
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from deblur_deploy.compress.layers import WEIGHTED, Side, channel_tensors, layout_of
from deblur_deploy.compress.operations import check_operations, outputs_of
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution
from deblur_deploy.network.deform_conv import DeformConv2dPack

TRACED = Resolution(64, 64)
"""Size of the frame that is sent through a network to see what depends on what."""

_CHANNELS = 1
_DIMENSIONS = 4


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
    groups = [plain for group in _inner_groups(graph) for plain in _plain_groups(net, graph, group, names)]
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
            hint="pruning follows ordinary, transposed, depthwise and deformable convolutions, batch and instance norm "
            "and PReLU",
        )


class _FollowableCalls(TorchFunctionMode):
    """While open, calls that hide channels from Torch-Pruning are made in a form that shows them, to the same numbers.

    - Instance normalisation of a single picture is batch normalisation. PyTorch puts two changes of shape around it, in
      which the picture's axis and the channels' become one, and nothing behind those can be followed.
    - What is joined to features but is none, such as the picture itself, has no place in the autograd graph. The
      channels after it would be taken for the first ones of the joint, so it is given a place.

    Args:
        joined: Gathers the autograd nodes of what was given a place.
    """

    def __init__(self, joined: set[Any]) -> None:
        super().__init__()
        self.joined = joined

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function is F.instance_norm:
            # The two take the same values in the same order, but not by the same names.
            bound = inspect.signature(F.instance_norm).bind(*args, **given)
            bound.apply_defaults()
            return F.batch_norm(*bound.arguments.values())
        if function in _JOINS and args:
            return function([self._in_place(tensor) for tensor in args[0]], *args[1:], **given)
        return function(*args, **given)

    def _in_place(self, tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_().clone()
            self.joined.add(tensor.grad_fn)
        return tensor


_JOINS = (torch.cat, torch.concat, torch.concatenate)


class _Graph(tp.DependencyGraph):  # type: ignore[misc]
    """Torch-Pruning's graph, with the channels between layers read off the tensors.

    The library guesses them from the layers around, and is wrong where a value is added on one way and joined on
    another.

    Attributes:
        joined: Autograd nodes of what is joined to features and is none itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.joined: set[Any] = set()

    def get_out_channels(self, module_or_node: Any) -> int | None:
        """Channels that a layer or an operation gives."""
        return super().get_out_channels(module_or_node) or _channels_of(module_or_node)

    def get_in_channels(self, module_or_node: Any) -> int | None:
        """Channels that a layer takes, or that an operation gives: those that are followed keep them or join them."""
        return super().get_in_channels(module_or_node) or _channels_of(module_or_node)


def _channels_of(node: Any) -> int | None:
    """Channels of the picture that an operation gives, or None for a layer and for what is no picture."""
    given = getattr(getattr(node, "grad_fn", None), "_input_metadata", ())
    shape = given[0].shape if given else ()
    return int(shape[_CHANNELS]) if len(shape) == _DIMENSIONS else None


def _undeformed(layer: DeformConv2dPack) -> nn.Conv2d:
    """What a deformable layer is to its neighbours: channels in, channels out.

    The offsets that it predicts inside are positions of kernel taps, not features, so they are nobody's channels.
    """
    kernel, stride, padding, dilation = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    return nn.Conv2d(layer.in_channels, layer.out_channels, kernel, stride, padding, dilation)


def _trace(net: nn.Module, names: Mapping[nn.Module, str], traced: Resolution) -> _Graph:
    """Torch-Pruning's dependency graph of one pass."""
    graph = _Graph()
    layers = [module for module in net.modules() if layout_of(module) is not None]

    def forward(module: nn.Module, frame: Tensor) -> list[Tensor]:
        with _FollowableCalls(graph.joined):
            outputs, runs = _watched_pass(module, frame, names)
        for layer in layers:
            if runs[layer] > 1:
                raise ConfigError(
                    f"the layer {names[layer]} runs {runs[layer]} times in one pass, which cannot be followed",
                    hint="give the network a method `forward_once` in which every layer runs once",
                )
        # A node of its own marks what leaves the network, also where that is a layer's output as it stands.
        return [output.clone() for output in outputs]

    graph.build_dependency(
        net,
        example_frame(traced),
        forward_fn=forward,
        # Fresh containers on every call: the library keeps and changes the ones that it is given.
        customized_pruners={},
        ignored_layers=[],
        verbose=False,
    )
    return graph


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


_Touched = tuple[nn.Module, Side, Sequence[tuple[int, ...]]]
"""A side of a layer, and where on it each channel of a group is."""


def _plain_groups(
    net: nn.Module, graph: tp.DependencyGraph, group: Any, names: Mapping[nn.Module, str]
) -> list[ChannelGroup]:
    """A group of Torch-Pruning as plain data.

    Where channels of several layers are joined and the joint is added to a value, the library gives one group for all
    of it. Its channels do not all touch the same layers, so it is several groups here.
    """
    channels = len(group[0].idxs)
    touched: list[_Touched] = []
    fixed: set[int] = set()
    for item in group:
        layer = item.dep.target.module
        places = _places(item.root_idxs, item.idxs, channels)
        if item.dep.target.grad_fn in graph.joined:
            fixed.update(channel for channel, where in enumerate(places) if where)
        elif isinstance(layer, nn.Module) and layer in names and layout_of(layer) is not None:
            side: Side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            touched.append((layer, side, places))
    alike: dict[tuple[int, ...], list[int]] = {}
    for channel in sorted(set(range(channels)) - fixed):
        alike.setdefault(tuple(len(places[channel]) for *_, places in touched), []).append(channel)
    return [
        _plain_group(net, names, [(layer, side, [places[c] for c in some]) for layer, side, places in touched])
        for some in alike.values()
    ]


def _plain_group(net: nn.Module, names: Mapping[nn.Module, str], touched: Sequence[_Touched]) -> ChannelGroup:
    """The group of channels that are in these places."""
    members = []
    for layer, side, places in touched:
        if not places[0]:
            continue
        _check_places(layer, names[layer], side, places)
        members.append(Member(names[layer], side, tuple(places)))
        if side == "in" and isinstance(net.get_submodule(names[layer]), DeformConv2dPack):
            # Offsets are predicted from the same input.
            members.append(Member(f"{names[layer]}.conv_offset", side, tuple(places)))
    made_by = {member.layer for member in members if member.side == "out"}
    layers = tuple(name for layer, name in names.items() if name in made_by and isinstance(layer, WEIGHTED))
    return ChannelGroup(layers, len(touched[0][2]), tuple(members))


def _places(channels: Sequence[int], places: Sequence[int], count: int) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in range(count)]
    for channel, place in zip(channels, places, strict=True):
        found[channel].append(place)
    return tuple(tuple(sorted(places_of_channel)) for places_of_channel in found)


def _check_places(layer: nn.Module, name: str, side: Side, places: Sequence[tuple[int, ...]]) -> None:
    """Every place must be in the layer."""
    _, tensor, axis = channel_tensors(layer, side)[0]
    size = tensor.shape[axis]
    if max(map(max, places)) >= size:
        raise ConfigError(
            f"the {size} {side}puts of the layer {name} meet {len(places)} channels of another layer, "
            "and which belongs to which cannot be followed",
            hint="values that are added or multiplied need equally many channels",
        )
