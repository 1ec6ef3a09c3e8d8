"""What ``infer`` prints: a bar or a line per file while it works, and what became of all of them in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from deblur_deploy.cli.console import Output
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.formats import describe_suffixes
from deblur_deploy.core.units import one_line

if TYPE_CHECKING:
    from deblur_deploy.infer.jobs import Job
    from deblur_deploy.infer.run import FileRestorer, FileResult, InferReport
    from deblur_deploy.infer.run import Progress as Reached

_NAMED = 10
"""Files that are named in a line about several."""


def restore_jobs(output: Output, files: FileRestorer, jobs: list[Job], *, lines: bool = False) -> None:
    """Restore files and show how far that is.

    Args:
        output: Where to.
        files: What restores them.
        jobs: The files.
        lines: A line for each file even in a terminal.

    Raises:
        KeyboardInterrupt: Ctrl-C, after it is said how many are done.
    """
    try:
        with _progress(output, len(jobs), lines or not output.console.is_terminal) as notify:
            files.run(jobs, notify)
    except KeyboardInterrupt:
        finished = files.report.count("done") + files.report.count("skipped")
        output.say(f"stopped   {finished} of {len(jobs)} files are done; the same command with --resume goes on")
        raise


class _RateColumn(ProgressColumn):
    """Frames per second since the start."""

    def render(self, task: Task) -> Text:
        frames = task.fields["frames"]
        return Text(f"{frames / task.elapsed:.2f} frames/s" if task.elapsed else "")


@contextmanager
def _progress(output: Output, total: int, lines: bool) -> Iterator[Callable[[Reached], None]]:
    """A bar over the files with the rate and the time left, where there is a terminal; failures are said at once."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output.console, disable=not output.console.is_terminal) as progress:
        task = progress.add_task("restoring", total=total, frames=0)
        files = frames = 0

        def notify(reached: Reached) -> None:
            nonlocal files, frames
            share = reached.frames / reached.of if reached.of and reached.result is None else 0
            if reached.result is not None:
                files, frames = files + 1, frames + reached.frames
                if lines or reached.result.status == "failed":
                    _say_result(output, reached.job.name, reached.result)
            running = reached.frames if reached.result is None else 0
            name = one_line(reached.job.name)
            progress.update(task, completed=files + share, frames=frames + running, description=name)

        yield notify


def _say_result(output: Output, name: str, result: FileResult) -> None:
    """One line about a file that is finished."""
    if result.error is not None:
        output.say(f"failed    {one_line(result.error)}")
        return
    notes = f" ({'; '.join(result.notes)})" if result.notes else ""
    output.say(f"{result.status:<10}{one_line(name + notes)}")


def conclude(output: Output, report: InferReport, out: Path) -> None:
    """Print what became of the files, the failures and what is not kept by their causes.

    Raises:
        ArtifactError: One failed.
    """
    output.emit(report.as_json())
    done, skipped, failures = report.count("done"), report.count("skipped"), report.failures
    rate = f", {report.frames / report.seconds:.2f} frames/s" if report.frames and report.seconds else ""
    output.say(
        f"wrote     {done} files to {one_line(str(out))} ({report.frames} frames in {report.seconds:.1f} s{rate})"
    )
    if skipped:
        output.say(f"skipped   {skipped} files that were done before")
    if report.passed_over:
        count = sum(report.passed_over.values())
        output.say(f"passed    over {count} files of the folders: {describe_suffixes(report.passed_over)}")
    for text, names in _by_cause((note, result.input) for result in report.files for note in result.notes):
        output.say(f"note      {_about(names)}: {one_line(text)}")
    for text, names in _by_cause((_cause(failure), failure.input) for failure in failures):
        output.say(f"failed    {_about(names)}: {one_line(text)}")
    if failures:
        raise ArtifactError(
            f"{len(failures)} of {len(report.files)} files failed: {_listed([failure.input for failure in failures])}",
            hint="the lines above say why; fix them and run again with --resume",
        )


def _by_cause(said: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """What is said of files, each once with all of them, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for text, name in said:
        groups.setdefault(text, []).append(name)
    return sorted(groups.items(), key=lambda item: -len(item[1]))


def _cause(failure: FileResult) -> str:
    """Why a file failed, without its name."""
    text = (failure.error or "").replace(failure.input, "").replace(Path(failure.input).name, "")
    return text.strip().removeprefix(":").strip()


def _about(names: Sequence[str]) -> str:
    return one_line(names[0]) if len(names) == 1 else f"{len(names)} files ({_listed(names)})"


def _listed(names: Sequence[str]) -> str:
    named = ", ".join(one_line(Path(name).name) for name in names[:_NAMED])
    return named + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
