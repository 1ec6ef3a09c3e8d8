"""Settings of every stage: frozen dataclasses that check themselves."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from deblur_deploy.errors import ConfigError

Range = tuple[float, float]

Budget = Literal["keep", "macs", "params"]
"""What pruning can limit: channels, multiply-accumulates, or parameters."""

_PRUNING_CHOICES = {
    "importance": ("l1", "l2", "taylor"),
    "scope": ("local", "global"),
    "allocation": ("uniform", "sensitivity"),
}

_BUDGETS: tuple[Budget, ...] = ("keep", "macs", "params")


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise ConfigError(message, hint=hint)


@dataclass(frozen=True)
class ShakeConfig:
    """Synthetic camera shake (see ``data/shake.py``).

    Args:
        length_px: Range of the diagonal of the path's bounding box, in pixels.
        roll_deg: Largest roll of the camera during one exposure, in degrees.
        turn_rad: Standard deviation of the change of heading between two frames, in radians.
        frames: Range of the number of frames averaged.
        foreground_probability: How often a part of the picture moves on a path of its own.
        highlight_gain: How far clipped highlights are brightened before averaging, in linear light.
        noise: Whether sensor noise is added.
        photons: Range of photons at full scale; fewer is noisier.
        read_noise: Standard deviation of read noise, in linear light.
    """

    length_px: Range = (3.0, 12.0)
    roll_deg: float = 0.3
    turn_rad: float = 0.25
    frames: tuple[int, int] = (16, 24)
    foreground_probability: float = 0.2
    highlight_gain: float = 1.0
    noise: bool = True
    photons: Range = (10_000.0, 50_000.0)
    read_noise: float = 0.001

    def __post_init__(self) -> None:
        low, high = self.length_px
        _require(0 <= low <= high, f"length_px is {self.length_px}", "give a range such as [3.0, 12.0]")
        _require(1 <= self.frames[0] <= self.frames[1], f"frames is {self.frames}", "give a range such as [16, 24]")
        _require(self.roll_deg >= 0, f"roll_deg is {self.roll_deg}", "give 0 (no roll) or more, such as 0.3")
        _require(self.turn_rad >= 0, f"turn_rad is {self.turn_rad}", "give 0 (straight) or more, such as 0.25")
        _require(self.highlight_gain >= 0, f"highlight_gain is {self.highlight_gain}", "give 0 (off) or more")
        _require(self.read_noise >= 0, f"read_noise is {self.read_noise}", "give 0 or more, such as 0.001")
        _require(0 <= self.foreground_probability <= 1, "foreground_probability is outside 0 to 1", "try 0.2")
        _require(0 < self.photons[0] <= self.photons[1], f"photons is {self.photons}", "try [10000, 50000]")


@dataclass(frozen=True)
class FitConfig:
    """The training loop (see ``training/loop.py``); the defaults are those of the literature on GoPro.

    Args:
        steps: Optimiser steps; the default is 300 passes over GoPro's 2103 pairs in batches of 8.
        batch: Crops per step, over all processes together.
        crop: Side of the square crops in pixels, a multiple of 16.
        candidates: Crops drawn for each one that is used, the one with the most detail: sky and walls teach little.
        optimizer: AdamW or Adam; without weight decay they are the same.
        lr: Peak learning rate.
        lr_final: Learning rate that the cosine ends at.
        weight_decay: Weight decay: AdamW takes it off the weights, Adam adds it to the gradient.
        warmup: Steps of linear warm-up.
        clip_norm: Gradient norm above which gradients are scaled down.
        ema_decay: Decay of the moving average of the weights; 0 switches it off.
        coarse_weight: Weight of the loss on the two coarser scales.
        distill_weight: Weight of the distance to a teacher's picture, where there is a teacher.
        feature_weight: Weight of the distance to its features (see ``training/features.py``).
        precision: ``bfloat16`` runs the network under autocast, weights staying float32. ``auto`` does so on a GPU that
            has it; never on a processor, where the result would then depend on the processor's model.
        seed: Seed of crops, shakes and augmentation.
    """

    steps: int = 78_900
    batch: int = 8
    crop: int = 256
    candidates: int = 1
    optimizer: Literal["adamw", "adam"] = "adamw"
    lr: float = 2e-4
    lr_final: float = 1e-7
    weight_decay: float = 0.0
    warmup: int = 100
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    coarse_weight: float = 0.5
    distill_weight: float = 0.5
    feature_weight: float = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.steps >= 0, f"steps is {self.steps}", "give 0 or more optimiser steps")
        _require(self.batch >= 1, f"batch is {self.batch}", "give at least one crop per step")
        _require(self.crop >= 16 and self.crop % 16 == 0, f"crop is {self.crop}", "give a multiple of 16, such as 128")
        _require(self.candidates >= 1, f"candidates is {self.candidates}", "give 1 (take what comes) or more")
        rates = f"lr is {self.lr} and lr_final {self.lr_final}"
        _require(0 < self.lr_final <= self.lr < math.inf, rates, "try 2e-4 and 1e-7")
        _require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}", "give 0 (off) or more")
        _require(self.warmup >= 0, f"warmup is {self.warmup}", "give 0 or more steps")
        _require(self.clip_norm > 0, f"clip_norm is {self.clip_norm}", "give more than 0, such as 1.0")
        for name in ("coarse_weight", "distill_weight", "feature_weight"):
            weight = getattr(self, name)
            _require(0 <= weight < math.inf, f"{name} is {weight}", "give 0 (off) or more, such as 0.5")
        _require(self.seed >= 0, f"seed is {self.seed}", "give 0 or more")
        _require(0 <= self.ema_decay < 1, f"ema_decay is {self.ema_decay}", "give 0 (off) to 0.9999")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses (see ``training/losses.py``); 0 switches one off.

    Args:
        content: L1 to the sharp picture on every scale.
        perceptual: Distance between VGG19 features; usually 0.1, and it needs a file of VGG19 weights.
        adversarial: Least-squares GAN; usually 0.01.
        gradient_penalty: Weight of the gradient penalty in the discriminator's own loss.
        frequency: L1 between Fourier transforms on every scale; usually 0.1.
        discriminator_lr: Learning rate of the discriminator.
    """

    content: float = 1.0
    perceptual: float = 0.0
    adversarial: float = 0.0
    gradient_penalty: float = 10.0
    frequency: float = 0.0
    discriminator_lr: float = 1e-4

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            _require(value >= 0, f"{field.name} is {value}", "a weight is 0 (off) or more")
        seen = self.content + self.perceptual + self.frequency
        _require(seen > 0, "no loss looks at the sharp picture", "set content = 1.0 under [loss]")


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to crops beside flips and turns (see ``data/crops.py``).

    Args:
        brightness: Both pictures are multiplied by 1 ± up to this.
        contrast: The distance from their mean is multiplied by 1 ± up to this.
        linear_share: Share of crops that get a straight motion blur instead of their own; 0 switches it off. It widens
            the margin that photographs need around a crop.
        linear_px: Range of its length in pixels; its direction is anywhere from 0 to 360 degrees.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    linear_share: float = 0.0
    linear_px: Range = (5.0, 30.0)

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"{name} is {value}", "give 0 (off) to below 1, such as 0.2")
        _require(0 <= self.linear_share <= 1, f"linear_share is {self.linear_share}", "give 0 (off) to 1")
        _require(0 < self.linear_px[0] <= self.linear_px[1], f"linear_px is {self.linear_px}", "try [5.0, 30.0]")


