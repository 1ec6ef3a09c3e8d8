"""Settings of every stage: frozen dataclasses that check themselves."""

from deblur_deploy.config.compression import Budget, PruneConfig, QatConfig, TuningConfig
from deblur_deploy.config.deployment import (
    PLUGIN_WORDS,
    DeformOp,
    EngineConfig,
    ExportConfig,
    HardwareCompatibility,
    Io,
    PlanConfig,
    Precision,
    PrecisionConfig,
    ShapeConfig,
)
from deblur_deploy.config.training import (
    NO_AUGMENTATION,
    AugmentConfig,
    CameraConfig,
    FitConfig,
    LossConfig,
    RunConfig,
    ShakeConfig,
    TrainConfig,
)

__all__ = [
    "NO_AUGMENTATION",
    "PLUGIN_WORDS",
    "AugmentConfig",
    "Budget",
    "CameraConfig",
    "DeformOp",
    "EngineConfig",
    "ExportConfig",
    "FitConfig",
    "HardwareCompatibility",
    "Io",
    "LossConfig",
    "PlanConfig",
    "Precision",
    "PrecisionConfig",
    "PruneConfig",
    "QatConfig",
    "RunConfig",
    "ShakeConfig",
    "ShapeConfig",
    "TrainConfig",
    "TuningConfig",
]
