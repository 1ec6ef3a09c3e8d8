"""Arguments and options that several commands share."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from deblur_deploy.cli.console import keep_stdout
from deblur_deploy.core.artifact import check_replaceable
from deblur_deploy.core.files import check_writable
from deblur_deploy.core.lock import DirectoryInUseError, locked

if TYPE_CHECKING:
    from deblur_deploy.config import PruneConfig, QatConfig

Source = Annotated[
    Path | None,
    typer.Argument(
        help="Artifact to start from. Left out: the newest fitting one under --runs, else the shipped generator."
    ),
]
Runs = Annotated[Path, typer.Option(help="Directory that holds the artifacts of this project.")]
Out = Annotated[Path | None, typer.Option(help="Directory to write. Left out: a new one under --runs.")]


def _for_json(asked: bool) -> bool:
    """Keep stdout for the JSON object, if that is what was asked for."""
    if asked:
        keep_stdout()
    return asked


Json = Annotated[
    bool,
    typer.Option("--json", callback=_for_json, help="Print one JSON object on stdout; everything else goes to stderr."),
]
Res = Annotated[str, typer.Option(help="Picture size as WIDTHxHEIGHT.")]
Photos = Annotated[
    Path | None, typer.Option("--data", help="Folder of sharp photographs to tune on. Left out: the shipped ones.")
]
Steps = Annotated[int | None, typer.Option(help="Fine-tuning steps. 0 skips the fine-tuning.")]
Runtime = Annotated[str | None, typer.Option(help="What to run on. Left out: the preferred one that is installed.")]

RUNS = Path("runs")

C = TypeVar("C", "PruneConfig", "QatConfig")


_claims = contextlib.ExitStack()
"""Directories that the running command has locked."""


def new_directory(out: Path | None, runs: Path, stage: str) -> Path:
    """Where a stage writes, locked until the command ends: ``out``, else the next free ``runs/<stage>-<number>``.

    Two commands that are started at once get two numbers.

    Raises:
        ArtifactError: It cannot be written, another process writes it, or it holds files that are not an artifact.
    """
    if out is not None:
        check_writable(out)
        check_replaceable(out)
        claim(out)
        return out
    check_writable(runs)
    for number in itertools.count(1):
        directory = runs / f"{stage}-{number:03d}"
        # A run that was interrupted has written its state beside its directory, and the directory is still free.
        taken = (directory, directory.with_name(f"{directory.name}.training"))
        if any(path.exists() for path in taken):
            continue
        with contextlib.ExitStack() as lock:
            try:
                lock.enter_context(locked(directory))
            except DirectoryInUseError:
                continue
            if not any(path.exists() for path in taken):  # nobody has finished there before it was locked
                _claims.push(lock.pop_all())
                return directory
    raise AssertionError("there is always a next number")


def scan_directory(out: Path | None, runs: Path) -> Path:
    """Where a scan writes, locked as :func:`new_directory` has it; files of an earlier scan in ``out`` are replaced.

    Raises:
        ArtifactError: It cannot be written, or is being written by another process.
    """
    if out is None:
        return new_directory(None, runs, "scan")
    check_writable(out)
    claim(out)
    return out


def claim(directory: Path) -> None:
    """Lock a directory until the command ends.

    Raises:
        ArtifactError: Another process is writing it, or it cannot be locked.
    """
    _claims.enter_context(locked(directory))


def release_claims() -> None:
    """Unlock what the command that has ended had locked."""
    _claims.close()


def with_tuning(config: C, photos: Path | None, steps: int | None, fastest: bool = False) -> C:
    """The config with the user's photographs and number of steps, where they gave any; ``fastest`` is its precision."""
    tuning = config.tuning
    if fastest:
        tuning = dataclasses.replace(tuning, fit=dataclasses.replace(tuning.fit, precision="fastest"))
    if photos is not None:
        tuning = dataclasses.replace(tuning, photos=str(photos))
    if steps is not None:
        tuning = dataclasses.replace(tuning, fit=dataclasses.replace(tuning.fit, steps=steps))
    return dataclasses.replace(config, tuning=tuning)
