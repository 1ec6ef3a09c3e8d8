"""A drop folder: what is put there is restored, until someone says stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.infer.jobs import Job, Targets, check_apart, folder_job, inputs_under


def arriving_jobs(
    folder: Path, out: Path, *, pattern: str | None = None, suffix: str | None = None, poll_seconds: float = 1.0
) -> Iterator[list[Job]]:
    """Poll a folder.

    A file is taken once its size and time of change are the same as at the poll before, so that nothing is still being
    copied to it. One that changes later is taken again.

    Args:
        folder: The drop folder, with everything below it.
        out: Folder for the results; may lie inside.
        pattern: Takes only files whose name or path matches.
        suffix: Suffix for pictures, instead of their own.
        poll_seconds: Time between two polls.

    Yields:
        The jobs that are ready, possibly none, with a conflict where the result would be written over an input or
        another result. Never ends by itself.

    Raises:
        ArtifactError: There is no such folder.
        ConfigError: Results would be written into the folder itself.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder", hint="make it first")
    check_apart(folder, out)
    before: dict[Path, tuple[int, int]] = {}
    taken: dict[Path, tuple[int, int]] = {}
    targets = Targets()
    while True:
        now = {path: state for path in inputs_under(folder, out, pattern) if (state := _state(path))}
        ready = [path for path, state in now.items() if before.get(path) == state and taken.get(path) != state]
        taken |= {path: now[path] for path in ready}
        before = now
        inputs = {path.resolve() for path in now}
        jobs = [folder_job(folder, path, out, suffix) for path in ready]
        yield [replace(job, conflict=targets.conflict(job, inputs)) for job in jobs]
        time.sleep(poll_seconds)


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # gone again
        return None
    return status.st_size, status.st_mtime_ns


def serve(batches: Iterator[list[Job]], work: Callable[[list[Job]], None]) -> None:
    """Work on what arrives until Ctrl-C."""
    try:
        for jobs in batches:
            if jobs:
                work(jobs)
    except KeyboardInterrupt:
        return