NO_AUGMENTATION = AugmentConfig(brightness=0.0, contrast=0.0, linear_share=0.0)
"""Flips and turns alone."""


@dataclass(frozen=True)
class TrainConfig:
    """Training a generator (see ``training/train.py``).

    Args:
        photos: Folder of blurred/sharp pairs, or of sharp photographs to shake; None takes the shipped calibration
            split, which is small.
        epochs: Passes over the photographs, instead of ``fit.steps``.
        base: Width of the finest level; the others have twice and four times as many channels. None keeps the widths of
            the network to start from, and is 24 where there is none.
        depths: Residual blocks on each level, fine to coarse; None likewise, or 2, 2, 1.
        shake: The blur that sharp photographs are given.
        augment: What else happens to crops.
        fit: The schedule.
        loss: What is minimised.
    """

    photos: str | None = None
    epochs: int | None = None
    base: int | None = None
    depths: tuple[int, int, int] | None = None
    shake: ShakeConfig = ShakeConfig()
    augment: AugmentConfig = AugmentConfig()
    fit: FitConfig = FitConfig()
    loss: LossConfig = LossConfig()

    def __post_init__(self) -> None:
        _require(self.base is None or self.base >= 1, f"base is {self.base}", "give 1 or more, such as 24")
        shallow = self.depths is not None and min(self.depths) < 0
        _require(not shallow, f"depths is {self.depths}", "give 0 or more for each level, such as [2, 2, 1]")
        _require(self.epochs is None or self.epochs >= 1, f"epochs is {self.epochs}", "give 1 or more, or fit.steps")


