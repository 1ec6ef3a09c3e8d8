"""Writing a report: one self-contained HTML file, Markdown for a pull request, or plots."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deblur_deploy import __version__
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.files import write_text
from deblur_deploy.core.markdown_table import escape, table
from deblur_deploy.report.canvas import draw_png, draw_svg
from deblur_deploy.report.content import Content, Section
from deblur_deploy.report.photographs import Photograph, encode_photographs, make_folder, save_sheet

Format = Literal["html", "md", "png"]

_SUFFIXES: dict[str, Format] = {".html": "html", ".htm": "html", ".md": "md", "": "png"}

_LONG = 40
"""A table with more rows than this is folded away."""


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
    shown = (*content.photographs, *content.films)
    sheets: Sequence[Path] = [save_sheet(folder / "photographs", photograph) for photograph in shown]
    return [*written, *sheets]


def render_markdown(content: Content) -> str:
    """The facts of a report as tables; photographs are named with their PSNR and not shown.

    Args:
        content: What it says.
    """
    lines = [f"# {escape(content.title)}", "", *(line for text in content.sentences for line in (escape(text), ""))]
    for section in content.sections:
        lines += _section(section)
    lines += ["## Photographs", "", *_photographs(content.photographs, content.photographs_absent)]
    if content.films:
        lines += ["## Films", "", *_photographs(content.films, "")]
    lines += ["## Where it comes from", ""]
    chain = [(link.stage, f"{link.created} UTC", link.sha256) for link in content.chain]
    lines += [*table(("step", "finished", "SHA-256"), chain), ""]
    lines += [*_folded("Versions", [*table(("library", "version"), content.libraries)]), ""]
    if content.recipe:
        fence = "`" * (2 + max(1, *map(len, re.findall("`*", content.recipe))))
        lines += [*_folded("recipe.toml", [f"{fence}toml", content.recipe.rstrip(), fence]), ""]
    return "\n".join(lines)


def _section(section: Section) -> list[str]:
    lines = [f"## {escape(section.title)}", ""]
    if section.intro:
        lines += [escape(section.intro), ""]
    for chart in section.charts:
        rows = list(table(chart.headings, chart.rows))
        lines += [f"**{escape(chart.title)}.** {escape(chart.description)}", ""]
        lines += [*(_folded("Figures", rows) if len(chart.rows) > _LONG else rows), ""]
    if section.absent:
        lines += [escape(section.absent), ""]
    if section.notes:
        lines += [*table(("not measured", "why"), section.notes), ""]
    return lines


def _photographs(photographs: Sequence[Photograph], absent: str) -> list[str]:
    if not photographs:
        return [escape(absent or "None."), ""]
    views = [view.label for view in photographs[0].views if view.psnr_db is not None]
    rows = [
        (photograph.name, *(f"{view.psnr_db:.2f}" for view in photograph.views if view.psnr_db is not None))
        for photograph in photographs
    ]
    return [*table(("photograph", *(f"{label}, dB" for label in views)), rows), ""]


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    return ["<details><summary>" + escape(title) + "</summary>", "", *lines, "", "</details>"]


def render_page(content: Content) -> str:
    """A page with inline style, script, charts and pictures, below 5 MB.

    All text is escaped. The page's content security policy lets nothing be loaded, and no script run but its own.

    Args:
        content: What it says.
    """
    script = _templates().loader.get_source(_templates(), "report.js")[0]  # type: ignore[union-attr]
    shown = (*content.photographs, *content.films)
    photographs = encode_photographs(shown)
    return (
        _templates()
        .get_template("report.html")
        .render(
            content=content,
            photographs=photographs,
            left_out=len(shown) - len(photographs),
            # Matplotlib and ElementTree have escaped every name in a chart.
            svg={chart.slug: Markup(draw_svg(chart)) for chart in content.charts},
            script=Markup(script),
            script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            version=__version__,
        )
    )


@cache
def _templates() -> Environment:
    return Environment(
        autoescape=True,
        loader=PackageLoader("deblur_deploy.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
