"""The table of networks that are known by name, as plain data: nothing heavy is imported before a network is wanted.

Help texts, messages, docs and benchmarks read it. A new network is one file with a :class:`Generator` and one row here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Option = Literal["variant", "norm", "multiple_of"]


@dataclass(frozen=True, kw_only=True)
class ArchitectureRow:
    """One network.

    Args:
        name: Its name in ``--arch``.
        title: Its name in a sentence, with the article.
        about: A description for people who choose.
        checkpoint: What people have of it: the form of the published checkpoint.
        network: ``module:class`` of its :class:`~deblur_deploy.network.generator.Generator`.
        config: ``module:class`` of the frozen dataclass from which it can be built again.
        telling: Names of arrays by which a checkpoint is recognised.
        options: Names of the import options that it takes.
        tensorflow: Whether its published checkpoint is TensorFlow's.
    """

    name: str
    title: str
    about: str
    checkpoint: str
    network: str
    config: str
    telling: tuple[str, ...]
    options: frozenset[Option] = frozenset()
    tensorflow: bool = False


_HERE = "deblur_deploy.network"
_MIMO_UNET = ("feat_extract.0.main.0.weight", "AFFs.0.conv.0.main.0.weight")

_ROWS = (
    ArchitectureRow(
        name="srn",
        title="an SRN",
        about="SRN with deformable convolutions, which `train` makes",
        checkpoint="a state_dict",
        network=f"{_HERE}.srn:SRN",
        config=f"{_HERE}.srn:SRNConfig",
        telling=("levels.0.enter.weight", "pyramid.lateral.0.weight"),
    ),
    ArchitectureRow(
        name="srn-cvpr18",
        title="an srn-cvpr18",
        about="SRN of Tao et al., CVPR 2018, all three variants",
        checkpoint="TensorFlow's prefix, such as `deblur.model-523000`",
        network=f"{_HERE}.srn_cvpr18:SRNCVPR18",
        config=f"{_HERE}.srn_cvpr18:SRNCVPR18Config",
        telling=("encoder.0.enter.weight", "bottom.0.conv1.weight"),
        options=frozenset({"variant"}),
        tensorflow=True,
    ),
    ArchitectureRow(
        name="nafnet",
        title="a NAFNet",
        about="NAFNet of any width and depth",
        checkpoint="the published `.pth`, with or without `params` around it",
        network=f"{_HERE}.nafnet:NAFNet",
        config=f"{_HERE}.nafnet:NAFNetConfig",
        telling=("intro.weight", "ending.weight", "downs.0.weight"),
    ),
    ArchitectureRow(
        name="restormer",
        title="a Restormer",
        about="Restormer of any width and depth",
        checkpoint="the published `.pth`",
        network=f"{_HERE}.restormer:Restormer",
        config=f"{_HERE}.restormer:RestormerConfig",
        telling=("patch_embed.proj.weight", "encoder_level1.0.norm1.body.weight", "up4_3.body.0.weight"),
    ),
    ArchitectureRow(
        name="dmphn",
        title="a DMPHN",
        about="DMPHN (1-2), (1-2-4) and (1-2-4-8)",
        checkpoint="the folder of the published `.pkl` files, or one state_dict of them all",
        network=f"{_HERE}.dmphn:DMPHN",
        config=f"{_HERE}.dmphn:DMPHNConfig",
        telling=("encoder_lv1.layer1.weight", "decoder_lv1.layer24.weight"),
    ),
    ArchitectureRow(
        name="mimo-unet",
        title="a mimo-unet",
        about="MIMO-UNet",
        checkpoint="the published `.pkl`",
        network=f"{_HERE}.mimo_unet:MIMOUNet",
        config=f"{_HERE}.mimo_unet:MIMOUNetConfig",
        telling=_MIMO_UNET,
    ),
    ArchitectureRow(
        name="mimo-unet-plus",
        title="a mimo-unet-plus",
        about="MIMO-UNet+",
        checkpoint="the published `.pkl`",
        network=f"{_HERE}.mimo_unet:MIMOUNetPlus",
        config=f"{_HERE}.mimo_unet:MIMOUNetConfig",
        telling=(*_MIMO_UNET, "Encoder.0.layers.19.main.0.main.0.weight"),
    ),
    ArchitectureRow(
        name="deblurgan-v2-mobilenet",
        title="a deblurgan-v2-mobilenet",
        about="DeblurGAN-v2 on MobileNet",
        checkpoint="the published `.h5`",
        network=f"{_HERE}.deblurgan_v2:DeblurGANv2MobileNet",
        config=f"{_HERE}.deblurgan_v2:DeblurGANv2Config",
        telling=("fpn.features.0.0.weight", "fpn.td1.0.weight"),
        options=frozenset({"norm"}),
    ),
    ArchitectureRow(
        name="deblurgan-v2-inception",
        title="a deblurgan-v2-inception",
        about="DeblurGAN-v2 on Inception-ResNet",
        checkpoint="the published `.h5`",
        network=f"{_HERE}.deblurgan_v2:DeblurGANv2Inception",
        config=f"{_HERE}.deblurgan_v2:DeblurGANv2Config",
        telling=("fpn.inception.conv2d_1a.conv.weight", "fpn.td1.0.weight"),
        options=frozenset({"norm"}),
    ),
)

ARCHITECTURES: dict[str, ArchitectureRow] = {row.name: row for row in _ROWS}
"""The rows by name."""

SPANDREL = "spandrel"
"""The name in ``--arch`` for whatever that library detects."""


def known_names() -> str:
    """Everything that ``--arch`` takes, for a sentence."""
    return ", ".join((*ARCHITECTURES, f"{SPANDREL} for whatever that library detects"))


def recognise(names: Collection[str]) -> str | None:
    """The architecture in the table that arrays of these names are of, or None."""
    return most_telling(names, {name: row.telling for name, row in ARCHITECTURES.items()})


def most_telling(names: Collection[str], table: Mapping[str, tuple[str, ...]]) -> str | None:
    """The entry all of whose telling names are there; of several, the one with most of them."""
    fitting = [entry for entry, telling in table.items() if telling and all(name in names for name in telling)]
    return max(fitting, key=lambda entry: len(table[entry]), default=None)
