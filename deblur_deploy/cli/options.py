"""Arguments and options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from deblur_deploy.artifact import check_replaceable
from deblur_deploy.errors import ArtifactError

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
    """Where a stage writes: ``out``, else the next free ``runs/<stage>-<number>``.

    Raises:
        ArtifactError: It cannot be written, or holds files that are no artifact.
    """
    if out is not None:
        check_writable(out)
        check_replaceable(out)
        return out
    check_writable(runs)
    number = 1
    # A run that was interrupted has written its state beside its directory, and the directory is still free.
    while any(runs.glob(f"{stage}-{number:03d}")) or any(runs.glob(f"{stage}-{number:03d}.training")):
        number += 1
    return runs / f"{stage}-{number:03d}"


def check_writable(directory: Path) -> None:
    """Find out before minutes of work whether a directory can be made or written, and touch nothing.

    Raises:
        ArtifactError: It cannot, with the reason.
    """
    try:
        nearest = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(f"{nearest} is a file")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {nearest}")
    except OSError as err:
        raise ArtifactError(f"{directory} cannot be written: {err}", hint="name another directory") from err
