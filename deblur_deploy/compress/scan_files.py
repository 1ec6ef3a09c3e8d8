"""A scan as files: a table, plain data, and a self-contained chart."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment

from deblur_deploy.compress.sensitivity import ScanReport, ScanRow
from deblur_deploy.core.files import remove_partials, write_text
from deblur_deploy.core.plain_data import to_json
from deblur_deploy.quality.gain import format_db

_COLUMNS = (
    *("group", "layers", "before", "kept", "share", "psnr_db", "drop_db", "deviation", "gain_kept", "params", "gmacs"),
)

_WIDTH, _HEIGHT, _LEFT, _TOP, _LEGEND = 520, 400, 60, 40, 330
_TICKS = 5
_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
_DASHES = ("none", "6 3", "2 3")

_CHART = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ size.width }} {{ size.height }}"
     font-family="sans-serif" font-size="12">
<title>{{ title }}</title>
<rect width="100%" height="100%" fill="white"/>
<text x="{{ size.left }}" y="22" font-size="14">{{ title }}</text>
{% for tick in x_ticks %}
<line x1="{{ tick.at }}" x2="{{ tick.at }}" y1="{{ size.top }}" y2="{{ size.bottom }}" stroke="#ddd"/>
<text x="{{ tick.at }}" y="{{ size.bottom + 16 }}" text-anchor="middle">{{ tick.label }}</text>
{% endfor %}
{% for tick in y_ticks %}
<line x1="{{ size.left }}" x2="{{ size.right }}" y1="{{ tick.at }}" y2="{{ tick.at }}" stroke="#ddd"/>
<text x="{{ size.left - 6 }}" y="{{ tick.at + 4 }}" text-anchor="end">{{ tick.label }}</text>
{% endfor %}
<text x="{{ (size.left + size.right) / 2 }}" y="{{ size.bottom + 34 }}" text-anchor="middle">channels kept</text>
{% for line in lines %}
<g stroke="{{ line.color }}" fill="{{ line.color }}">
<polyline points="{{ line.points }}" fill="none" stroke-width="1.5" stroke-dasharray="{{ line.dash }}"/>
<line x1="{{ size.right + 16 }}" x2="{{ size.right + 44 }}" y1="{{ line.legend_y }}" y2="{{ line.legend_y }}"
      stroke-width="1.5" stroke-dasharray="{{ line.dash }}"/>
<text x="{{ size.right + 50 }}" y="{{ line.legend_y + 4 }}" stroke="none" fill="black">{{ line.label }}</text>
</g>
{% endfor %}
</svg>
"""
)


def write_scan(report: ScanReport, directory: Path) -> list[Path]:
    """Write ``scan.csv``, ``scan.json`` and ``scan.svg``; those of an earlier scan are replaced.

    Returns:
        Their paths.

    Raises:
        ArtifactError: They cannot be written.
    """
    writers: dict[str, Callable[[ScanReport], str]] = {
        "scan.csv": _table,
        "scan.json": lambda scanned: to_json(scanned.as_json(), indent=2) + "\n",
        "scan.svg": draw_chart,
    }
    remove_partials(directory)
    for name, text_of in writers.items():
        write_text(directory / name, text_of(report))
    return [directory / name for name in writers]


def draw_chart(report: ScanReport) -> str:
    """An SVG picture of the loss in dB against the share of channels kept, one line for each group."""
    by_group = [list(rows) for _, rows in itertools.groupby(report.rows, key=lambda row: row.group)]
    highest = max([0.1, *(row.drop_db for row in report.rows)])
    lowest = min([0.0, *(row.drop_db for row in report.rows)])
    height = max(_HEIGHT, _TOP + 18 * len(by_group) + 60)
    size = {"width": _WIDTH + _LEGEND, "height": height, "left": _LEFT, "right": _WIDTH, "top": _TOP}
    size["bottom"] = bottom = height - 50

    def x(share: float) -> float:
        return round(_LEFT + (1 - share) * (_WIDTH - _LEFT), 1)

    def y(drop_db: float) -> float:
        return round(_TOP + (drop_db - lowest) / (highest - lowest) * (bottom - _TOP), 1)

    shares = [tick / (_TICKS - 1) for tick in range(_TICKS)]
    drops = [lowest + (highest - lowest) * share for share in shares]
    return _CHART.render(
        title=f"Loss of PSNR without fine-tuning, from {format_db(report.psnr_db)} dB ({report.images} pictures)",
        size=size,
        x_ticks=[{"at": x(share), "label": f"{share:.0%}"} for share in shares],
        y_ticks=[{"at": y(drop), "label": f"{-drop:.2f} dB"} for drop in drops],
        lines=[
            {
                "points": " ".join(f"{x(share)},{y(drop)}" for share, drop in _points(rows)),
                "color": _COLORS[index % len(_COLORS)],
                "dash": _DASHES[index // len(_COLORS) % len(_DASHES)],
                "legend_y": _TOP + 8 + 18 * index,
                "label": ", ".join(rows[0].layers),
            }
            for index, rows in enumerate(by_group)
        ],
    )


def _points(rows: list[ScanRow]) -> list[tuple[float, float]]:
    return [(1.0, 0.0), *((row.share, row.drop_db) for row in rows)]


def _table(report: ScanReport) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in report.rows:
        writer.writerow({**vars(row), "layers": " ".join(row.layers), "gain_kept": report.gain_kept(row)})
    return text.getvalue()
