"""Quantization-aware training: INT8 fake quantization, calibration, and a short fine-tune."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deblur_deploy.artifact import Artifact, new_step
from deblur_deploy.compress.finetune import OnStep, evaluation_pairs, finetune, tuning_photos
from deblur_deploy.config import QatConfig
from deblur_deploy.data.shake import shake
from deblur_deploy.errors import ArtifactError, ConfigError
from deblur_deploy.evaluate import evaluate_network
from deblur_deploy.images import to_batch
from deblur_deploy.network.checkpoint import load_network, save_network
from deblur_deploy.network.fake_quant import calibrating, default_exemptions, insert_quantizers


def qat(source: Artifact, config: QatConfig, out: Path, on_step: OnStep | None = None) -> Artifact:
    """Quantize a float checkpoint and fine-tune it with the float network as teacher.

    Args:
        source: A float checkpoint, pruned or not.
        config: Bits, exemptions, calibration and fine-tuning.
        out: The artifact's directory.
        on_step: Called after each fine-tuning step with the step, their number, and the loss.

    Raises:
        ArtifactError: ``source`` is no float checkpoint, or ``out`` cannot be written.
        ConfigError: An exempt layer does not exist, or there is nothing to calibrate on.
    """
    if source.network.quantization is not None:
        raise ArtifactError(f"{source.path} is quantized already", hint="start from the float checkpoint before it")
    teacher, net = load_network(source), load_network(source)
    exempt = (*default_exemptions(net, torch.rand(1, 3, 64, 64)), *config.exempt)
    quantization: dict[str, Any] = {"bits": 8, "exempt": list(dict.fromkeys(exempt))}
    quantize_network(net, quantization, calibration_frames(config))
    pairs = evaluation_pairs(config.tuning)
    figures: dict[str, Any] = {"psnr_untuned_db": evaluate_network(net, pairs)}
    report = finetune(net, teacher, config.tuning, on_step)
    figures |= {"psnr_db": evaluate_network(net, pairs), "seconds": report.seconds, "loss": report.loss}
    spec = dataclasses.replace(source.network, quantization=quantization)
    return save_network(out, net, spec, new_step("qat", config, source, figures), source.history)


def quantize_network(net: nn.Module, quantization: dict[str, Any], frames: list[NDArray[np.float32]]) -> None:
    """Insert quantizers and set their ranges to the largest magnitudes seen, in place.

    Args:
        net: A float network.
        quantization: ``bits`` and ``exempt``, as the manifest keeps them.
        frames: Blurred pictures, each (1, 3, H, W) float32 in [0, 1].

    Raises:
        ConfigError: No frames, or an exempt layer that does not exist.
    """
    if not frames:
        raise ConfigError("there are no pictures to calibrate on", hint="give a folder of photographs to --data")
    insert_quantizers(net, quantization)
    with torch.no_grad(), calibrating(net):
        for frame in frames:
            net(torch.from_numpy(frame))


def calibration_frames(config: QatConfig) -> list[NDArray[np.float32]]:
    """Blurred photographs of the tuning set, the same ones in every run."""
    photos = tuning_photos(config.tuning)[: config.calibration_images]
    shaken = (
        shake(photo, config.tuning.shake, np.random.default_rng([config.tuning.fit.seed, index]))
        for index, photo in enumerate(photos)
    )
    return [to_batch(pair.blurred) for pair in shaken]
