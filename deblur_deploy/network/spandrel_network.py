"""Networks that spandrel knows: its detection names the architecture and reads the hyperparameters off the weights.

spandrel (https://github.com/chaiNNer-org/spandrel) holds the code of some forty restoration networks. What an artifact
keeps is the shapes of the arrays that were detected; from them spandrel makes the same network again, without its
weights and without unpickling anything.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from deblur_deploy.core.errors import ArtifactError, MissingDependencyError, first_line
from deblur_deploy.network.conv_norm import write_gathered_norms
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.own_network import pictures_of
from deblur_deploy.network.table import SPANDREL
from deblur_deploy.network.widths import Shapes, apply_widths, changed_widths

PREFIX = "net."
"""Prefix of the names of the network's own arrays."""

_RGB = 3

_HALF_A_CHECKPOINT = (RuntimeError, LookupError, ValueError, TypeError, AttributeError, AssertionError)
"""What spandrel's loaders raise on arrays of which some are missing or misshapen; they check little themselves."""


@dataclass(frozen=True)
class SpandrelConfig:
    """Everything needed to make the network again.

    Args:
        architecture: spandrel's name of it.
        shapes: Shapes of the arrays that it was detected by.
        multiple_of: Divisor of height and width that it needs.
        smallest_side: Least height and width that it needs.
        widths: Shapes of arrays that pruning has changed.
    """

    architecture: str
    shapes: dict[str, tuple[int, ...]]
    multiple_of: int = 1
    smallest_side: int = 1
    widths: dict[str, tuple[int, ...]] = field(default_factory=dict)


class SpandrelNetwork(Generator):
    """One of spandrel's networks as a generator.

    Args:
        config: Which one.
    """

    arch = SPANDREL

    def __init__(self, config: SpandrelConfig) -> None:
        super().__init__()
        self.config: SpandrelConfig = config
        self.multiple_of = config.multiple_of
        self.smallest_side = config.smallest_side
        self.net = _network_of(config.shapes)
        write_gathered_norms(self.net)
        apply_widths(self, config.widths)

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        """The network's output, as a list.

        Raises:
            ConfigError: It is not a picture of the same size.
        """
        return pictures_of(self.net(blurred), blurred, self.config.architecture)

    def config_at(self, shapes: Shapes) -> SpandrelConfig:
        """The config of this network with arrays of these shapes."""
        published = replace(self.config, widths={})
        return replace(published, widths=changed_widths(SpandrelNetwork(published), shapes))


def detect(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state_dict of the network that spandrel takes these weights for.

    Raises:
        ArtifactError: It knows no such network, or one that does not give RGB of the size that it is given.
        MissingDependencyError: spandrel is not installed.
    """
    model = _load(weights).model
    return {f"{PREFIX}{name}": tensor.detach() for name, tensor in model.state_dict().items()}


def read_spandrel_config(shapes: Shapes) -> SpandrelConfig:
    """The config of the network whose arrays, as :func:`detect` gave them, have these shapes.

    Raises:
        ArtifactError: spandrel does not know it any more.
        MissingDependencyError: spandrel is not installed.
    """
    plain = {name.removeprefix(PREFIX): tuple(shape) for name, shape in shapes.items()}
    found = _load(_empty(plain))
    needs = found.size_requirements
    return SpandrelConfig(str(found.architecture.id), plain, needs.multiple_of, max(1, needs.minimum))


def _network_of(shapes: Shapes) -> nn.Module:
    model: nn.Module = _load(_empty(shapes)).model
    return model


def _empty(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.zeros(tuple(shape), device="cpu") for name, shape in shapes.items()}


def _load(weights: Mapping[str, Tensor]) -> Any:
    """Spandrel's description of a network, with the network."""
    spandrel = _spandrel()
    try:
        with torch.device("cpu"):  # also where networks are made without memory: its code computes while it makes them
            found = spandrel.MAIN_REGISTRY.load(dict(weights))
    except spandrel.UnsupportedModelError as err:
        raise ArtifactError(
            f"spandrel {spandrel.__version__} knows no network with arrays such as {min(weights, default='none')}",
            hint="give its own code as --arch package.module:factory",
        ) from err
    except _HALF_A_CHECKPOINT as err:
        reason = first_line(err)
        raise ArtifactError(
            f"spandrel recognises the weights but cannot load them: {reason}",
            hint="the checkpoint is incomplete, or of a variant that this version of spandrel does not know",
        ) from err
    _check_restores(found)
    return found


def _check_restores(found: Any) -> None:
    """Refuse networks that give something else than a picture like the one that they are given."""
    name = found.architecture.name
    if found.scale != 1:
        raise ArtifactError(f"this {name} enlarges pictures {found.scale} times", hint="give one that keeps their size")
    if (found.input_channels, found.output_channels) != (_RGB, _RGB):
        raise ArtifactError(
            f"this {name} takes {found.input_channels} channels and gives {found.output_channels}",
            hint="give one for RGB pictures",
        )
    if found.size_requirements.square:
        raise ArtifactError(f"this {name} takes square pictures only", hint="give another network")


def _spandrel() -> ModuleType:
    try:
        return _imported()
    except MissingDependencyError:
        raise
    except (ImportError, RuntimeError) as err:
        raise MissingDependencyError(
            f"--arch {SPANDREL} needs spandrel: {first_line(err)}", hint="pip install 'deblur-deploy[zoo]'"
        ) from err


def _imported() -> ModuleType:
    """The library; where torchvision cannot be imported, without it.

    A torchvision of another build than torch ends in an exception when it is imported. Two of spandrel's networks use
    it, to turn or to normalise pictures, and none of those restores blurred ones.
    """
    try:
        return importlib.import_module("spandrel")
    except (ImportError, RuntimeError) as err:
        if not _is_installed():
            raise ImportError("it is not installed") from err
    names = [name for name in sys.modules if name.partition(".")[0] == "torchvision"]
    hidden = {name: sys.modules.pop(name) for name in names}
    sys.modules.update({name: _Unavailable(name) for name in _TORCHVISION})
    try:
        return importlib.import_module("spandrel")
    finally:
        for name in _TORCHVISION:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("spandrel") is not None
    except ValueError:  # something has switched it off
        return False


_TORCHVISION = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
"""What spandrel imports of torchvision."""


class _Unavailable(ModuleType):
    """Stands for a module, and for everything in it, until it is used."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # so that modules inside it are looked for

    def __getattr__(self, name: str) -> _Unavailable:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unavailable(f"{self.__name__}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise MissingDependencyError(
            f"this network uses {self.__name__}, and torchvision cannot be imported here",
            hint="install the torchvision that belongs to this torch",
        )
