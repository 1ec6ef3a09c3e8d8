"""Settings of training: the blur, the schedule, the losses, and how a run is carried out."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from deblur_deploy.config.unpaired import UnpairedConfig
from deblur_deploy.core.errors import require

Range = tuple[float, float]

CROP_MULTIPLE = 16
"""What the sides of training crops divide by."""


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
        require(0 <= low <= high < math.inf, f"length_px is {self.length_px}", "give a range such as [3.0, 12.0]")
        require(1 <= self.frames[0] <= self.frames[1], f"frames is {self.frames}", "give a range such as [16, 24]")
        require(self.roll_deg >= 0, f"roll_deg is {self.roll_deg}", "give 0 (no roll) or more, such as 0.3")
        require(self.turn_rad >= 0, f"turn_rad is {self.turn_rad}", "give 0 (straight) or more, such as 0.25")
        require(self.highlight_gain >= 0, f"highlight_gain is {self.highlight_gain}", "give 0 (off) or more")
        require(self.read_noise >= 0, f"read_noise is {self.read_noise}", "give 0 or more, such as 0.001")
        require(0 <= self.foreground_probability <= 1, "foreground_probability is outside 0 to 1", "try 0.2")
        require(0 < self.photons[0] <= self.photons[1], f"photons is {self.photons}", "try [10000, 50000]")


@dataclass(frozen=True)
class CameraConfig:
    """Blur as cameras make it (see ``data/camera.py``).

    Args:
        length_px: Range of the diagonal of a path's bounding box, in pixels.
        bend_rad: Standard deviation of the change of heading over one exposure, in radians.
        roll_deg: Largest roll of the camera during one exposure, in degrees.
        parallax: Up to which share far parts of the scene move less than near ones.
        objects: Range of the number of objects that move on paths of their own.
        discrete_share: Share of exposures that are made of few frames, as those of high-speed cameras are.
        discrete_frames: Range of their number; other exposures have a frame for every pixel of their path.
        code_share: Share of exposures that are averaged in code values, as in GoPro's and REDS's ``blur``.
        response: Range of the exponent between codes and light of the others.
        highlight_gain: How far clipped highlights are brightened before averaging, in linear light.
        photons: Range of photons at full scale; fewer is noisier.
        read_noise: Standard deviation of read noise, as a share of full scale.
        sharpen_share: Share of exposures that are sharpened slightly.
        jpeg_share: Share of exposures that go through JPEG.
        jpeg_quality: Range of its quality.
    """

    length_px: Range = (2.0, 30.0)
    bend_rad: float = 0.9
    roll_deg: float = 0.5
    parallax: float = 0.6
    objects: tuple[int, int] = (0, 2)
    discrete_share: float = 0.3
    discrete_frames: tuple[int, int] = (7, 13)
    code_share: float = 0.45
    response: Range = (1.8, 3.6)
    highlight_gain: float = 1.0
    photons: Range = (3_000.0, 60_000.0)
    read_noise: float = 0.002
    sharpen_share: float = 0.2
    jpeg_share: float = 0.3
    jpeg_quality: tuple[int, int] = (70, 100)

    def __post_init__(self) -> None:
        low, high = self.length_px
        require(0 <= low <= high < math.inf, f"length_px is {self.length_px}", "give a range such as [2.0, 30.0]")
        require(1 <= self.response[0] <= self.response[1], f"response is {self.response}", "try [1.8, 3.6]")
        require(0 < self.photons[0] <= self.photons[1], f"photons is {self.photons}", "try [3000, 60000]")
        frames, objects, quality = self.discrete_frames, self.objects, self.jpeg_quality
        require(2 <= frames[0] <= frames[1], f"discrete_frames is {frames}", "give a range such as [7, 13]")
        require(0 <= objects[0] <= objects[1], f"objects is {objects}", "give a range such as [0, 2]")
        require(1 <= quality[0] <= quality[1] <= 100, f"jpeg_quality is {quality}", "give a range such as [70, 100]")
        for name in ("parallax", "discrete_share", "code_share", "sharpen_share", "jpeg_share"):
            share = getattr(self, name)
            require(0 <= share <= 1, f"{name} is {share}", "give 0 (never) to 1")
        for name in ("bend_rad", "roll_deg", "highlight_gain", "read_noise"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"{name} is {value}", "give 0 (none) or more")


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
        feature_weight: Weight of the distance to its features (see ``training/losses.py``).
        precision: ``bfloat16`` runs the network under autocast, weights staying float32. ``fastest`` does so wherever
            it is computed in hardware: on GPUs, and on processors with AVX512-BF16 or AMX, so its result depends on the
            processor's model. ``auto`` does so on GPUs alone: one seed gives one result on all processors.
        seed: Seed of crops, blur and augmentation.
        stop_at: Step behind which the run ends all the same, its rates being those of the whole schedule; None is the
            last.
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
    precision: Literal["auto", "fastest", "float32", "bfloat16"] = "auto"
    seed: int = 0
    stop_at: int | None = None

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"steps is {self.steps}", "give 0 or more optimiser steps")
        stops = self.stop_at is None or 1 <= self.stop_at <= self.steps
        require(stops, f"stop_at is {self.stop_at}", f"give 1 to {self.steps}, the steps, or leave it out")
        require(self.batch >= 1, f"batch is {self.batch}", "give at least one crop per step")
        fits = self.crop >= CROP_MULTIPLE and self.crop % CROP_MULTIPLE == 0
        require(fits, f"crop is {self.crop}", f"give a multiple of {CROP_MULTIPLE}, such as 128")
        require(self.candidates >= 1, f"candidates is {self.candidates}", "give 1 (take what comes) or more")
        rates = f"lr is {self.lr} and lr_final {self.lr_final}"
        require(0 < self.lr_final <= self.lr < math.inf, rates, "try 2e-4 and 1e-7")
        require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}", "give 0 (off) or more")
        require(self.warmup >= 0, f"warmup is {self.warmup}", "give 0 or more steps")
        require(self.clip_norm > 0, f"clip_norm is {self.clip_norm}", "give more than 0, such as 1.0")
        for name in ("coarse_weight", "distill_weight", "feature_weight"):
            weight = getattr(self, name)
            require(0 <= weight < math.inf, f"{name} is {weight}", "give 0 (off) or more, such as 0.5")
        require(self.seed >= 0, f"seed is {self.seed}", "give 0 or more")
        require(0 <= self.ema_decay < 1, f"ema_decay is {self.ema_decay}", "give 0 (off) to 0.9999")

    @property
    def last_step(self) -> int:
        """The step that a run ends with."""
        return self.steps if self.stop_at is None else self.stop_at


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
            require(value >= 0, f"{field.name} is {value}", "a weight is 0 (off) or more")
        seen = self.content + self.perceptual + self.frequency
        require(seen > 0, "no loss looks at the sharp picture", "set content = 1.0 under [loss]")


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
            require(0 <= value < 1, f"{name} is {value}", "give 0 (off) to below 1, such as 0.2")
        require(0 <= self.linear_share <= 1, f"linear_share is {self.linear_share}", "give 0 (off) to 1")
        require(0 < self.linear_px[0] <= self.linear_px[1], f"linear_px is {self.linear_px}", "try [5.0, 30.0]")


@dataclass(frozen=True)
class ClipConfig:
    """Clips on which a temporal network trains (see ``data/clips.py``).

    Args:
        frames: Length of a clip.
        exposure: Range of the share of the time from one frame to the next in which the shutter is open.
        consistency: Weight of the flicker (see ``training/clip_loss.py``).
    """

    frames: int = 4
    exposure: Range = (0.4, 1.0)
    consistency: float = 0.5

    def __post_init__(self) -> None:
        require(self.frames >= 2, f"frames is {self.frames}", "a clip has 2 frames or more")
        low, high = self.exposure
        require(0 < low <= high <= 1, f"exposure is {self.exposure}", "give a range such as [0.4, 1.0]")
        require(0 <= self.consistency < math.inf, f"consistency is {self.consistency}", "give 0 (off) or more")


NO_AUGMENTATION = AugmentConfig(brightness=0.0, contrast=0.0, linear_share=0.0)
"""Flips and turns alone."""


def require_path_fits(blur: ShakeConfig | CameraConfig, fit: FitConfig) -> None:
    """Refuse paths that lead out of the crops: what the blurred pixels came from is then in none of them.

    Raises:
        ConfigError: The longest path is longer than a crop's side.
    """
    longest = blur.length_px[1]
    roomy = math.ceil(4 * longest / CROP_MULTIPLE) * CROP_MULTIPLE
    require(
        longest <= fit.crop,
        f"paths of up to {longest:g} px do not fit into crops of {fit.crop} px",
        f"give crops of {roomy} px or more, or shorter paths",
    )


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
        stem: Side of the blocks of pixels that the first convolution sees as one; None keeps that of the
            network to start from, and is 1 where there is none.
        camera: Blur as cameras make it, instead of ``shake``.
        clip: Trains a temporal network on clips with the camera's blur, or on films of pairs.
        unpaired: Blurred footage without sharp partners to train on, instead of blur that is made; ``photos`` are then
            sharp pictures of anything.
    """

    photos: str | None = None
    epochs: int | None = None
    base: int | None = None
    depths: tuple[int, int, int] | None = None
    shake: ShakeConfig = ShakeConfig()
    augment: AugmentConfig = AugmentConfig()
    fit: FitConfig = FitConfig()
    loss: LossConfig = LossConfig()
    stem: int | None = None
    camera: CameraConfig | None = None
    clip: ClipConfig | None = None
    unpaired: UnpairedConfig | None = None

    def __post_init__(self) -> None:
        require(self.base is None or self.base >= 1, f"base is {self.base}", "give 1 or more, such as 24")
        require(self.stem is None or self.stem in (1, 2, 4), f"stem is {self.stem}", "give 1, 2 or 4")
        require(
            self.camera is None or self.shake == ShakeConfig(),
            "the recipe has both [shake] and [camera]",
            "give one of the two blurs",
        )
        if self.clip is not None:
            require(self.unpaired is None, "the recipe has both [clip] and [unpaired]", "train one after the other")
            require(self.camera is not None, "the recipe has [clip] and no [camera]", "clips have the camera's blur")
            seen = self.loss.perceptual + self.loss.adversarial
            require(seen == 0, "clips train without VGG19 and discriminator", "set perceptual and adversarial to 0")
            plain = self.augment == NO_AUGMENTATION
            require(plain, "clips are mirrored and turned alone", "set brightness and contrast to 0.0")
        shallow = self.depths is not None and min(self.depths) < 0
        require(not shallow, f"depths is {self.depths}", "give 0 or more for each level, such as [2, 2, 1]")
        require_path_fits(self.blur, self.fit)
        require(self.epochs is None or self.epochs >= 1, f"epochs is {self.epochs}", "give 1 or more, or fit.steps")

    @property
    def blur(self) -> ShakeConfig | CameraConfig:
        """The blur that sharp photographs are given."""
        return self.camera or self.shake


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
        require(self.save_minutes >= 0, f"save_minutes is {self.save_minutes}", "give 0 (every step) or more")
        require(self.workers >= 0, f"workers is {self.workers}", "give 0 (none beside the training) or more")