@dataclass(frozen=True)
class RunConfig:
    """How a training run is carried out, which the recipe leaves open (see ``training/train.py``).

    Args:
        resume: Go on from the state that an interrupted run left.
        save_minutes: Time between two saved states.
        vgg_weights: File of torchvision's VGG19 weights, where the recipe has a perceptual loss.
        tensorboard: Write scalars and sample pictures for TensorBoard.
        cache: Folder for decoded photographs; None keeps them in memory.
        workers: Processes that make crops beside the training.
    """

    resume: bool = False
    save_minutes: float = 10.0
    vgg_weights: str | None = None
    tensorboard: bool = False
    cache: str | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        _require(self.save_minutes >= 0, f"save_minutes is {self.save_minutes}", "give 0 (every step) or more")
        _require(self.workers >= 0, f"workers is {self.workers}", "give 0 (none beside the training) or more")


@dataclass(frozen=True)
class TuningConfig:
    """Fine-tuning after compression (see ``compress/finetune.py``).

    Args:
        photos: Folder of sharp photographs to tune on; None takes the shipped calibration split.
        evaluation: Folder of pairs or photographs that figures are quoted on; None takes the shipped evaluation split.
        shake: The blur that the photographs are given.
        fit: The schedule.
    """

    photos: str | None = None
    evaluation: str | None = None
    shake: ShakeConfig = ShakeConfig()
    fit: FitConfig = FitConfig(400, batch=4, crop=128, lr=5e-4, lr_final=1e-6, warmup=20, ema_decay=0.99)


@dataclass(frozen=True)
class PruneConfig:
    """Channel pruning (see ``compress/prune.py``).

    Args:
        keep: Share of the channels to keep, in (0, 1]. At most one of ``keep``, ``macs`` and ``params`` is given; with
            none, 0.7 of the channels are kept.
        macs: Share of the multiply-accumulates to keep at most.
        params: Share of the parameters to keep at most.
        round_to: Kept channels are rounded down to a multiple of this; no group gets less than one multiple.
        importance: What makes a channel strong: mean magnitude (l1) or square (l2) of its weights, or the loss that
            they stand for (taylor).
        scope: ``local`` keeps the same share of every group; under ``global`` the channels of all groups compete.
        allocation: ``sensitivity`` takes channels where a scan says that they cost the least dB (see
            ``compress/sensitivity.py``).
        rounds: In how many goes channels are removed; the fine-tuning steps are shared out over them.
        scan_images: Photographs that a scan evaluates on.
        scan_size: Largest side of the middle of each that it looks at, in pixels.
        tuning: The fine-tuning that follows.
    """

    keep: float | None = None
    macs: float | None = None
    params: float | None = None
    round_to: int = 8
    importance: Literal["l1", "l2", "taylor"] = "l2"
    scope: Literal["local", "global"] = "local"
    allocation: Literal["uniform", "sensitivity"] = "uniform"
    rounds: int = 1
    scan_images: int = 4
    scan_size: int = 256
    tuning: TuningConfig = TuningConfig()

    def __post_init__(self) -> None:
        budgets = {kind: share for kind in _BUDGETS if (share := getattr(self, kind)) is not None}
        for kind, share in budgets.items():
            _require(0 < share <= 1, f"{kind} is {share}", "give a share in (0, 1], such as 0.7 to keep 70 %")
        _require(len(budgets) <= 1, f"there are {len(budgets)} budgets: {', '.join(budgets)}", "give one of them")
        _require(self.round_to >= 1, f"round_to is {self.round_to}", "give 8 for tensor cores, or 1 for no rounding")
        for name, known in _PRUNING_CHOICES.items():
            _require(getattr(self, name) in known, f"{name} is {getattr(self, name)!r}", f"give {' or '.join(known)}")
        both = self.scope == "global" and self.allocation == "sensitivity"
        _require(not both, "scope global and allocation sensitivity both share channels out", "give one of them")
        _require(self.rounds >= 1, f"rounds is {self.rounds}", "give 1 (all at once) or more")
        _require(self.scan_images >= 1, f"scan_images is {self.scan_images}", "give 1 or more, such as 4")
        _require(self.scan_size >= 16, f"scan_size is {self.scan_size}", "give 16 or more, such as 256")

    @property
    def budget(self) -> tuple[Budget, float]:
        """What is limited, and to which share."""
        return next(((name, share) for name in _BUDGETS if (share := getattr(self, name)) is not None), ("keep", 0.7))


