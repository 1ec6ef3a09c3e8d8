"""Figures that only a GPU gives, read from the records of the scenarios that measure them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

OURS = "fused kernel, NHWC"
IM2COL = "im2col + cuBLAS"
GRID_SAMPLE = "grid_sample"
COMPILED = "grid_sample, torch.compile"

Quantity = Literal["im2col-ratio", "grid-sample-ratio", "compile-ratio", "floor-share", "graph-ratio"]

_RIVALS = {"im2col-ratio": IM2COL, "grid-sample-ratio": GRID_SAMPLE, "compile-ratio": COMPILED}
_JUDGED = "f16"
_NO_GRAPH = "-no-graph"


def figure_of(quantity: Quantity, details: Mapping[str, Any]) -> float | None:
    """A figure of a record, the smallest where there are several.

    Args:
        quantity: A rival's time over the kernel's, the share of the roofline floor that the kernel reaches, or the
            time of an engine without a CUDA graph over that with one.
        details: The record's details.

    Returns:
        The figure, or None where the record has none.
    """
    if quantity == "graph-ratio":
        found = _graph_ratios(details)
    else:
        rows = [row for row in details.get("rows", ()) if row["element"] == _JUDGED]
        if quantity == "floor-share":
            found = [row["floor_share"] for row in rows]
        else:
            rival = _RIVALS[quantity]  # torch.compile is left out where time is short
            found = [row["ratios"][rival] for row in rows if rival in row["ratios"]]
    return min(found, default=None)


def _graph_ratios(details: Mapping[str, Any]) -> list[float]:
    """Time without a graph over time with one, of every engine that was timed both ways."""
    timed = {
        (row["artifact"], row["runtime"]): row["latency_ms"]["median"]
        for row in details.get("rows", ())
        if row["latency_ms"] and row["stable"]
    }
    return [
        timed[artifact, runtime + _NO_GRAPH] / ms
        for (artifact, runtime), ms in timed.items()
        if (artifact, runtime + _NO_GRAPH) in timed
    ]
