"""Charts of quality, size and speed: what compression cost and bought."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from deblur_deploy.core.units import format_bytes, format_ms
from deblur_deploy.quality.gain import format_share, gain_kept
from deblur_deploy.report.canvas import Chart, Palette, name_rows, shortened
from deblur_deploy.report.stages import Quality, ReportStage, compared
from deblur_deploy.report.timings import PERCENTILES, Session, Timing

SHARES = (5, 8)
"""Marks on the chart of sizes: one fifth and one eighth of the original."""

_ROW = 34
_MARGIN = 44
_LEGEND_WIDTH, _MARKER_WIDTH, _LETTER_WIDTH = 300, 30, 7
"""In units of the chart's width: room for a legend, a marker with its margins, and the widest letter."""

_LEGEND_LINE = 18
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


def quality_chart(stages: Sequence[ReportStage]) -> Chart | None:
    """The waterfall from the blurred pictures over the trained network to the last stage; None without evaluations."""
    measured = compared(stages)
    if not measured or measured[0][1].blurred_db is None:
        return None
    blurred_db = measured[0][1].blurred_db
    levels = [("blurred input", blurred_db), *((stage.label, quality.psnr_db) for stage, quality in measured)]
    changes = [(name, before, after) for (_, before), (name, after) in itertools.pairwise(levels)]
    (_, trained_db), (last, last_db) = levels[1], levels[-1]
    rows = [("blurred input", f"{blurred_db:.2f}", "–", "–")]
    rows += [
        (name, f"{after:.2f}", signed(after - before), format_share(gain_kept(after, trained_db, blurred_db)))
        for name, before, after in changes
    ]

    def draw(axes: Any, palette: Palette) -> None:
        _waterfall(axes, palette, levels)

    return Chart(
        slug="quality",
        title="Picture quality, step by step",
        description=(
            f"PSNR rises from {blurred_db:.2f} dB for the blurred pictures to {trained_db:.2f} dB for the original "
            f"network; {last} has {last_db:.2f} dB."
        ),
        headings=("stage", "PSNR in dB", "change in dB", "gain kept"),
        rows=tuple(rows),
        height=_MARGIN + _ROW * len(levels),
        draw=draw,
    )


def size_chart(stages: Sequence[ReportStage]) -> Chart:
    """Bytes of every stage against one fifth and one eighth of the original's."""
    first, smallest = stages[0].bytes, min(stages, key=lambda stage: stage.bytes)

    def draw(axes: Any, palette: Palette) -> None:
        _size_bars(axes, palette, stages)

    return Chart(
        slug="size",
        title="Size on disk",
        description=(
            f"The smallest file is {smallest.label} with {format_bytes(smallest.bytes)}, "
            f"{smallest.bytes / first:.0%} of the {stages[0].label}'s {format_bytes(first)}."
        ),
        headings=("stage", "bytes", f"of the {stages[0].label}'s", "parameters", "GMACs"),
        rows=tuple(
            (
                stage.label,
                f"{stage.bytes:,}",
                f"{stage.bytes / first:.3f}",
                f"{stage.artifact.figures['params']:,}" if "params" in stage.artifact.figures else "–",
                f"{stage.artifact.figures['gmacs']:.1f}" if "gmacs" in stage.artifact.figures else "–",
            )
            for stage in stages
        ),
        height=_MARGIN + 14 + _ROW * len(stages),
        draw=draw,
    )


