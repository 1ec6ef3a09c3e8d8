"""A network that the user brings: a function or class that makes an ``nn.Module``, named ``package.module:factory``."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.network.conv_norm import idle_statistics, write_gathered_norms
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.reparametrize import bake, baked_weights, has_computed_weights
from deblur_deploy.network.users_code import CODE_ERRORS, hint_for, told
from deblur_deploy.network.weights_file import some
from deblur_deploy.network.widths import Shapes, apply_widths, changed_widths

PREFIX = "net."
"""Prefix of the names of the user's own arrays."""

_log = logging.getLogger(__name__)

_OURS = __name__.partition(".")[0]
_HINT = "write package.module:name, where name() gives a torch.nn.Module"


@dataclass(frozen=True)
class OwnConfig:
    """Facts about a user's network besides its code.

    Args:
        multiple_of: Divisor of height and width that it needs; pictures are padded to it.
        widths: Shapes of arrays that pruning has changed.
    """

    multiple_of: int = 1
    widths: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.multiple_of < 1:
            raise ConfigError(f"multiple_of is {self.multiple_of}", hint="give 1 or more, such as --multiple-of 8")


class OwnNetwork(Generator):
    """The user's module as a generator.

    The module takes (N, 3, H, W) RGB in [0, 1] and gives the same, or a list, tuple or mapping of estimates. Weights
    that it computes from other arrays, as under weight normalisation, are plain ones here.

    Args:
        factory: ``package.module:factory``.
        config: What it needs.
    """

    def __init__(self, factory: str, config: OwnConfig) -> None:
        super().__init__()
        self.arch = factory
        self.config: OwnConfig = config
        self.multiple_of = config.multiple_of
        self.net = _made(factory)
        bake(self.net)
        write_gathered_norms(self.net)
        apply_widths(self, config.widths)

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        """The module's outputs, as a list.

        Raises:
            ConfigError: It is not a picture of the same size.
        """
        return pictures_of(self.net(blurred), blurred, self.arch)

    def forward_once(self, image: Tensor) -> Tensor:
        """The module's own pass for tools that follow channels, where it brings one."""
        own = getattr(self.net, "forward_once", None)
        return super().forward_once(image) if own is None else own(image)

    def config_at(self, shapes: Shapes) -> OwnConfig:
        """The config of this network with arrays of these shapes."""
        return read_own_config(self.arch, self.multiple_of, shapes)


