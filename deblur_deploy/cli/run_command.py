"""``deblur-deploy run``."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.export_trt_command import report_engine
from deblur_deploy.cli.options import RUNS, Json, Runs
from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.sources import shipped_generator

if TYPE_CHECKING:
    from deblur_deploy.pipeline.recipe import Recipe
    from deblur_deploy.pipeline.run_recipe import RunResult


def command(
    recipe: Annotated[Path, typer.Argument(help="TOML file with a table for each stage, and budgets.")],
    source: Annotated[
        Path | None, typer.Option(help="Float checkpoint artifact, instead of the recipe's or the shipped generator.")
    ] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Run a recipe's stages, each once, and check its budgets; a second run continues where the first stopped."""
    from deblur_deploy.pipeline.budgets import check_budgets
    from deblur_deploy.pipeline.recipe import load_recipe

    output = Output(as_json)
    settings = load_recipe(recipe)
    if source is not None:
        settings = dataclasses.replace(settings, source=str(source))
    start = load_artifact(Path(settings.source)) if settings.source else shipped_generator()
    result = follow(start, settings, runs / recipe.stem, output, recipe)
    check_budgets(settings.budget, result.made, result.quality, result.bench)


def follow(
    start: Artifact, recipe: Recipe, directory: Path, output: Output, recipe_file: Path | None = None
) -> RunResult:
    """Run every stage, measure what came out, and print it; arguments as :func:`follow_recipe` has them."""
    from deblur_deploy.pipeline.run_recipe import follow_recipe

    started = time.perf_counter()
    result = follow_recipe(start, recipe, directory, output, recipe_file)
    if engine := result.made.engine:
        report_engine(output, engine)
        output.say(f"          {engine.path}")
    output.say(f"finished in {time.perf_counter() - started:.0f} s")
    table = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    report = str(result.report) if result.report else None
    output.emit({"rows": table, "quality": result.quality, "bench": result.bench, "report": report})
    return result
