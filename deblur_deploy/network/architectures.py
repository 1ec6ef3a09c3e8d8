"""The table of architectures: what a network is made of, how its config is read off weights, how it is recognised."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.network import spandrel_network
from deblur_deploy.network.conv_norm import Norm
from deblur_deploy.network.deblurgan_v2 import (
    DeblurGANv2,
    DeblurGANv2Config,
    DeblurGANv2Inception,
    DeblurGANv2MobileNet,
)
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.mimo_unet import MIMOUNet, MIMOUNetConfig, MIMOUNetPlus
from deblur_deploy.network.own_network import PREFIX, OwnConfig, OwnNetwork, read_own_config
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.network.srn_cvpr18 import SRNCVPR18, SRNCVPR18Config, Variant
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


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Args:
        title: Its name in a sentence, with the article.
        config: The dataclass of its config.
        build: Makes an untrained network of a config.
        read_config: Reads the config off the shapes of its arrays; KeyError names an array that is missing.
        example: Makes some network of it, whose arrays have the usual names.
        telling: Names of arrays by which a checkpoint is recognised.
        options: Names of the import options that it takes.
        from_published: Maps a published checkpoint's weights to the network's.
        tensorflow: Whether its published checkpoint is TensorFlow's.
    """

    title: str
    config: type[Any]
    build: Callable[[Any], Generator]
    read_config: Callable[[Shapes], Any]
    example: Callable[[], Generator]
    telling: tuple[str, ...] = ()
    options: frozenset[Literal["variant", "norm", "multiple_of"]] = frozenset()
    from_published: Callable[[Weights, ImportOptions], Weights] = lambda weights, _: weights
    tensorflow: bool = False


def _deblurgan(network: type[DeblurGANv2], telling: str) -> Architecture:
    return Architecture(
        f"a {network.arch}",
        DeblurGANv2Config,
        network,
        network.read_config,
        network,
        (telling, "fpn.td1.0.weight"),
        frozenset({"norm"}),
        lambda weights, options: network.from_published(weights, options.norm or "image"),
    )


def _mimo_unet(network: type[MIMOUNet], *telling: str) -> Architecture:
    named = ("feat_extract.0.main.0.weight", "AFFs.0.conv.0.main.0.weight", *telling)
    return Architecture(f"a {network.arch}", MIMOUNetConfig, network, network.read_config, network, named)


ARCHITECTURES: Mapping[str, Architecture] = {
    "srn": Architecture(
        "an SRN",
        SRNConfig,
        SRN,
        SRNConfig.from_shapes,
        lambda: SRN(SRNConfig.from_base(8)),
        ("levels.0.enter.weight", "pyramid.lateral.0.weight"),
    ),
    "srn-cvpr18": Architecture(
        "an srn-cvpr18",
        SRNCVPR18Config,
        SRNCVPR18,
        SRNCVPR18.read_config,
        SRNCVPR18,
        ("encoder.0.enter.weight", "bottom.0.conv1.weight"),
        frozenset({"variant"}),
        tensorflow=True,
    ),
    "mimo-unet": _mimo_unet(MIMOUNet),
    "mimo-unet-plus": _mimo_unet(MIMOUNetPlus, "Encoder.0.layers.19.main.0.main.0.weight"),
    "deblurgan-v2-mobilenet": _deblurgan(DeblurGANv2MobileNet, "fpn.features.0.0.weight"),
    "deblurgan-v2-inception": _deblurgan(DeblurGANv2Inception, "fpn.inception.conv2d_1a.conv.weight"),
}

_UNSUPPORTED = {
    "the PyTorch port of SRN by iwtw": ("inblock.conv.0.weight", "outblock.conv.0.weight"),
    "the PyTorch port of SRN in SimDeblur": ("in_block.in_conv.weight", "out_block.out_conv.weight"),
    "NAFNet": ("intro.weight", "ending.weight"),
    "Restormer": ("patch_embed.proj.weight", "encoder_level1.0.norm1.body.weight"),
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
    if name == spandrel_network.NAME:
        return _SPANDREL
    if name not in ARCHITECTURES:
        known = ", ".join((*ARCHITECTURES, spandrel_network.NAME))
        raise ConfigError(
            f"architecture {name!r} is unknown", hint=f"--arch takes {known}, or package.module:factory for your own"
        )
    return ARCHITECTURES[name]


def _own(factory: str, multiple_of: int) -> Architecture:
    return Architecture(
        f"a {factory}",
        OwnConfig,
        partial(OwnNetwork, factory),
        partial(read_own_config, factory, multiple_of),
        lambda: OwnNetwork(factory, OwnConfig(multiple_of)),
        options=frozenset({"multiple_of"}),
        from_published=lambda weights, _: {f"{PREFIX}{name}": tensor for name, tensor in weights.items()},
    )


_SPANDREL = Architecture(
    "a network that spandrel knows",
    spandrel_network.SpandrelConfig,
    spandrel_network.SpandrelNetwork,
    spandrel_network.read_spandrel_config,
    # Only the arrays of a checkpoint say which of its networks it is, so there is no typical one.
    lambda: spandrel_network.SpandrelNetwork(spandrel_network.SpandrelConfig("", {})),
    from_published=lambda weights, _: spandrel_network.detect(weights),
)


def read_config(net: Generator) -> Any:
    """The config of a float network as it stands, widths read off its weights."""
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    if isinstance(net, (OwnNetwork, spandrel_network.SpandrelNetwork)):
        return net.config_at(shapes)  # their arrays alone do not say what they are
    return find_architecture(net.arch).read_config(shapes)


def recognise(names: Collection[str]) -> str | None:
    """The architecture in the table that arrays of these names are of, or None."""
    return _most_telling(names, {name: row.telling for name, row in ARCHITECTURES.items()})


def recognise_unsupported(names: Collection[str]) -> str | None:
    """A network known by name only whose arrays these are, or None."""
    return _most_telling(names, _UNSUPPORTED)


def _most_telling(names: Collection[str], table: Mapping[str, tuple[str, ...]]) -> str | None:
    """The entry all of whose telling names are there; of several, the one with most of them."""
    fitting = [entry for entry, telling in table.items() if telling and all(name in names for name in telling)]
    return max(fitting, key=lambda entry: len(table[entry]), default=None)


def example_names(architecture: Architecture) -> set[str]:
    """Names of the arrays of some network of an architecture."""
    with torch.device("meta"):
        return set(architecture.example().state_dict())
