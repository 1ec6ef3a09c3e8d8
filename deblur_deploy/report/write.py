"""Writing a report: a page, Markdown, or a folder of plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.files import write_text
from deblur_deploy.report.canvas import draw_png
from deblur_deploy.report.content import Content
from deblur_deploy.report.markdown import render_markdown
from deblur_deploy.report.page import render_page
from deblur_deploy.report.sheets import make_folder, save_sheet

Format = Literal["html", "md", "png"]

_SUFFIXES: dict[str, Format] = {".html": "html", ".htm": "html", ".md": "md", "": "png"}


def format_of(out: Path | None, wanted: str | None) -> Format:
    """What to write: what was asked for, else what the name of the file says; a folder is for plots.

    Args:
        out: What ``--out`` named, or None.
        wanted: What ``--format`` named, or None.

    Raises:
        ConfigError: There is no such format, or the file's name says nothing.
    """
    if wanted is not None:
        known = {name: name for name in _SUFFIXES.values()}
        if wanted not in known:
            raise ConfigError(f"there is no report format {wanted!r}", hint="give html, md or png")
        return known[wanted]
    if out is None:
        return "html"
    if out.suffix.lower() not in _SUFFIXES or (out.suffix == "" and out.is_file()):
        raise ConfigError(
            f"{out} does not say which report it should be", hint="name FILE.html, FILE.md or a folder, or add --format"
        )
    return "png" if out.is_dir() else _SUFFIXES[out.suffix.lower()]


def write_report(content: Content, out: Path, kind: Format) -> list[Path]:
    """Write a report; a page and a Markdown file appear whole or not at all.

    Args:
        content: What it says.
        out: The file, or the folder for ``png``: a plot for each chart, and a sheet for each photograph.
        kind: What to write.

    Returns:
        Everything that was written.

    Raises:
        ArtifactError: ``out`` cannot be written.
    """
    if kind == "png":
        return _write_plots(content, out)
    text = render_page(content) if kind == "html" else render_markdown(content)
    write_text(out, text)
    return [out]


def _write_plots(content: Content, folder: Path) -> list[Path]:
    make_folder(folder)
    written: list[Path] = []
    for chart in content.charts:
        path = folder / f"{chart.slug}.png"
        try:
            path.write_bytes(draw_png(chart))
        except OSError as err:
            raise ArtifactError(f"{path} cannot be written: {err}", hint="check permissions and free space") from err
        written.append(path)
    sheets: Sequence[Path] = [save_sheet(folder / "photographs", photograph) for photograph in content.photographs]
    return [*written, *sheets]
