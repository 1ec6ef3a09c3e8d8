"""Charts drawn by Matplotlib: as SVG that takes its colours from the page, or as PNG."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

WIDTH = 360
"""Width of every chart in units of its viewBox, in which text is 12 high: legible on a phone 360 pixels wide."""

_DOTS_PER_INCH = 72
_LONGEST_NAME = 24
_PNG_SCALE = 2.5
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Palette:
    """Colours by their role.

    Args:
        ink: Text and marks that matter.
        muted: Text that explains.
        line: Grid lines.
        quiet: Marks to compare others with.
        accent: The subject of the chart.
        soft: A lighter accent.
        paper: The background.
    """

    ink: str
    muted: str
    line: str
    quiet: str
    accent: str
    soft: str
    paper: str


PRINT = Palette("#1c2430", "#5d6876", "#dfe3e8", "#a9b3bf", "#0b7a75", "#8cc8c3", "#ffffff")
"""Colours of the PNG plots."""

_PLACEHOLDERS = Palette(*(f"#0102{index:02x}" for index in range(1, 8)))
"""Colours that no chart uses by itself; each is replaced by the CSS variable of its name."""


@dataclass(frozen=True)
class Chart:
    """A chart with its text alternatives.

    Args:
        slug: Short name, for files and for ids.
        title: What it shows.
        description: What can be seen in it, in a sentence or two.
        headings: Headings of the table of its figures.
        rows: The figures as text.
        height: Height in the units of ``WIDTH``.
        draw: Draws it on axes of Matplotlib.
    """

    slug: str
    title: str
    description: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    height: float
    draw: Callable[[Any, Palette], None]


def draw_svg(chart: Chart) -> str:
    """An ``svg`` element for a page, with title and description, the same in every run.

    Colours are CSS variables such as ``var(--accent)``, so the chart is legible on dark and on light paper.
    """
    text = io.StringIO()
    with _settings(chart.slug):
        figure = _figure(chart, _PLACEHOLDERS)
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(chart, text.getvalue())


def draw_png(chart: Chart) -> bytes:
    """A PNG on white paper."""
    data = io.BytesIO()
    with _settings(chart.slug):
        figure = _figure(chart, PRINT)
        figure.suptitle(chart.title, x=0.02, ha="left", fontsize=13, color=PRINT.ink)
        figure.savefig(data, format="png", dpi=_DOTS_PER_INCH * _PNG_SCALE, metadata={"Software": None})
    return data.getvalue()


def name_rows(axes: Any, names: Sequence[str], palette: Palette) -> None:
    """Write names to the left of horizontal bars, the first one at height 0."""
    axes.set_yticks(range(len(names)), [shortened(name) for name in names], color=palette.ink)


def shortened(name: str) -> str:
    """A name short enough to leave room for the chart; the table below it has the full one."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:9]}…{name[10 - _LONGEST_NAME :]}"


def _figure(chart: Chart, palette: Palette) -> Figure:
    figure = Figure(figsize=(WIDTH / _DOTS_PER_INCH, chart.height / _DOTS_PER_INCH), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(palette.line)
    axes.tick_params(length=0, colors=palette.muted)
    axes.set_axisbelow(True)
    chart.draw(axes, palette)
    return figure


@contextmanager
def _settings(salt: str) -> Iterator[None]:
    """Text stays text, names with dollar signs are not formulas, and ids do not change from run to run."""
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "text.parse_math": False,
        "text.usetex": False,
        "font.family": "DejaVu Sans",
        "font.size": 12,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A name in another script: the page's own fonts have its letters, and Matplotlib needs only their widths.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _for_page(chart: Chart, text: str) -> str:
    """Matplotlib's file as an element that can stand in a page beside others."""
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)  # its style would apply to the whole page
    prefix = f"{chart.slug}-"
    for element in root.iter():
        _adapt(element, prefix)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{prefix}title {prefix}desc", "class": "chart"}
    for index, (tag, words) in enumerate((("title", chart.title), ("desc", chart.description))):
        element = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{prefix}{tag}"})
        element.text = words
        root.insert(index, element)
    return ET.tostring(root, encoding="unicode")


def _adapt(element: ET.Element, prefix: str) -> None:
    """Make ids and references unique on the page, colours variables, and the font the page's."""
    attributes = element.attrib
    if "id" in attributes:
        attributes["id"] = prefix + attributes["id"]
    link = f"{{{_XLINK}}}href"
    if attributes.get(link, "").startswith("#"):
        attributes["href"] = f"#{prefix}{attributes.pop(link)[1:]}"
    if "clip-path" in attributes:
        attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{prefix}")
    if "style" in attributes:
        attributes["style"] = attributes["style"].replace("url(#", f"url(#{prefix}")
        style = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;]*", _font, attributes["style"])
        attributes["style"] = re.sub(r"#0102(\d\d)", _variable, style)


def _font(match: re.Match[str]) -> str:
    weight = f"; font-weight: {match[1]}" if match[1] else ""
    return f"font-size: {match[2]}px{weight}"


def _variable(match: re.Match[str]) -> str:
    return f"var(--{list(vars(_PLACEHOLDERS))[int(match[1], 16) - 1]})"
