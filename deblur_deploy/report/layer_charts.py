"""Charts of the inside of a network: the precision of its layers, and what compressing each of them costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deblur_deploy.config import PRECISIONS
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.report.canvas import Chart, Palette, name_rows, shortened
from deblur_deploy.report.scans import Scans
from deblur_deploy.report.stages import ReportStage, in_type

_ROW, _MARGIN = 34, 62
_MOST_LAYERS = 16
_TONES = ("accent", "soft", "quiet")


def precision_chart(stages: Sequence[ReportStage]) -> Chart | None:
    """Share of the arithmetic by type, for every stage that records it; None where none does."""
    known = [(stage, stage.precision) for stage in stages if stage.precision]
    if not known:
        return None
    kinds = sorted({kind for _, shares in known for kind in shares}, key=_rank)

    def draw(axes: Any, palette: Palette) -> None:
        for index, (_, shares) in enumerate(known):
            left = 0.0
            for kind in kinds:
                share = shares.get(kind, 0.0)
                if share:
                    axes.barh(index, share, left=left, height=0.5, **_tone(kind, palette))
                if share > 0.12:
                    axes.annotate(
                        f"{shortened(kind)} {share:.0%}",
                        (left, index + 0.47),
                        (2, 0),
                        textcoords="offset points",
                        va="center",
                        color=palette.muted,
                    )
                left += share
        name_rows(axes, [stage.label for stage, _ in known], palette)
        axes.set_ylim(len(known) - 0.3, -0.5)
        axes.set_xlim(0, 1)
        axes.set_xticks([])

    return Chart(
        slug="precision",
        title="Precision of the arithmetic",
        description=" ".join(
            f"{stage.label}: {', '.join(f'{share:.1%} {in_type(kind)}' for kind, share in shares.items())}."
            for stage, shares in known
        ),
        headings=("stage", *(f"{kind}, share of MACs" for kind in kinds)),
        rows=tuple((stage.label, *(f"{shares.get(kind, 0):.1%}" for kind in kinds)) for stage, shares in known),
        height=_MARGIN + _ROW * len(known) - 20,
        draw=draw,
    )


def layers_chart(engine: Artifact) -> Chart | None:
    """The type that every layer of an engine is proven to run in; None for an engine without that record.

    Args:
        engine: The engine. Where its manifest lacks the layers' multiply-accumulates, all are drawn alike.
    """
    types = dict(engine.figures.get("compute_layers", {}))
    if not types:
        return None
    macs = dict(engine.figures.get("layer_macs", {}))
    known = all(name in macs for name in types)
    heights = [macs[name] / 1e9 if known else 1.0 for name in types]
    kinds = sorted(set(types.values()), key=_rank)

    def draw(axes: Any, palette: Palette) -> None:
        for kind in kinds:
            at = [index for index, found in enumerate(types.values()) if found == kind]
            axes.bar(at, [heights[index] for index in at], width=0.8, label=shortened(kind), **_tone(kind, palette))
        axes.legend(loc="upper left", ncols=4, frameon=False, labelcolor=palette.ink)
        axes.set_xlim(-0.6, len(types) - 0.4)
        axes.set_ylim(0, max(heights) * 1.25)
        axes.set_xticks([])
        axes.set_yticks(axes.get_yticks()[1:-1:2] if known else [])
        axes.set_xlabel(f"{len(types)} layers in order of execution", color=palette.muted, loc="right")
        axes.set_ylabel("GMACs" if known else "", color=palette.muted)

    counts = ", ".join(f"{list(types.values()).count(kind)} {in_type(kind)}" for kind in kinds)
    return Chart(
        slug="layers",
        title="Precision of the engine, layer by layer",
        description=f"Of {len(types)} layers with weights, {counts}, as the builder's list of layers proves.",
        headings=("layer", "precision", "GMACs"),
        rows=tuple((name, kind, f"{macs[name] / 1e9:.4f}" if name in macs else "–") for name, kind in types.items()),
        height=210,
        draw=draw,
    )


def pruning_chart(scans: Scans) -> Chart | None:
    """Loss of quality against the share of channels kept, group by group; None where nothing was scanned."""
    if not scans.groups:
        return None
    ranked = sorted(scans.groups, key=lambda curve: -curve.points[-1][1])

    def draw(axes: Any, palette: Palette) -> None:
        for index, curve in reversed(list(enumerate(ranked))):
            shares = [1.0, *(share for share, _ in curve.points)]
            losses = [0.0, *(-drop for _, drop in curve.points)]
            color = palette.accent if index == 0 else palette.quiet
            axes.plot(shares, losses, color=color, linewidth=2 if index == 0 else 1.2)
        axes.annotate(
            shortened(ranked[0].name.split(", ")[0]),
            (ranked[0].points[-1][0], -ranked[0].points[-1][1]),
            (0, 10),
            textcoords="offset points",
            ha="right",
            color=palette.accent,
        )
        axes.set_xlim(1.02, min(curve.points[-1][0] for curve in ranked) - 0.06)
        axes.grid(color=palette.line, linewidth=0.8)
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.set_xlabel("channels of one group kept", color=palette.muted, loc="right")
        axes.set_ylabel("dB without fine-tuning", color=palette.muted)

    worst = ranked[0]
    return Chart(
        slug="pruning",
        title="What the channels are worth",
        description=(
            f"Of {len(ranked)} groups of channels, {worst.name} is the most sensitive: {worst.points[-1][1]:.2f} dB "
            f"are lost where {worst.points[-1][0]:.0%} of its channels are kept."
        ),
        headings=("layers of the group", "channels kept", "dB lost"),
        rows=tuple((curve.name, f"{share:.0%}", f"{drop:.2f}") for curve in ranked for share, drop in curve.points),
        height=270,
        draw=draw,
    )


def frame_times_chart(scans: Scans) -> Chart | None:
    """Loss of quality against the time of a frame; None where no frame times were compared."""
    front = scans.front
    if front is None:
        return None
    points = (*front.points, (front.whole_ms, 0.0, None))

    def draw(axes: Any, palette: Palette) -> None:
        times, losses = [ms for ms, _, _ in points], [-drop for _, drop, _ in points]
        axes.plot(times, losses, color=palette.quiet, linewidth=1.2, zorder=1)
        axes.plot(times[:-1], losses[:-1], "o", color=palette.accent, markersize=8)
        axes.plot(times[-1:], losses[-1:], "s", color=palette.muted, markersize=8)
        for ms, loss in zip(times, losses, strict=True):
            axes.annotate(
                f"{ms:.1f} ms", (ms, loss), (0, -16), textcoords="offset points", ha="center", color=palette.ink
            )
        span = max(max(losses) - min(losses), 0.05)
        axes.set_xlim(0, max(times) * 1.12)
        axes.set_ylim(min(losses) - 0.3 * span, max(losses) + 0.15 * span)
        axes.grid(color=palette.line, linewidth=0.8)
        axes.set_xlabel("predicted ms per frame; square: the unpruned network", color=palette.muted, loc="right")
        axes.set_ylabel("dB without fine-tuning", color=palette.muted)

    ms, drop, _ = front.points[0]
    rows = tuple((f"{ms:.1f}", f"{drop:.2f}", "all" if kept is None else str(kept)) for ms, drop, kept in points)
    return Chart(
        slug="frame-times",
        title="What a frame time costs",
        description=(
            f"In {front.timed_as}, the unpruned network takes {front.whole_ms:.1f} ms; the shortest frame time "
            f"compared, {ms:.1f} ms, is predicted to lose {drop:.2f} dB before fine-tuning."
        ),
        headings=("predicted ms", "dB lost", "channels kept"),
        rows=rows,
        height=270,
        draw=draw,
    )


def quantization_chart(scans: Scans) -> Chart | None:
    """DB lost by the most sensitive layers when each alone is quantized; None where nothing was scanned."""
    if not scans.layers:
        return None
    shown = scans.layers[:_MOST_LAYERS]

    def draw(axes: Any, palette: Palette) -> None:
        colors = [palette.accent if index == 0 else palette.quiet for index in range(len(shown))]
        axes.barh(range(len(shown)), [drop for _, drop in shown], height=0.6, color=colors)
        name_rows(axes, [name for name, _ in shown], palette)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(axis="x", color=palette.line, linewidth=0.8)
        axes.set_xlabel("dB lost when this layer alone is quantized", color=palette.muted, loc="right")

    return Chart(
        slug="quantization",
        title="What quantizing each layer costs",
        description=(
            f"{shown[0][0]} is the most sensitive of {len(scans.layers)} layers: alone it costs {shown[0][1]:.3f} dB."
        ),
        headings=("layer", "dB lost"),
        rows=tuple((name, f"{drop:.4f}") for name, drop in scans.layers),
        height=_MARGIN + 20 * len(shown),
        draw=draw,
    )


def _tone(kind: str, palette: Palette) -> dict[str, str]:
    """What is not proven is not filled."""
    if kind in PRECISIONS:
        return {"color": getattr(palette, PRECISIONS[kind].tone)}
    return {"facecolor": "none", "edgecolor": palette.muted, "hatch": "////"}


def _rank(kind: str) -> tuple[int, int, str]:
    """Fewest bits first, unproven layers last."""
    if kind not in PRECISIONS:
        return len(_TONES), 0, kind
    return _TONES.index(PRECISIONS[kind].tone), list(PRECISIONS).index(kind), kind
