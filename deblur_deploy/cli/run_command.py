"""``deblur-deploy run``."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.export_trt_command import report_engine
from deblur_deploy.cli.options import RUNS, Json, Runs, claim
from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.files import check_writable
from deblur_deploy.core.sources import shipped_generator

if TYPE_CHECKING:
    from deblur_deploy.pipeline.recipe import Recipe


def command(
    recipe: Annotated[Path, typer.Argument(help="TOML file with a table for each stage, and budgets.")],
    source: Annotated[
        Path | None, typer.Option(help="Float checkpoint artifact, instead of the recipe's or the shipped generator.")
    ] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Run a recipe's stages, each once, and check its budgets; a second run goes on where it was."""
    from deblur_deploy.pipeline.budgets import check_budgets
    from deblur_deploy.pipeline.recipe import load_recipe

    output = Output(as_json)
    settings = load_recipe(recipe)
    if source is not None:
        settings = dataclasses.replace(settings, source=str(source))
    start = load_artifact(Path(settings.source)) if settings.source else shipped_generator()
    journey, quality, bench = follow(start, settings, runs / recipe.stem, output, recipe)
    check_budgets(settings.budget, journey, quality, bench)


def follow(
    start: Artifact, recipe: Recipe, directory: Path, output: Output, recipe_file: Path | None = None
) -> tuple[Any, dict[str, Any], Any]:
    """Run every stage, measure what came out, and print it.

    Args:
        start: The float checkpoint.
        recipe: Which stages, and their settings.
        directory: Where everything is written.
        output: Where to print.
        recipe_file: Where the recipe was read from, if it was.

    Returns:
        The journey, its quality, and its latencies or None (see ``findings.py``).
    """
    from deblur_deploy.pipeline import findings
    from deblur_deploy.pipeline.stages import travel

    started = time.perf_counter()
    output.say(f"source    {start.directory}")
    check_writable(directory)
    claim(directory)
    journey = travel(start, recipe, directory, output, recipe_file)
    quality = findings.read_quality(journey)
    timing = dataclasses.replace(recipe.bench, resolution=recipe.resolution) if recipe.bench else None
    bench = findings.measure_latency(journey, timing, directory, output) if timing else None
    columns, rows = findings.headings(bench), findings.summary_rows(journey, quality, bench)
    output.say("")
    output.table(columns, rows)
    output.say("")
    output.say(f"blurred input {quality['blurred_db']:.2f} dB, mean of {quality['images']} photographs")
    if (
        recipe.photos
        and recipe.pairs_folder == Path(recipe.photos)
        and not (recipe.pairs_folder / "set.toml").is_file()
    ):
        output.say("note      tuned and evaluated on the same photographs (a set.toml would split them)")
    for row in bench["results"] if bench else ():
        if row["skipped"]:
            output.say(f"skipped   {Path(row['artifact']).name} on {row['runtime']}: {row['skipped']}")
    if journey.engine:
        report_engine(output, journey.engine)
        output.say(f"          {journey.engine.path}")
    findings.write_summary(directory / "summary.md", columns, rows, quality)
    output.say(f"table     {directory / 'summary.md'}")
    page = findings.write_page(journey, recipe, bench, directory, output)
    output.say(f"finished in {time.perf_counter() - started:.0f} s")
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    output.emit({"rows": table, "quality": quality, "bench": bench, "report": str(page) if page else None})
    return journey, quality, bench
