"""Quantization-aware training: fake quantization, calibration, a short fine-tune, and a budget of quality.

Ranges are read from photographs first, then follow the network through the first part of the fine-tuning, and are
frozen for the rest, so that the weights settle on the grid that the file will have. Where a budget is given and missed,
the most sensitive layers go back to float, one after the other (see ``compress/quant_sensitivity.py``).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deblur_deploy.compress.calibration import RangeFollower, calibrate, settle_weights
from deblur_deploy.compress.finetune import OnStep, evaluation_pairs, finetune, tuning_photos
from deblur_deploy.compress.quant_sensitivity import QuantScanReport, hold_budget, scan_layers
from deblur_deploy.compress.teacher import measure_teacher
from deblur_deploy.config import QatConfig
from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.core.errors import ArtifactError, BudgetError, ConfigError
from deblur_deploy.core.images import to_batch
from deblur_deploy.core.tables import from_table
from deblur_deploy.data.crops import blur_function
from deblur_deploy.network.checkpoint import load_network, save_network
from deblur_deploy.network.fake_quant import (
    QuantScheme,
    check_layer,
    default_exemptions,
    exempt_layers,
    insert_quantizers,
    quantizable_layers,
)
from deblur_deploy.network.generator import Generator
from deblur_deploy.quality.evaluate import evaluate_network, network_quality

RANGE_MOMENTUM = 0.05
"""Share of the way that activation ranges move towards the crops of one step."""

_EXAMPLE = (64, 64)
"""Height and width of the frame that shows in which order the layers run, where the network takes it."""

_FP16_MAX = torch.finfo(torch.float16).max


def qat(source: Artifact, config: QatConfig, out: Path, on_step: OnStep | None = None) -> Artifact:
    """Quantize a float checkpoint and fine-tune it with the float network as teacher.

    Args:
        source: A float checkpoint, pruned or not.
        config: Format, exemptions, calibration, fine-tuning and budget.
        out: The artifact's directory.
        on_step: Called after each fine-tuning step with the step, their number, and the loss.

    Raises:
        ArtifactError: ``source`` is not a float checkpoint, or ``out`` cannot be written.
        ConfigError: A named layer does not exist, every layer is exempt, or the photographs cannot be calibrated on.
        BudgetError: The budget is missed with every layer but one in float; the best artifact is kept in ``out``.
    """
    teacher, net = _load_float(source), load_network(source)
    scheme = plan_scheme(net, config)
    _require_layers(net, scheme)
    peaks = quantize_network(net, dataclasses.asdict(scheme), calibration_frames(config))
    pairs = evaluation_pairs(config.tuning)
    judged = measure_teacher(source, teacher, pairs)
    figures: dict[str, Any] = {"psnr_float_db": judged.psnr_db, "psnr_untuned_db": evaluate_network(net, pairs)}
    follower = RangeFollower(net, peaks, RANGE_MOMENTUM, scheme)
    with follower:
        report = finetune(net, teacher, config.tuning, _following(follower, config, on_step))
    settle_weights(net, scheme)
    round_float_weights(net)
    held: dict[str, Any] = {}
    if config.max_drop is not None:
        held = dataclasses.asdict(hold_budget(net, pairs, judged.psnr_db, config.max_drop))
        round_float_weights(net)
        scheme = dataclasses.replace(scheme, exempt=exempt_layers(net))
    quality = network_quality(net, pairs)
    figures |= {**quality, "seconds": report.seconds, "loss": report.loss, **judged.figures(quality), **held}
    spec = dataclasses.replace(source.network, quantization=dataclasses.asdict(scheme))
    artifact = save_network(out, net, spec, new_step("qat", config, source, figures), source.history)
    require_max_drop(artifact, config)
    return artifact


def _require_layers(net: Generator, scheme: QuantScheme) -> None:
    """Refuse a network of which nothing would be quantized, before anything is done.

    Raises:
        ConfigError: Every layer is exempt.
    """
    layers = list(quantizable_layers(net))
    if not layers:
        raise ConfigError(
            "nothing of this network would be quantized: it has no 2D convolutions",
            hint="build it in 16 bits: `deblur-deploy export-trt --fp16`",
        )
    if set(layers) <= set(scheme.exempt):
        named = f"{', '.join(layers[:3])}{' …' if len(layers) > 3 else ''}"
        raise ConfigError(
            f"nothing of this network would be quantized: all of its {len(layers)} convolutions are exempt ({named})",
            hint=f"the first, the last and those that give positions stay float; quantize one all the same with "
            f"--include {layers[0]}, or build in 16 bits: `deblur-deploy export-trt --fp16`",
        )


def scan(source: Artifact, config: QatConfig, on_layer: OnStep | None = None) -> QuantScanReport:
    """Measure for every layer what is lost when it alone is quantized, after calibration and without fine-tuning.

    Args:
        source: A float checkpoint.
        config: Format and calibration; exemptions are only marked, for every layer is measured.
        on_layer: Called after each layer with its number, how many there are, and the dB lost.

    Raises:
        ArtifactError: ``source`` is not a float checkpoint.
        ConfigError: A named layer does not exist, or the photographs cannot be calibrated on.
    """
    net = _load_float(source)
    scheme = plan_scheme(net, config)
    everything = dataclasses.replace(scheme, exempt=())
    quantize_network(net, dataclasses.asdict(everything), calibration_frames(config))
    return scan_layers(net, evaluation_pairs(config.tuning), scheme.exempt, on_layer)


def plan_scheme(net: Generator, config: QatConfig) -> QuantScheme:
    """The settings resolved for this network.

    Args:
        net: A float network.
        config: Of which format, calibrator, ``exempt`` and ``include`` count.

    Raises:
        ConfigError: A named layer does not exist.
    """
    layers = quantizable_layers(net)
    for name in config.include:
        check_layer(name, layers, "include")
    for name in config.exempt:
        check_layer(name, layers)
    exempt = dict.fromkeys((*default_exemptions(net, torch.rand(1, 3, *net.padded_size(*_EXAMPLE))), *config.exempt))
    return QuantScheme(
        config.format,
        weights_only=config.weights_only,
        reduce_range=config.reduce_range and config.format == "int8" and not config.weights_only,
        calibrator=config.calibrator,
        percentile=config.percentile if config.calibrator == "percentile" else None,
        exempt=tuple(name for name in exempt if name not in config.include),
    )


def quantize_network(
    net: nn.Module, quantization: dict[str, Any], frames: list[NDArray[np.float32]]
) -> dict[str, float]:
    """Insert quantizers and set their ranges, in place.

    Args:
        net: A float network.
        quantization: Fields of :class:`QuantScheme`, as the manifest keeps them.
        frames: Blurred pictures, each (1, 3, H, W) float32 in [0, 1].

    Returns:
        The largest magnitude that entered each layer with a quantized input.

    Raises:
        ConfigError: The pictures cannot be calibrated on, or an exempt layer does not exist.
        ArtifactError: NaN or infinite values enter a layer.
    """
    if not frames:
        raise ConfigError("there are no pictures to calibrate on", hint="give a folder of photographs to --data")
    insert_quantizers(net, quantization)
    return calibrate(net, frames, from_table(QuantScheme, quantization, "quantization"))


def calibration_frames(config: QatConfig) -> list[NDArray[np.float32]]:
    """Blurred photographs of the tuning set, the same ones in every run."""
    photos = tuning_photos(config.tuning)[: config.calibration_images]
    expose = blur_function(config.tuning.blur)
    shaken = (
        expose(photo, np.random.default_rng([config.tuning.fit.seed, index])) for index, photo in enumerate(photos)
    )
    return [to_batch(pair.blurred) for pair in shaken]


def round_float_weights(net: nn.Module) -> None:
    """Round the weights of exempt layers to float16, in which the ONNX file stores them, in place.

    A weight beyond float16 stays as it is, and is stored as it is.
    """
    parameters = dict(net.named_parameters(remove_duplicate=False))
    for name in exempt_layers(net):
        weight = parameters[f"{name}.weight"].data
        if float(weight.abs().max()) <= _FP16_MAX:
            weight.copy_(weight.half().float())


def _load_float(source: Artifact) -> Generator:
    if source.network.quantization is not None:
        raise ArtifactError(f"{source.path} is quantized already", hint="start from the float checkpoint before it")
    return load_network(source)


def _following(follower: RangeFollower, config: QatConfig, on_step: OnStep | None) -> OnStep:
    """The caller's ``on_step``, after the ranges have followed the step if they are not frozen yet."""
    learning = config.tuning.fit.steps * (1 - config.freeze_share)

    def after_step(step: int, steps: int, loss: float) -> None:
        if step <= learning:
            follower.step()
        if on_step:
            on_step(step, steps, loss)

    return after_step


def require_max_drop(artifact: Artifact, config: QatConfig) -> None:
    """Check a quantized artifact against the budget that it was made for.

    Args:
        artifact: What :func:`qat` wrote for ``config``.
        config: Its ``max_drop``.

    Raises:
        BudgetError: It lost more.
    """
    figures = artifact.history[-1].figures
    if config.max_drop is None or figures["drop_db"] <= config.max_drop:
        return
    raise BudgetError(
        f"{figures['drop_db']:.3f} dB are lost, more than the {config.max_drop:g} dB allowed, with "
        f"{len(figures['exempted'])} layers put back to float; the best network is kept in {artifact.directory}",
        hint="give a larger --max-drop, more fine-tuning (--steps), or another --calibrator",
    )
