"""Architectures with their code: how a network is built, and its config and weights read off a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.lazy import load_named
from deblur_deploy.network import spandrel_network
from deblur_deploy.network.conv_norm import Norm
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.own_network import OwnConfig, OwnNetwork, published_weights, read_own_config, saved_names
from deblur_deploy.network.srn_cvpr18 import Variant
from deblur_deploy.network.table import ARCHITECTURES, SPANDREL, Option, known_names, most_telling
from deblur_deploy.network.widths import Shapes


@dataclass(frozen=True)
class ImportOptions:
    """What an import can be told besides the architecture.

    Args:
        variant: Which of SRN's published variants it must be, or None for the one that it is.
        norm: How DeblurGAN-v2's backbone is normalised: ``image`` or ``folded`` (see ``conv_norm.py``).
        multiple_of: Divisor of height and width that a user's own network needs.
        unsafe_pickle: Read files that hold more than weights, which runs code that they hold.
    """

    variant: Variant | None = None
    norm: Norm | None = None
    multiple_of: int | None = None
    unsafe_pickle: bool = False


Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network whose code is loaded.

    Args:
        title: Its name in a sentence, with the article.
        config: The dataclass of its config.
        build: Makes an untrained network of a config.
        read_config: Reads the config off the shapes of its arrays; KeyError names an array that is missing.
        example: Makes some network of it, whose arrays have the usual names.
        options: Names of the import options that it takes.
        from_published: Maps a published checkpoint's weights to the network's.
        tensorflow: Whether its published checkpoint is TensorFlow's.
        names: Names that its arrays have in a checkpoint; none where only the arrays say.
    """

    title: str
    config: type[Any]
    build: Callable[[Any], Generator]
    read_config: Callable[[Shapes], Any]
    example: Callable[[], Generator]
    options: frozenset[Option] = frozenset()
    from_published: Callable[[Weights, ImportOptions], Weights] = lambda weights, _: weights
    tensorflow: bool = False
    names: Callable[[], Collection[str]] = tuple


_UNSUPPORTED = {
    "the PyTorch port of SRN by iwtw": ("inblock.conv.0.weight", "outblock.conv.0.weight"),
    "the PyTorch port of SRN in SimDeblur": ("in_block.in_conv.weight", "out_block.out_conv.weight"),
    "a relative of NAFNet": ("intro.weight", "ending.weight"),
    "a relative of Restormer": ("patch_embed.proj.weight", "encoder_level1.0.norm1.body.weight"),
    "DeblurGAN": ("model.1.weight", "model.10.conv_block.1.weight"),
}
"""Networks that are not here but whose checkpoints people have, and the arrays that tell."""


def find_architecture(name: str, multiple_of: int | None = None) -> Architecture:
    """A row of the table, or a row for a user's own network.

    Args:
        name: A name in the table, or ``package.module:factory``.
        multiple_of: Divisor of height and width that a user's own network needs.

    Raises:
        ConfigError: There is no such architecture.
    """
    if ":" in name:
        return _own(name, multiple_of or 1)
    if name == SPANDREL:
        return _SPANDREL
    if name not in ARCHITECTURES:
        raise ConfigError(
            f"architecture {name!r} is unknown",
            hint=f"--arch takes {known_names()}, or package.module:factory for your own",
        )
    row = ARCHITECTURES[name]
    network: type[Generator] = load_named(row.network)
    return Architecture(
        title=row.title,
        config=load_named(row.config),
        build=network,
        read_config=network.read_config,
        example=network.example,
        options=row.options,
        from_published=lambda weights, options: network.from_published(weights, options.norm),
        tensorflow=row.tensorflow,
        names=lambda: _names_of(network.example),
    )


def _own(factory: str, multiple_of: int) -> Architecture:
    return Architecture(
        title=f"a {factory}",
        config=OwnConfig,
        build=partial(OwnNetwork, factory),
        read_config=partial(read_own_config, factory, multiple_of),
        example=lambda: OwnNetwork(factory, OwnConfig(multiple_of)),
        options=frozenset({"multiple_of"}),
        from_published=lambda weights, _: published_weights(factory, weights),
        names=lambda: saved_names(factory),
    )


_SPANDREL = Architecture(
    title="a network that spandrel knows",
    config=spandrel_network.SpandrelConfig,
    build=spandrel_network.SpandrelNetwork,
    read_config=spandrel_network.read_spandrel_config,
    # Only the arrays of a checkpoint say which of its networks it is, so there is no typical one.
    example=lambda: spandrel_network.SpandrelNetwork(spandrel_network.SpandrelConfig("", {})),
    from_published=lambda weights, _: spandrel_network.detect(weights),
)


def read_config(net: Generator) -> Any:
    """The config of a float network as it stands, widths read off its weights."""
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    if isinstance(net, (OwnNetwork, spandrel_network.SpandrelNetwork)):
        return net.config_at(shapes)  # their arrays alone do not say what they are
    return find_architecture(net.arch).read_config(shapes)


def recognise_unsupported(names: Collection[str]) -> str | None:
    """A network known by name only whose arrays these are, or None."""
    return most_telling(names, _UNSUPPORTED)


def example_names(architecture: Architecture) -> set[str]:
    """Names of the arrays of some network of an architecture."""
    return _names_of(architecture.example)


def _names_of(example: Callable[[], Generator]) -> set[str]:
    with torch.device("meta"):
        return set(example().state_dict())
