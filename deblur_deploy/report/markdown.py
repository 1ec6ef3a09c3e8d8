"""The report as Markdown, for a pull request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deblur_deploy.core.markdown_table import escape, table
from deblur_deploy.report.content import Content, Section

_LONG = 40
"""Rows from which a table is folded away."""


def render_markdown(content: Content) -> str:
    """The facts of a report as tables; photographs are named with their PSNR and not shown.

    Args:
        content: What it says.
    """
    lines = [f"# {escape(content.title)}", "", *(line for text in content.sentences for line in (escape(text), ""))]
    for section in content.sections:
        lines += _section(section)
    lines += ["## Photographs", "", *_photographs(content)]
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


def _photographs(content: Content) -> list[str]:
    if not content.photographs:
        return [escape(content.photographs_absent or "None."), ""]
    views = [view.label for view in content.photographs[0].views if view.psnr_db is not None]
    rows = [
        (photograph.name, *(f"{view.psnr_db:.2f}" for view in photograph.views if view.psnr_db is not None))
        for photograph in content.photographs
    ]
    return [*table(("photograph", *(f"{label}, dB" for label in views)), rows), ""]


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    return ["<details><summary>" + escape(title) + "</summary>", "", *lines, "", "</details>"]
