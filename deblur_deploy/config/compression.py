"""Settings of compression: pruning, quantization, and the fine-tuning that follows either."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from deblur_deploy.config.training import CameraConfig, FitConfig, ShakeConfig, require_path_fits
from deblur_deploy.core.errors import require

Budget = Literal["keep", "macs", "params"]
"""What pruning can limit: channels, multiply-accumulates, or parameters."""

REDUCED_CODE = 64
"""Largest code of an INT8 weight of a reduced range: 64 * 255 + 64 * 255 still fits into 16 bits with a sign."""

_PRUNING_CHOICES = {
    "importance": ("taylor", "l1", "l2"),
    "scope": ("local", "global"),
    "allocation": ("uniform", "sensitivity"),
}

_BUDGETS: tuple[Budget, ...] = ("keep", "macs", "params")


@dataclass(frozen=True)
class TuningConfig:
    """Fine-tuning after compression (see ``compress/finetune.py``).

    Args:
        photos: Folder of sharp photographs to tune on; None takes the shipped calibration split.
        evaluation: Folder of pairs or photographs that figures are quoted on; None takes the shipped evaluation split.
        shake: The blur that the photographs are given.
        fit: The schedule.
        camera: Blur as cameras make it, instead of ``shake``.
    """

    photos: str | None = None
    evaluation: str | None = None
    shake: ShakeConfig = field(default=ShakeConfig())
    fit: FitConfig = field(default=FitConfig(400, batch=4, crop=128, lr=5e-4, lr_final=1e-6, warmup=20, ema_decay=0.99))
    camera: CameraConfig | None = None

    def __post_init__(self) -> None:
        require_path_fits(self.blur, self.fit)

    @property
    def blur(self) -> ShakeConfig | CameraConfig:
        """The blur that is used."""
        return self.camera or self.shake


@dataclass(frozen=True)
class PruneConfig:
    """Channel pruning (see ``compress/prune.py``).

    Args:
        keep: Share of the channels to keep, in (0, 1]. At most one of ``keep``, ``macs`` and ``params`` is given; with
            none, 0.7 of the channels are kept.
        macs: Share of the multiply-accumulates to keep at most.
        params: Share of the parameters to keep at most.
        round_to: Kept channels are rounded down to a multiple of this; no group gets less than one multiple.
        importance: What makes a channel strong: the loss that its weights stand for (taylor), or their mean magnitude
            (l1) or square (l2).
        scope: ``local`` keeps the same share of every group; under ``global`` the channels of all groups compete.
        allocation: ``sensitivity`` takes channels where a scan says that they change the picture least (see
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
    importance: Literal["taylor", "l1", "l2"] = "taylor"
    scope: Literal["local", "global"] = "local"
    allocation: Literal["uniform", "sensitivity"] = "uniform"
    rounds: int = 1
    scan_images: int = 4
    scan_size: int = 256
    tuning: TuningConfig = TuningConfig()

    def __post_init__(self) -> None:
        budgets = {kind: share for kind in _BUDGETS if (share := getattr(self, kind)) is not None}
        for kind, share in budgets.items():
            require(0 < share <= 1, f"{kind} is {share}", "give a share in (0, 1], such as 0.7 to keep 70 %")
        require(len(budgets) <= 1, f"there are {len(budgets)} budgets: {', '.join(budgets)}", "give one of them")
        require(self.round_to >= 1, f"round_to is {self.round_to}", "give 8 for tensor cores, or 1 for no rounding")
        for name, known in _PRUNING_CHOICES.items():
            require(getattr(self, name) in known, f"{name} is {getattr(self, name)!r}", f"give {' or '.join(known)}")
        both = self.scope == "global" and self.allocation == "sensitivity"
        require(not both, "scope global and allocation sensitivity both distribute channels", "give one of them")
        require(self.rounds >= 1, f"rounds is {self.rounds}", "give 1 (all at once) or more")
        require(self.scan_images >= 1, f"scan_images is {self.scan_images}", "give 1 or more, such as 4")
        require(self.scan_size >= 16, f"scan_size is {self.scan_size}", "give 16 or more, such as 256")

    @property
    def budget(self) -> tuple[Budget, float]:
        """What is limited, and to which share."""
        return next(((name, share) for name in _BUDGETS if (share := getattr(self, name)) is not None), ("keep", 0.7))


@dataclass(frozen=True)
class FrameTimeConfig:
    """Pruning to a frame time instead of a share (see ``compress/frame_budget.py``).

    Args:
        max_ms: Most that a frame may take, in milliseconds.
        runtime: What it is timed in.
        int8: Whether it is timed as it will run after quantization.
        width: Width of the frame in pixels.
        height: Height of the frame in pixels.
        prune: Importance, rounding, scan and fine-tuning; it has no budget of its own.
    """

    max_ms: float
    runtime: str = "openvino"
    int8: bool = False
    width: int = 640
    height: int = 360
    prune: PruneConfig = PruneConfig()

    def __post_init__(self) -> None:
        require(0 < self.max_ms < math.inf, f"max_ms is {self.max_ms}", "give milliseconds for a frame, such as 22")
        size = f"the frame is {self.width}x{self.height}"
        require(self.width >= 1 and self.height >= 1, size, "give a size such as 640x360")
        shares = [name for name in _BUDGETS if getattr(self.prune, name) is not None]
        require(not shares, f"there is a frame time and {', '.join(shares)}", "give one of them")
        require(self.prune.rounds == 1, "a frame time is met in one round", "leave --rounds out")


@dataclass(frozen=True)
class QatConfig:
    """Quantization-aware training (see ``compress/quantize.py``).

    Args:
        exempt: Further layers that stay in float, besides the first, the last and those that predict offsets.
        include: Layers of those three kinds to quantize all the same.
        format: ``int8``, or ``fp8`` (E4M3); ``weights_only`` leaves activations in float.
        reduce_range: Codes of INT8 weights stay within ±64, with which processors without VNNI multiply exactly.
        calibrator: How ranges are found on ``calibration_images`` photographs (see ``compress/calibration.py``).
        max_drop: Most dB that may be lost against the float source; sensitive layers are exempted until it holds.
        freeze_share: Last share of the fine-tuning steps, in which the ranges no longer follow the network.
        tuning: The fine-tuning that follows.
    """

    exempt: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    format: Literal["int8", "fp8"] = "int8"
    weights_only: bool = False
    reduce_range: bool = True
    calibrator: Literal["max", "percentile", "entropy", "mse"] = "max"
    percentile: float = 99.99
    calibration_images: int = 8
    max_drop: float | None = None
    freeze_share: float = 0.5
    tuning: TuningConfig = TuningConfig(fit=FitConfig(200, 4, 128, lr=1e-4, lr_final=1e-6, warmup=20, ema_decay=0.99))

    def __post_init__(self) -> None:
        require(50 < self.percentile <= 100, f"percentile is {self.percentile}", "give percent, such as 99.99")
        require(self.calibration_images >= 1, f"calibration_images is {self.calibration_images}", "try 8")
        require(self.max_drop is None or self.max_drop >= 0, f"max_drop is {self.max_drop}", "give dB, such as 0.2")
        require(0 <= self.freeze_share <= 1, f"freeze_share is {self.freeze_share}", "give 0 to 1, such as 0.5")
        both = set(self.exempt) & set(self.include)
        require(not both, f"exempt and include both name {both}", "name a layer in one of them")