def published_weights(factory: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A user's weights by the names of :class:`OwnNetwork`, with those written down that the module computes.

    Args:
        factory: ``package.module:factory``.
        weights: As they were saved, before or after weights that are computed were.

    Raises:
        ConfigError: The factory cannot be found or used.
    """
    net = _made(factory)
    if idle := idle_statistics(net, weights):
        layers = sorted({name.rpartition(".")[0] for name in idle})
        _log.warning(
            "warning   the gathered statistics of %s are left out: %s normalises by each picture's own there; where "
            "they are to be used, make these layers with track_running_stats=True",
            some(layers),
            factory,
        )
        weights = {name: tensor for name, tensor in weights.items() if name not in idle}
    baked = baked_weights(net, weights) if has_computed_weights(net) else None
    return {f"{PREFIX}{name}": tensor for name, tensor in (weights if baked is None else baked).items()}


def saved_names(factory: str) -> set[str]:
    """Names of the arrays of a user's network as its own code saves them.

    Raises:
        ConfigError: The factory cannot be found or used.
    """
    return set(_made(factory).state_dict())


def _made(factory: str) -> nn.Module:
    """The module that the user's factory makes, on the processor even where networks are made without memory.

    Raises:
        ConfigError: It cannot be found or used, or gives something else.
    """
    with torch.device("cpu"), warnings.catch_warnings():  # user's code may compute while it is made
        warnings.simplefilter("ignore", FutureWarning)  # of the older style of weight normalisation
        net = _called(_find(factory), factory)
    if not isinstance(net, nn.Module):
        raise ConfigError(
            f"{factory} gives {type(net).__name__!r}, not a network", hint="it must give a torch.nn.Module"
        )
    lazy = [name for name, array in net.state_dict(keep_vars=True).items() if nn.parameter.is_lazy(array)]
    if lazy:
        raise ConfigError(
            f"{factory} gives a network with arrays that have no shape yet: {some(lazy)}",
            hint="send a picture through it before the factory returns it, or give its layers their channels",
        )
    return net


def _called(make: Callable[[], nn.Module], factory: str) -> nn.Module:
    try:
        return make()
    except CODE_ERRORS as err:
        raise ConfigError(f"{factory} cannot be called: {told(err)}", hint=hint_for(err, _HINT)) from err


def pictures_of(given: Any, blurred: Tensor, name: str) -> list[Tensor]:
    """What a network gave for a picture, as a list whose last is the restored one.

    Args:
        given: A picture, or a list, tuple or mapping of estimates, coarse to fine or fine to coarse. Outputs that are
            not pictures, such as features and masks, are left out.
        blurred: (N, 3, H, W), what it was given.
        name: The network's name in messages.

    Raises:
        ConfigError: Neither the first picture nor the last is of the same size.
    """
    outputs = list(given.values()) if isinstance(given, Mapping) else [given]
    outputs = list(given) if isinstance(given, Sequence) else outputs
    estimates = [output for output in outputs if _is_picture(output, blurred)]
    if estimates and estimates[-1].shape != blurred.shape:
        estimates.reverse()
    if not estimates or estimates[-1].shape != blurred.shape:
        last = estimates[0] if estimates else outputs[-1] if outputs else None
        found = tuple(last.shape) if isinstance(last, Tensor) else f"{type(given).__name__!r}"
        raise ConfigError(
            f"{name} gives {found} for a picture of {tuple(blurred.shape)}",
            hint="it must give RGB of the size that it was given; --multiple-of N pads pictures to a multiple of N",
        )
    return estimates


def _is_picture(output: Any, blurred: Tensor) -> bool:
    """Whether an output is as many RGB pictures as went in."""
    return isinstance(output, Tensor) and output.ndim == blurred.ndim and output.shape[:2] == blurred.shape[:2]


def read_own_config(factory: str, multiple_of: int, shapes: Shapes) -> OwnConfig:
    """Widths of the user's network whose arrays have these shapes.

    Raises:
        ConfigError: The factory cannot be found or used.
        KeyError: An array of the network is missing; the exception names it.
    """
    return OwnConfig(multiple_of, changed_widths(OwnNetwork(factory, OwnConfig(multiple_of)), shapes))


def _find(factory: str) -> Callable[[], nn.Module]:
    """The function or class of this name.

    The name may come from an artifact's manifest, so only what can be a user's factory is called: a function or an
    ``nn.Module`` class that needs no arguments, from neither Python's own library nor this package.

    Raises:
        ConfigError: It is none.
    """
    module_name, _, name = factory.partition(":")
    _check_origin(factory, module_name)
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except (ImportError, ValueError) as err:
        raise ConfigError(
            f"the module of {factory} cannot be imported: {err}",
            hint="install it, or put its folder on the path: PYTHONPATH=. deblur-deploy …",
        ) from err
    except CODE_ERRORS as err:
        hint = hint_for(err, "the module must be imported without an error: try it with python -c")
        raise ConfigError(f"the module of {factory} cannot be imported: {told(err)}", hint=hint) from err
    if not (inspect.isfunction(found) or (inspect.isclass(found) and issubclass(found, nn.Module))):
        raise ConfigError(f"{factory} is neither a function nor a class of networks", hint=_HINT)
    _check_origin(factory, found.__module__)  # a module may hold what it has imported from elsewhere
    try:
        inspect.signature(found).bind()
    except TypeError as err:
        raise ConfigError(
            f"{factory} needs arguments: {err}", hint="write a function without any that gives the network you trained"
        ) from err
    return found


def _check_origin(factory: str, module_name: str) -> None:
    """Refuse anything that no user has written."""
    package = module_name.partition(".")[0]
    if package in sys.stdlib_module_names:
        raise ConfigError(f"{factory} is part of Python, and does not make a network", hint=_HINT)
    if package == _OURS:
        raise ConfigError(
            f"{factory} is part of deblur-deploy", hint="its own networks have names: --arch mimo-unet, for example"
        )
