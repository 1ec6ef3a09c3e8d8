"""The quality of a published checkpoint under its two normalisations: by each picture's statistics, or gathered ones.

DeblurGAN-v2's published code restores with its normalisation in training mode. Gathered statistics, folded into the
convolutions, are faster, and give a pixel the same value whatever else is in the picture; how good they are depends on
the checkpoint (see ``network/conv_norm.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import Resolution
from deblur_deploy.data.pairs import Pair, crop_center, load_pairs
from deblur_deploy.network.architectures import ImportOptions, find_architecture
from deblur_deploy.network.checkpoint import read_checkpoint
from deblur_deploy.network.conv_norm import Norm
from deblur_deploy.quality.evaluate import evaluate_network

PICTURES = 4
SIDE = 256
"""How many of the shipped photographs are looked at, and how much of the middle of each."""


def compare_norms(path: Path, arch: str, options: ImportOptions, pairs: Sequence[Pair] = ()) -> dict[Norm, float]:
    """Mean PSNR in dB of a checkpoint under each normalisation.

    Args:
        path: A checkpoint as for ``import_checkpoint``.
        arch: A name in the table of architectures.
        options: What an import is told; its ``norm`` does not matter.
        pairs: What to evaluate on; without any, the middle of the first shipped photographs.

    Returns:
        Empty where there is no choice: the architecture takes no ``norm``, or the file has no gathered statistics.
    """
    if "norm" not in find_architecture(arch).options:
        return {}
    try:
        nets = {norm: read_checkpoint(path, arch, replace(options, norm=norm)).net for norm in get_args(Norm)}
    except ArtifactError:
        return {}  # the import itself reports what is wrong, if it is more than the statistics
    chosen = pairs or [_middle(pair) for pair in load_pairs(None, "evaluation")[:PICTURES]]
    return {norm: evaluate_network(net.eval(), chosen) for norm, net in nets.items()}


def _middle(pair: Pair) -> Pair:
    height, width = pair.sharp.shape[:2]
    part = Resolution(min(width, SIDE), min(height, SIDE))
    blurred, sharp = (crop_center(image, part, pair.name) for image in (pair.blurred, pair.sharp))
    return Pair(pair.name, blurred, sharp)
