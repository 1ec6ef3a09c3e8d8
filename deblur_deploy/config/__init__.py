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
from deblur_deploy.config.precisions import (
    DEFAULT_PRECISION,
    PRECISIONS,
    PrecisionRow,
    listed_precisions,
    load_converter,
    precision_of_stage,
    precision_of_type,
)
from deblur_deploy.config.training import (
    NO_AUGMENTATION,
    AugmentConfig,
    FitConfig,
    LossConfig,
    RunConfig,
    ShakeConfig,
    TrainConfig,
)

__all__ = [
    "DEFAULT_PRECISION",
    "NO_AUGMENTATION",
    "PLUGIN_WORDS",
    "PRECISIONS",
    "AugmentConfig",
    "Budget",
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
    "PrecisionRow",
    "PruneConfig",
    "QatConfig",
    "RunConfig",
    "ShakeConfig",
    "ShapeConfig",
    "TrainConfig",
    "TuningConfig",
    "listed_precisions",
    "load_converter",
    "precision_of_stage",
    "precision_of_type",
]
