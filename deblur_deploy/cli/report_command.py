"""``deblur-deploy report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Runs, claim
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.files import check_writable
from deblur_deploy.core.sources import find_artifacts


def command(
    run: Annotated[
        Path | None,
        typer.Argument(help="Directory of a run. Left out: the one with the newest artifact under --runs."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="FILE.html, FILE.md, or a folder for PNG plots. Left out: report.html in the run."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--format", help="html, md or png. Left out: what --out says, else html.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of photographs or pairs to show. Left out: those that the run was evaluated on."),
    ] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Write what compression cost and bought, as one page with photographs, charts and provenance."""
    from deblur_deploy.report.content import gather
    from deblur_deploy.report.write import format_of, write_report

    output = Output(as_json)
    wanted = format_of(out, kind)
    if run is None:
        run = newest_run(runs)
        output.say(f"run       {run} (it has the newest artifact under {runs})")
    target = out or run / {"html": "report.html", "md": "report.md", "png": "report-plots"}[wanted]
    check_writable(target.parent)
    if out is not None or run.is_dir():  # a lock would make the directory that is missing
        claim(target)
    with output.waiting("restoring photographs") as caption:
        content = gather(run, images, caption)
    written = write_report(content, target, wanted)
    for reason in content.absent.values():
        output.say(f"absent    {reason}")
    output.say(f"report    {target}")
    output.emit(
        {
            "report": str(target),
            "format": wanted,
            "files": [str(path) for path in written],
            "summary": list(content.sentences),
            "charts": [chart.slug for chart in content.charts],
            "photographs": [photograph.name for photograph in content.photographs],
            "absent": content.absent,
        }
    )


def newest_run(runs: Path) -> Path:
    """The directory in which the newest artifact lies: a run's own, or the directory of all.

    Raises:
        ArtifactError: There is no artifact yet.
    """
    found = find_artifacts(runs)
    if not found:
        raise ArtifactError(f"there is no artifact under {runs}", hint="`deblur-deploy demo` makes a run to report on")
    return found[-1].directory.parent
