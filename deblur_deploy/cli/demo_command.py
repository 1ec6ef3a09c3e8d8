"""``deblur-deploy demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Runs, with_tuning
from deblur_deploy.cli.run_command import follow
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.sources import shipped_generator

if TYPE_CHECKING:
    from deblur_deploy.pipeline.recipe import Recipe


MACS = 0.45
"""Share of the multiply-accumulates to keep: what is left where every group keeps 70 % of its channels."""


def command(
    source: Annotated[
        Path | None, typer.Argument(help="Float checkpoint artifact. Left out: the shipped generator.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of your own sharp photographs, at least 640x360. Left out: the shipped ones."),
    ] = None,
    target: Annotated[str, typer.Option(help="Card to build the engine for.")] = "RTX 2080 Ti",
    quick: Annotated[bool, typer.Option("--quick", help="The same steps with short fine-tuning and timing.")] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Prune, quantize, export, build and time a generator on real photographs; a second run resumes."""
    output = Output(as_json)
    start = load_artifact(source) if source else shipped_generator()
    recipe = demo_recipe(target, str(images) if images else None, quick)
    follow(start, recipe, runs / ("demo-quick" if quick else "demo"), output)


def demo_recipe(target: str, photos: str | None, quick: bool) -> Recipe:
    """The demo as a recipe.

    Args:
        target: Card that the engine is built for.
        photos: Folder of the user's sharp photographs for tuning and evaluation; None takes the shipped ones.
        quick: The same steps in a fraction of the time, with figures that show only that it works.
    """
    from deblur_deploy.bench.measure import BenchConfig
    from deblur_deploy.config import EngineConfig, PrecisionConfig, PruneConfig, QatConfig
    from deblur_deploy.pipeline.recipe import Recipe

    hurried = BenchConfig(duration_ms=600.0, warmup_ms=0.0, min_iterations=4, windows=2, max_windows=4)
    images, side = (1, 128) if quick else (2, 256)
    pruning = PruneConfig(macs=MACS, allocation="sensitivity", scan_images=images, scan_size=side)
    return Recipe(
        photos=photos,
        prune=with_tuning(pruning, None, 10 if quick else 120, fastest=True),
        qat=with_tuning(QatConfig(), None, 5 if quick else 120, fastest=True),
        fp16=PrecisionConfig(),
        engine=EngineConfig(target=target),
        bench=hurried if quick else BenchConfig(duration_ms=1500.0, min_iterations=6, max_windows=4),
    )