def latency_chart(session: Session, slug: str) -> Chart:
    """Median and percentiles of every network and runtime of one session, which has at least one row."""
    fastest = min(session.rows, key=lambda row: row.median)
    longest = max(max(row.latency_ms.values()) for row in session.rows)

    def draw(axes: Any, palette: Palette) -> None:
        for index, row in enumerate(session.rows):
            color = palette.accent if row is fastest else palette.quiet
            median = row.median
            axes.barh(index, median, height=0.5, color=color, alpha=1.0 if row.stable else 0.55)
            tail = [row.latency_ms[name] for name in PERCENTILES if name in row.latency_ms]
            axes.plot([median, tail[-1]], [index, index], color=palette.ink, linewidth=1.2)
            axes.plot(tail[1:], [index] * len(tail[1:]), "|", color=palette.ink, markersize=8)
            note = format_ms(median)
            axes.annotate(
                note if row.stable else f"{note}, unstable",
                (tail[-1], index),
                (7, 0),
                textcoords="offset points",
                va="center",
                color=palette.ink,
            )
        name_rows(axes, [row.name for row in session.rows], palette)
        axes.set_ylim(len(session.rows) - 0.4, -0.6)
        axes.set_xlim(0, longest * 1.3)
        axes.grid(axis="x", color=palette.line, linewidth=0.8)
        axes.set_xlabel("ms per frame; bar: median, marks: p90, p95, p99", color=palette.muted, loc="right")

    return Chart(
        slug=slug,
        title=f"Latency of a {session.res} frame",
        description=f"On {session.device}. Fastest: {fastest.name}, median {fastest.median:.1f} ms.",
        headings=("network · runtime", *(f"{name} ms" for name in PERCENTILES), "stable"),
        rows=tuple(
            (
                row.name,
                *(f"{row.latency_ms[name]:.1f}" if name in row.latency_ms else "–" for name in PERCENTILES),
                "yes" if row.stable else "no",
            )
            for row in session.rows
        ),
        height=_MARGIN + 26 * len(session.rows),
        draw=draw,
    )


def tradeoff_chart(stages: Sequence[ReportStage], session: Session, slug: str) -> Chart | None:
    """Quality against latency with the Pareto front of one session; None where no row has both."""
    qualities = {stage.label: quality for stage, quality in compared(stages)}
    points = [
        (row, qualities[row.label], row.median)
        for row in session.rows
        if row.stage is not None and row.label in qualities
    ]
    if not points:
        return None
    front = pareto_front([(ms, quality.psnr_db) for _, quality, ms in points])
    best = [points[index][0].name for index in front]
    runtimes = sorted({row.runtime for row, _, _ in points})
    legend_lines = math.ceil(len(runtimes) / _legend_columns(runtimes))

    def draw(axes: Any, palette: Palette) -> None:
        _scatter(axes, palette, (points, runtimes), front)

    return Chart(
        slug=slug,
        title=f"Quality against latency, {session.res}",
        description=f"Nothing measured on {session.device} is both faster and better than: {', '.join(best)}.",
        headings=("network · runtime", "median ms", "PSNR in dB", "on the Pareto front"),
        rows=tuple(
            (row.name, f"{ms:.1f}", f"{quality.psnr_db:.2f}", "yes" if index in front else "no")
            for index, (row, quality, ms) in enumerate(points)
        ),
        height=272 + _LEGEND_LINE * legend_lines,
        draw=draw,
    )


def signed(change_db: float) -> str:
    """A change in dB with its sign and two decimals, with a minus and not a hyphen, and without a minus zero."""
    return f"{round(change_db, 2) + 0.0:+.2f}".replace("-", "−")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats: none is faster and at least as good, or as fast and better.

    Args:
        points: Latency, lower is better, and quality, higher is better.

    Returns:
        From fast to slow; of equal points the first.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1], index)):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def _waterfall(axes: Any, palette: Palette, levels: Sequence[tuple[str, float]]) -> None:
    values = [value for _, value in levels]
    low, high = min(values), max(values)
    span = max(high - low, 0.05)
    start = low - 0.25 * span
    axes.barh(0, values[0] - start, left=start, height=0.5, color=palette.quiet)
    for index, (before, after) in enumerate(itertools.pairwise(values), start=1):
        gain = index == 1
        width = max(abs(after - before), 0.006 * span)  # a change of zero is still visible
        axes.barh(index, width, left=min(before, after), height=0.5, color=palette.accent if gain else palette.ink)
        axes.plot([before, before], [index - 1.25, index + 0.25], color=palette.muted, linewidth=1)
    for index, value in enumerate(values):
        change = f"  {signed(value - values[index - 1])}" if index else ""
        at = max(value, values[index - 1]) if index else value
        axes.annotate(
            f"{value:.2f} dB{change}", (at, index), (7, 0), textcoords="offset points", va="center", color=palette.ink
        )
    name_rows(axes, [name for name, _ in levels], palette)
    axes.set_ylim(len(levels) - 0.5, -0.6)
    axes.set_xlim(start, high + 0.75 * span)
    axes.set_xlabel("PSNR in dB; the axis does not start at 0", color=palette.muted, loc="right")


