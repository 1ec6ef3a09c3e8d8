"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    Path | None,
    typer.Argument(
        help="Artifact to start from. Left out: the newest fitting one under --runs, else the shipped generator."
    ),
]
Runs = Annotated[Path, typer.Option(help="Directory that holds the artifacts of this project.")]
Out = Annotated[Path | None, typer.Option(help="Directory to write. Left out: a new one under --runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else goes to stderr.")]
Res = Annotated[str, typer.Option(help="Picture size as WIDTHxHEIGHT.")]
Photos = Annotated[
    Path | None, typer.Option("--data", help="Folder of sharp photographs to tune on. Left out: the shipped ones.")
]
Steps = Annotated[int | None, typer.Option(help="Fine-tuning steps. 0 skips the fine-tuning.")]
Runtime = Annotated[str | None, typer.Option(help="What to run on. Left out: the preferred one that is installed.")]

RUNS = Path("runs")


def new_directory(out: Path | None, runs: Path, stage: str) -> Path:
    """Where a stage writes: ``out``, else the next free ``runs/<stage>-<number>``."""
    if out is not None:
        return out
    number = 1
    while (runs / f"{stage}-{number:03d}").exists():
        number += 1
    return runs / f"{stage}-{number:03d}"
