"""Recipes: a whole way from a generator to an engine as one TOML file, with budgets that it must keep."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from deblur_deploy.bench.measure import BenchConfig
from deblur_deploy.config import (
    PLUGIN_WORDS,
    EngineConfig,
    ExportConfig,
    PlanConfig,
    PrecisionConfig,
    PruneConfig,
    QatConfig,
    TuningConfig,
)
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.tables import load_settings

C = TypeVar("C", PruneConfig, QatConfig)
S = TypeVar("S", "Recipe", TuningConfig, ExportConfig, PrecisionConfig, EngineConfig, PlanConfig)


@dataclass(frozen=True)
class Budget:
    """What compression may cost and must buy; None is not checked.

    Args:
        max_drop_db: PSNR that the last ONNX file may have lost against the original's, in dB.
        max_size_ratio: Size of the last ONNX file over the original's.
        min_speedup: Latency of the original over that of the last ONNX file, each on its fastest runtime.
        min_gain_kept: Share of the original's gain over the blurred input that the last ONNX file must keep. It is
            missed too where that gain is too small to take a share of (see ``gain.py``).
    """

    max_drop_db: float | None = None
    max_size_ratio: float | None = None
    min_speedup: float | None = None
    min_gain_kept: float | None = None

    def __post_init__(self) -> None:
        for limit in dataclasses.fields(self):
            value = getattr(self, limit.name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{limit.name} is {value}", hint="give 0 or more, or leave it out")
        if self.min_gain_kept is not None and self.min_gain_kept > 1:
            raise ConfigError(f"min_gain_kept is {self.min_gain_kept}", hint="give a share, such as 0.9 for 90 %")


@dataclass(frozen=True)
class Recipe:
    """The stages of a run, in the order in which they follow each other; a stage without settings is left out.

    Args:
        source: Float checkpoint artifact, relative to the recipe; None takes the shipped generator.
        photos: Folder of sharp photographs or pairs for tuning, relative to the recipe; None takes the shipped ones.
        evaluation: Folder for evaluation; None takes the shipped pairs, or ``photos`` where those are given.
        prune: Channel pruning.
        qat: Quantization-aware training.
        export: Size of the graphs.
        fp16: The typed FP16 graph that an FP16 engine is built from.
        engine: The engine; it needs ``fp16`` where its precision is fp16.
        bench: The latency table; its frame has the size of the graphs.
        budget: What must hold in the end.
    """

    source: str | None = None
    photos: str | None = None
    evaluation: str | None = None
    prune: PruneConfig | None = None
    qat: QatConfig | None = None
    export: ExportConfig = field(default=ExportConfig())
    fp16: PrecisionConfig | None = None
    engine: EngineConfig | None = None
    bench: BenchConfig | None = None
    budget: Budget = field(default=Budget())

    def __post_init__(self) -> None:
        if self.engine and self.engine.precision == "fp16" and self.fp16 is None:
            raise ConfigError("an FP16 engine is built from a typed FP16 graph", hint="add an empty table [fp16]")
        if self.engine and self.engine.precision == "fp32" and self.qat is not None:
            raise ConfigError("an FP32 engine cannot follow [qat]", hint='leave out [qat], or set precision = "fp16"')
        if self.engine and self.engine.precision != "fp16" and self.fp16 is not None:
            name = self.engine.precision.upper()
            raise ConfigError(f"an {name} engine cannot be built from a typed FP16 graph", hint="leave out [fp16]")
        if self.engine:
            self._check_buildable(self.engine)
        if self.engine and self.engine.precision in ("int8", "fp8"):
            self._check_quantized(self.engine.precision)
        if self.budget.min_speedup is not None and self.bench is None:
            raise ConfigError("min_speedup needs a latency table", hint="add an empty table [bench]")

    def _check_buildable(self, engine: EngineConfig) -> None:
        """The stages before an engine must give it its types and its sizes."""
        if engine.precision == "bf16":
            raise ConfigError(
                "a recipe has no stage that writes bfloat16 types",
                hint="leave out [engine], and build it from the run's ONNX file: `deblur-deploy export-trt --bf16`",
            )
        shapes = engine.shapes
        if self.export.dynamic and not shapes.res and shapes.max_res is None:
            raise ConfigError(
                "the graph takes pictures of any size, and an engine must know which",
                hint='name sizes in [engine.shapes], such as res = ["640x360"], or leave out export.dynamic',
            )
        if not self.export.dynamic and not shapes.is_one_picture:
            raise ConfigError(
                "several sizes or pictures at a time were asked for, which the graph does not leave free",
                hint="set dynamic = true in [export]",
            )

    def _check_quantized(self, precision: str) -> None:
        """An engine of 8-bit types is built from a network that was quantized to them."""
        if self.qat is None or self.qat.format != precision or self.qat.weights_only:
            raise ConfigError(
                f"an {precision.upper()} engine is built from a network quantized to it",
                hint=f'add a table [qat] with format = "{precision}", and without weights_only',
            )

    @property
    def pairs_folder(self) -> Path | None:
        """Folder that quality is measured on; None is the shipped pairs."""
        folder = self.evaluation or self.photos
        return Path(folder) if folder else None

    @property
    def resolution(self) -> Resolution:
        """Size of the graphs and of the timed frame."""
        return Resolution(self.export.width, self.export.height)

    def tuned_on_own_photos(self, config: C) -> C:
        """A stage's settings with the run's photographs, where the run names any."""
        photos = config.tuning.photos or self.photos
        evaluation = config.tuning.evaluation or self.evaluation or self.photos
        return dataclasses.replace(
            config, tuning=dataclasses.replace(config.tuning, photos=photos, evaluation=evaluation)
        )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; every file and folder that it names is taken relative to it.

    Raises:
        ConfigError: The file is missing, not TOML, or has fields that cannot be used.
    """
    recipe = load_settings(Recipe, path)

    def tuned(config: C | None) -> C | None:
        return config and dataclasses.replace(config, tuning=_beside(path, config.tuning, "photos", "evaluation"))

    return dataclasses.replace(
        _beside(path, recipe, "source", "photos", "evaluation"),
        prune=tuned(recipe.prune),
        qat=tuned(recipe.qat),
        export=_beside(path, recipe.export, "evaluation"),
        fp16=recipe.fp16 and _beside(path, recipe.fp16, "evaluation", "calibration"),
        engine=recipe.engine and _engine_beside(path, recipe.engine),
    )


def _engine_beside(recipe: Path, engine: EngineConfig) -> EngineConfig:
    """An engine's settings with its files taken relative to the recipe."""
    plan = _beside(recipe, engine.plan, "timing_cache")
    if engine.plugin in PLUGIN_WORDS:
        return dataclasses.replace(engine, plan=plan)
    return dataclasses.replace(_beside(recipe, engine, "plugin"), plan=plan)


def _beside(recipe: Path, table: S, *names: str) -> S:
    """A table with the files and folders in these fields taken relative to the recipe's own."""
    folders: dict[str, Any] = {name: str(recipe.parent / value) for name in names if (value := getattr(table, name))}
    return dataclasses.replace(table, **folders)
