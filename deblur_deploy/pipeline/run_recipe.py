"""A recipe from its first stage to the report of the run: what ``deblur-deploy run`` and ``demo`` do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.files import check_writable
from deblur_deploy.core.lock import locked
from deblur_deploy.core.sources import shipped_generator
from deblur_deploy.pipeline import findings
from deblur_deploy.pipeline.budgets import check_budgets
from deblur_deploy.pipeline.recipe import Recipe, load_recipe
from deblur_deploy.pipeline.run_stages import RunArtifacts, RunProgress, Silent, run_stages
from deblur_deploy.quality.gain import format_db


@dataclass(frozen=True)
class RunResult:
    """What came out of a run.

    Args:
        made: The artifacts of every stage.
        quality: ``images``, ``blurred_db``, and by stage ``psnr_db`` and ``gain_kept``.
        bench: The object that ``deblur-deploy bench --json`` prints; None where the recipe times nothing.
        columns: Headings of the summary.
        rows: The summary, one row for each stage.
        report: The page with photographs and charts; None without Matplotlib.
    """

    made: RunArtifacts
    quality: dict[str, Any]
    bench: dict[str, Any] | None
    columns: tuple[str, ...]
    rows: list[list[str]]
    report: Path | None


def run_recipe(
    recipe: Recipe | Path | str,
    directory: Path | str | None = None,
    *,
    source: Artifact | Path | str | None = None,
    progress: RunProgress | None = None,
) -> RunResult:
    """Run a recipe's stages, each once, measure what came out, and check its budgets.

    A second run in the same directory goes on where the first one ended.

    Args:
        recipe: A recipe, or the TOML file that holds one.
        directory: Where everything is written. None takes ``runs/NAME`` for a file ``NAME.toml``.
        source: Float checkpoint artifact, instead of the recipe's or the shipped generator.
        progress: Where to say what happens; None is silent.

    Raises:
        BudgetError: A budget is missed; everything is kept.
        ConfigError: The recipe cannot be used, or a recipe that is not a file was given without a directory.
        DeblurDeployError: A stage failed; the artifacts of the stages before it are kept.
    """
    file = None if isinstance(recipe, Recipe) else Path(recipe)
    settings = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe))
    if directory is None:
        if file is None:
            raise ConfigError("a recipe that is not a file needs a directory", hint="name one, such as 'runs/mine'")
        directory = Path("runs") / file.stem
    start = source if isinstance(source, Artifact) else _source(source or settings.source)
    result = follow_recipe(start, settings, Path(directory), progress or Silent(), file)
    check_budgets(settings.budget, result.made, result.quality, result.bench)
    return result


def follow_recipe(
    start: Artifact, recipe: Recipe, directory: Path, progress: RunProgress, recipe_file: Path | None = None
) -> RunResult:
    """Run every stage and measure what came out; budgets are not checked.

    Args:
        start: The float checkpoint.
        recipe: Which stages, and their settings.
        directory: Where everything is written; it is locked meanwhile.
        progress: Where to say what happens.
        recipe_file: Where the recipe was read from, if it was.

    Raises:
        DeblurDeployError: A stage failed; the artifacts of the stages before it are kept.
    """
    check_writable(directory)
    with locked(directory):
        progress.say(f"source    {start.directory}")
        made = run_stages(start, recipe, directory, progress, recipe_file)
        quality = findings.read_quality(made)
        timing = dataclasses.replace(recipe.bench, resolution=recipe.resolution) if recipe.bench else None
        bench = findings.measure_latency(made, timing, directory, progress) if timing else None
        columns, rows = findings.headings(bench), findings.summary_rows(made, quality, bench)
        progress.say("")
        progress.table(columns, rows)
        progress.say("")
        _say_notes(recipe, quality, bench, progress)
        findings.write_summary(directory / "summary.md", columns, rows, quality)
        progress.say(f"table     {directory / 'summary.md'}")
        page = findings.write_page(made, recipe, bench, directory, progress)
    return RunResult(made, quality, bench, columns, rows, page)


def _source(path: Path | str | None) -> Artifact:
    return load_artifact(Path(path)) if path else shipped_generator()


def _say_notes(recipe: Recipe, quality: dict[str, Any], bench: dict[str, Any] | None, progress: RunProgress) -> None:
    """What must be known to read the table."""
    progress.say(f"blurred input {format_db(quality['blurred_db'])} dB, mean of {quality['images']} photographs")
    folder = recipe.pairs_folder
    if recipe.photos and folder == Path(recipe.photos) and not (folder / "set.toml").is_file():
        progress.say("note      tuned and evaluated on the same photographs (a set.toml would split them)")
    for row in bench["results"] if bench else ():
        if row["skipped"]:
            progress.say(f"skipped   {Path(row['artifact']).name} on {row['runtime']}: {row['skipped']}")