def _size_bars(axes: Any, palette: Palette, stages: Sequence[ReportStage]) -> None:
    first, smallest = stages[0].bytes, min(stages, key=lambda stage: stage.bytes)
    largest = max(stage.bytes for stage in stages)
    unit, scale = ("MB", 1e6) if largest >= 100_000 else ("kB", 1e3)
    colors = [palette.accent if stage is smallest else palette.quiet for stage in stages]
    sizes = [stage.bytes / scale for stage in stages]
    _bars(axes, palette, [stage.label for stage in stages], sizes, colors)
    for index, size in enumerate(sizes):
        axes.annotate(
            format_bytes(round(size * scale)),
            (size, index),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=palette.ink,
            bbox={"facecolor": palette.paper, "edgecolor": "none", "pad": 1.5},
        )
    for parts in SHARES:
        axes.axvline(first / parts / scale, color=palette.ink, linewidth=1, linestyle=(0, (3, 3)))
        axes.annotate(
            f"1/{parts}",
            (first / parts / scale, -0.62),
            ha="left" if parts == SHARES[0] else "right",
            xytext=(3 if parts == SHARES[0] else -3, 0),
            textcoords="offset points",
            color=palette.muted,
        )
    axes.set_xlim(0, largest * 1.25 / scale)
    axes.set_ylim(len(stages) - 0.5, -0.95)
    axes.set_xlabel(
        f"{unit} on disk; dashed: 1/5 and 1/8 of the {shortened(stages[0].label)}'s",
        color=palette.muted,
        loc="right",
    )


def _bars(axes: Any, palette: Palette, names: Sequence[str], values: Sequence[float], colors: Sequence[str]) -> None:
    axes.barh(range(len(values)), values, height=0.5, color=colors)
    name_rows(axes, names, palette)


def _scatter(
    axes: Any,
    palette: Palette,
    data: tuple[Sequence[tuple[Timing, Quality, float]], Sequence[str]],
    front: Sequence[int],
) -> None:
    points, runtimes = data
    axes.plot(
        [points[index][2] for index in front],
        [points[index][1].psnr_db for index in front],
        color=palette.accent,
        linewidth=1.5,
        drawstyle="steps-post",
        zorder=1,
    )
    for index, (row, quality, ms) in enumerate(points):
        color = palette.accent if index in front else palette.quiet
        axes.plot(ms, quality.psnr_db, _MARKERS[runtimes.index(row.runtime) % len(_MARKERS)], color=color, markersize=9)
    for runtime, marker in zip(runtimes, _MARKERS * len(runtimes), strict=False):
        axes.plot([], [], marker, color=palette.muted, markersize=7, label=shortened(runtime))
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=_legend_columns(runtimes),
        frameon=False,
        labelcolor=palette.ink,
        handletextpad=0.1,
        columnspacing=1.0,
    )
    values = [quality.psnr_db for _, quality, _ in points]
    span = max(max(values) - min(values), 0.05)
    _label_stages(axes, palette, points, span)
    axes.set_xlim(0, max(ms for _, _, ms in points) * 1.28)
    axes.set_ylim(min(values) - 0.2 * span, max(values) + 0.15 * span)
    axes.grid(color=palette.line, linewidth=0.8)
    axes.set_xlabel("median ms per frame (left is faster)", color=palette.muted, loc="right")
    axes.set_ylabel("PSNR in dB (up is better)", color=palette.muted)


def _legend_columns(names: Sequence[str]) -> int:
    """As many columns as fit beside each other: a legend wider than the chart would leave no room for the axes."""
    widest = max(len(shortened(name)) for name in names)
    return max(1, min(len(names), int(_LEGEND_WIDTH / (_MARKER_WIDTH + _LETTER_WIDTH * widest))))


def _label_stages(axes: Any, palette: Palette, points: Sequence[tuple[Timing, Quality, float]], span: float) -> None:
    """Name each stage at its fastest point: above it, or below where another stage of that quality is named above."""
    fastest: dict[str, tuple[float, float]] = {}
    for row, quality, ms in points:
        fastest[row.label] = min(fastest.get(row.label, (ms, quality.psnr_db)), (ms, quality.psnr_db))
    above: list[float] = []
    longest = max(ms for _, _, ms in points)
    for label, (ms, psnr_db) in fastest.items():
        crowded = any(abs(psnr_db - other) < 0.1 * span for other in above)
        above.append(psnr_db)
        axes.annotate(
            shortened(label),
            (ms, psnr_db),
            (0, -15 if crowded else 13),
            textcoords="offset points",
            ha="center" if ms > 0.2 * longest else "left",  # centred, it would stand on the axis
            va="center",
            color=palette.ink,
        )
