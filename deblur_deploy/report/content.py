"""Everything that a report says, gathered once; the page, the Markdown and the plots are made from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deblur_deploy import __version__
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.report.canvas import Chart
from deblur_deploy.report.charts import latency_chart, quality_chart, size_chart, tradeoff_chart
from deblur_deploy.report.film_strips import film_strips, temporal_artifact
from deblur_deploy.report.layer_charts import (
    frame_times_chart,
    layers_chart,
    precision_chart,
    pruning_chart,
    quantization_chart,
)
from deblur_deploy.report.photographs import Photograph, photographs_folder, restore_photographs, shown_stages
from deblur_deploy.report.provenance import Link, hash_chain, library_table, recipe_text
from deblur_deploy.report.scans import Scans, read_scans
from deblur_deploy.report.stages import ReportStage, read_stages
from deblur_deploy.report.summary import KeyFigure, summarize
from deblur_deploy.report.timings import Session, read_sessions

OnPhotograph = Callable[[str], None]
"""Called with the name of each photograph that was restored."""


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Args:
        slug: Its id.
        title: Its heading.
        intro: A sentence or two.
        charts: Its charts.
        absent: Why charts that belong here are missing, and how to get them; empty where nothing is missing.
        notes: Rows below the charts: what was skipped, and why.
    """

    slug: str
    title: str
    intro: str = ""
    charts: tuple[Chart, ...] = ()
    absent: str = ""
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Content:
    """A whole report.

    Args:
        title: Its heading.
        sentences: The summary in plain words.
        key_figures: Figures that stand out.
        photographs: Photographs before and after.
        photographs_absent: Why there are none, or an empty text.
        films: Films in the same way, of a temporal network, frames in a row.
        sections: Charts.
        chain: Where the last stage comes from.
        libraries: Versions.
        devices: Machines that were measured.
        recipe: TOML that makes the run again, or None.
        commands: Commands that show more.
    """

    title: str
    sentences: tuple[str, ...]
    key_figures: tuple[KeyFigure, ...]
    photographs: tuple[Photograph, ...]
    photographs_absent: str
    films: tuple[Photograph, ...]
    sections: tuple[Section, ...]
    chain: tuple[Link, ...]
    libraries: tuple[tuple[str, str], ...]
    devices: tuple[str, ...]
    recipe: str | None
    commands: tuple[str, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        """All charts in the order of the report."""
        return tuple(chart for section in self.sections for chart in section.charts)

    @property
    def absent(self) -> dict[str, str]:
        """Why something is missing, by section."""
        missing = {section.slug: section.absent for section in self.sections if section.absent}
        return missing | ({"photographs": self.photographs_absent} if self.photographs_absent else {})


def gather(run: Path, images: Path | None = None, on_photograph: OnPhotograph | None = None) -> Content:
    """Read a run and restore its photographs.

    Args:
        run: Directory of a run, or of several artifacts.
        images: Folder of photographs or pairs to show; None takes those that the run was evaluated on.
        on_photograph: For showing progress.

    Raises:
        ArtifactError: There is no artifact, or something in the run is damaged.
        DeblurDeployError: ``images`` was given and cannot be shown.
    """
    stages = read_stages(run)
    sessions = read_sessions(run, stages)
    sentences, key_figures = summarize(stages, sessions)
    photographs, reason = _photographs(stages, images, on_photograph)
    return Content(
        title=f"Deployment report: {run.resolve().name}",
        sentences=tuple(sentences),
        key_figures=tuple(key_figures),
        photographs=photographs,
        photographs_absent=reason,
        films=_films(stages, images),
        sections=(
            _cost_section(stages),
            *_speed_sections(stages, sessions),
            _precision_section(stages),
            _sensitivity_section(read_scans(run, stages)),
        ),
        chain=hash_chain(stages[-1].artifact),
        libraries=tuple(library_table(stages[-1].artifact)),
        devices=tuple(dict.fromkeys(session.device for session in sessions)),
        recipe=recipe_text(stages, bool(sessions)),
        commands=(
            f"deblur-deploy inspect {stages[-1].artifact.directory}",
            f"deblur-deploy report {run}  # deblur-deploy {__version__}",
        ),
    )


def _photographs(
    stages: Sequence[ReportStage], images: Path | None, on_photograph: OnPhotograph | None
) -> tuple[tuple[Photograph, ...], str]:
    """Restored photographs, the largest gain first, or why there are none; a folder that was named is shown."""
    restored = []
    try:
        for photograph in restore_photographs(images or photographs_folder(stages), shown_stages(stages)):
            restored.append(photograph)
            if on_photograph:
                on_photograph(photograph.name)
    except DeblurDeployError as err:
        if images is not None:
            raise
        return (), f"{err.message}. {err.hint}."
    return tuple(sorted(restored, key=lambda photograph: -photograph.gain_db)), ""


def _films(stages: Sequence[ReportStage], images: Path | None) -> tuple[Photograph, ...]:
    """Films of a temporal network; none of other networks, and where there are no films of its size."""
    artifact = temporal_artifact(stages)
    if artifact is None:
        return ()
    try:
        return tuple(film_strips(artifact, images or photographs_folder(stages)))
    except DeblurDeployError:  # the photographs' own section says what cannot be shown here
        return ()


def _cost_section(stages: Sequence[ReportStage]) -> Section:
    """Quality and size; the sizes are always known."""
    chart, absent = quality_chart(stages), ""
    if chart is None:
        hint = "`deblur-deploy demo` and `deblur-deploy run` measure it when they export."
        absent = f"The original's quality was not measured in this run. {hint}"
    told = {row[0] for row in chart.rows} if chart else set()
    untold = [stage for stage in stages if stage.label not in told] if chart else []
    return Section(
        "cost",
        "Quality and size",
        "PSNR against the sharp photographs, higher is better; and what is stored and shipped.",
        tuple(each for each in (chart, size_chart(stages)) if each),
        absent,
        tuple(
            (stage.label, "quality measured on other photographs" if stage.quality else "quality not measured")
            for stage in untold
        ),
    )


def _speed_sections(stages: Sequence[ReportStage], sessions: Sequence[Session]) -> list[Section]:
    """One section for each machine and frame size: one chart never mixes two of them."""
    if not sessions:
        hint = "`deblur-deploy bench --save RUN/bench.jsonl` measures it."
        return [Section("speed", "Speed", absent=f"No latency was measured in this run. {hint}")]
    sections = []
    for number, session in enumerate(sessions, start=1):
        suffix = "" if len(sessions) == 1 else f"-{number}"
        charts: list[Chart | None] = []
        if session.rows:
            charts = [latency_chart(session, f"latency{suffix}"), tradeoff_chart(stages, session, f"tradeoff{suffix}")]
        title = "Speed" if len(sessions) == 1 else f"Speed on {session.device}, {session.res}"
        apart = " Other machines and frame sizes have their own sections." if len(sessions) > 1 else ""
        sections.append(
            Section(
                f"speed{suffix}",
                title,
                f"Measured on {session.device}, {session.res}, all in turns.{apart}",
                tuple(chart for chart in charts if chart),
                "" if session.rows else "Nothing could be measured on this machine.",
                session.skipped,
            )
        )
    return sections


def _precision_section(stages: Sequence[ReportStage]) -> Section:
    engines = [stage.artifact for stage in stages if stage.artifact.kind == "engine"]
    charts = [precision_chart(stages)]
    absent = ""
    if engines:
        charts.append(layers_chart(engines[-1]))
    else:
        absent = "This run has no engine, so there is no list of layers. `deblur-deploy export-trt --fp16` builds one."
    intro = "The types that the multiply-accumulates run in; an engine's are proven by its own list of layers."
    return Section("precision-section", "Precision", intro, tuple(chart for chart in charts if chart), absent)


def _sensitivity_section(scans: Scans) -> Section:
    made = (pruning_chart(scans), quantization_chart(scans), frame_times_chart(scans))
    charts = tuple(chart for chart in made if chart)
    hint = "`deblur-deploy prune --scan` and `deblur-deploy qat --scan` measure it, with --out inside the run."
    return Section(
        "sensitivity",
        "Sensitivity",
        "What groups of channels, layers and frame times cost, before any fine-tuning." if charts else "",
        charts,
        "" if charts else f"No layer's sensitivity was scanned in this run. {hint}",
    )