@dataclass(frozen=True)
class QatConfig:
    """Quantization-aware training (see ``compress/quantize.py``).

    Args:
        exempt: Further layers that stay in float, beside the first, the last and those that predict offsets.
        include: Layers of those three kinds to quantize all the same.
        format: ``int8``, or ``fp8`` (E4M3); ``weights_only`` leaves activations in float.
        calibrator: How ranges are found on ``calibration_images`` photographs (see ``compress/calibration.py``).
        max_drop: Most dB that may be lost against the float source; sensitive layers are exempted until it holds.
        freeze_share: Last share of the fine-tuning steps, in which the ranges no longer follow the network.
        tuning: The fine-tuning that follows.
    """

    exempt: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    format: Literal["int8", "fp8"] = "int8"
    weights_only: bool = False
    calibrator: Literal["max", "percentile", "entropy", "mse"] = "max"
    percentile: float = 99.99
    calibration_images: int = 8
    max_drop: float | None = None
    freeze_share: float = 0.5
    tuning: TuningConfig = TuningConfig(fit=FitConfig(200, 4, 128, lr=1e-4, lr_final=1e-6, warmup=20, ema_decay=0.99))

    def __post_init__(self) -> None:
        _require(50 < self.percentile <= 100, f"percentile is {self.percentile}", "give percent, such as 99.99")
        _require(self.calibration_images >= 1, f"calibration_images is {self.calibration_images}", "try 8")
        _require(self.max_drop is None or self.max_drop >= 0, f"max_drop is {self.max_drop}", "give dB, such as 0.2")
        _require(0 <= self.freeze_share <= 1, f"freeze_share is {self.freeze_share}", "give 0 to 1, such as 0.5")
        both = set(self.exempt) & set(self.include)
        _require(not both, f"exempt and include both name {both}", "name a layer in one of them")


@dataclass(frozen=True)
class ExportConfig:
    """The ONNX graph (see ``export/to_onnx.py``).

    Args:
        width: Width of the input in pixels.
        height: Height of the input in pixels.
    """

    width: int = 640
    height: int = 360

    def __post_init__(self) -> None:
        _require(self.width >= 1 and self.height >= 1, f"size is {self.width}x{self.height}", "try 640x360")


@dataclass(frozen=True)
class PrecisionConfig:
    """Typed float16 (see ``export/precision.py``).

    Args:
        keep_fp32: Names of ONNX nodes that stay float32; ``*`` stands for any text, as in ``/head/*``.
    """

    keep_fp32: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineConfig:
    """An engine (see ``engine/build.py``).

    Args:
        target: Card (``2080ti``), capability (``sm75``), ``portable`` or ``current``.
        flavour: The TensorRT that builds; ``auto`` takes TensorRT-RTX where it is installed.
        precision: What nine tenths of the arithmetic must be proven to run in. The types come from the ONNX file.
        workspace_bytes: Scratch memory that the engine may use, or None for the builder's default.
        optimization_level: How long the builder may search, 0 to 5, or None for its default.
    """

    target: str = "RTX 2080 Ti"
    flavour: Literal["auto", "rtx", "tensorrt"] = "auto"
    precision: Literal["fp16", "fp32"] = "fp16"
    workspace_bytes: int | None = None
    optimization_level: int | None = None

    def __post_init__(self) -> None:
        _require(
            self.flavour in ("auto", "rtx", "tensorrt"), f"flavour is {self.flavour!r}", "give auto, rtx or tensorrt"
        )
        _require(self.precision in ("fp16", "fp32"), f"precision is {self.precision!r}", "give fp16 or fp32")
        workspace, level = self.workspace_bytes, self.optimization_level
        _require(
            workspace is None or workspace > 0, f"workspace_bytes is {workspace}", "give bytes, such as 1073741824"
        )
        _require(level is None or 0 <= level <= 5, f"optimization_level is {level}", "give 0 (fast) to 5 (thorough)")
