"""Training a generator from sharp photographs: the stage behind ``deblur-deploy train``."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import torch

from deblur_deploy.artifact import Artifact, new_step
from deblur_deploy.config import TrainConfig, from_table
from deblur_deploy.data.crops import crop_batches
from deblur_deploy.data.pairs import load_pairs, load_photos
from deblur_deploy.errors import ArtifactError, ConfigError
from deblur_deploy.evaluate import evaluate_network
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.training.loop import fit

OnStep = Callable[[int, int, float], None]


def train(source: Artifact | None, config: TrainConfig, out: Path, on_step: OnStep | None = None) -> Artifact:
    """Train a generator, from scratch or on from another.

    Args:
        source: Float checkpoint to go on from, whose widths are kept; None starts from random weights.
        config: Photographs, widths, shake and schedule.
        out: The artifact's directory.
        on_step: Called after each step with the step, their number, and the loss.

    Raises:
        ArtifactError: The photographs or the source cannot be used, or ``out`` cannot be written.
        DeblurDeployError: The loss is no number any more.
    """
    net = _start(source, config)
    photos = load_photos(Path(config.photos) if config.photos else None, "calibration")
    steps = config.fit.steps
    batches = crop_batches(photos, config.fit, config.shake, workers=1 if steps else 0)
    report = fit(net, batches, config.fit, None, (lambda step, loss: on_step(step, steps, loss)) if on_step else None)
    pairs = load_pairs(None, "evaluation")
    figures = {
        **measure_cost(net),
        "photos": len(photos),
        "psnr_db": evaluate_network(net, pairs),
        "seconds": round(report.seconds, 1),
        "data_seconds": round(report.data_seconds, 1),
        "loss": report.loss,
    }
    step = new_step("train", config, source, figures)
    return save_network(out, net, spec_of(net), step, source.history if source else ())


def load_recipe(path: Path) -> TrainConfig:
    """Read a training recipe.

    Args:
        path: TOML with the fields of :class:`TrainConfig`.

    Raises:
        ConfigError: The file is missing, not TOML, or has fields that cannot be used.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ConfigError(f"{path} cannot be read as a recipe: {err}", hint="give a TOML file") from err
    return from_table(TrainConfig, table, str(path))


def _start(source: Artifact | None, config: TrainConfig) -> SRN:
    """The network to train: the source's, or a new one whose random weights depend on the seed alone."""
    if source is None:
        torch.manual_seed(config.fit.seed)
        return SRN(SRNConfig.from_base(config.base, config.depths))
    if source.network.quantization is not None:
        raise ArtifactError(f"{source.path} is quantized", hint="go on from the float checkpoint before it")
    net = load_network(source)
    assert isinstance(net, SRN)
    return net
