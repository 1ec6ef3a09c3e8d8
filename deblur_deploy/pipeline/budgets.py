"""Whether a run kept its budgets, and which stage cost what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deblur_deploy.core.errors import BudgetError
from deblur_deploy.pipeline.findings import latency_ms, measured_runtimes
from deblur_deploy.pipeline.recipe import Budget
from deblur_deploy.pipeline.run_stages import RunArtifacts
from deblur_deploy.quality.gain import format_share, gain_kept, lost_db


def check_budgets(budget: Budget, made: RunArtifacts, quality: dict[str, Any], bench: dict[str, Any] | None) -> None:
    """Compare the last ONNX file of a run with the original's.

    Args:
        budget: What must hold.
        made: What the run made; all of it is kept, whatever comes out here.
        quality: As ``read_quality`` gives it.
        bench: As ``measure_latency`` gives it, or None where nothing was timed.

    Raises:
        BudgetError: A budget is missed. The message says by how much and what each stage did; the hint names the
            smallest ONNX file that is within the quality budget.
    """
    sizes = {row: graph.path.stat().st_size for row, graph in made.onnx.items()}
    missed = [
        *_missed_quality(budget, quality["psnr_db"]),
        *_missed_gain(budget, quality),
        *_missed_size(budget, sizes),
        *_missed_speed(budget, made, bench),
    ]
    if missed:
        raise BudgetError("; ".join(missed), hint=_hint(budget, quality, made, sizes))


def _missed_quality(budget: Budget, psnr_db: Mapping[str, float | None]) -> list[str]:
    values = list(psnr_db.values())
    lost = lost_db(values[0], values[-1])
    if budget.max_drop_db is None or lost <= budget.max_drop_db:
        return []
    losses = {row: lost_db(before, after) for (row, after), before in _with_before(psnr_db)}
    worst = max(losses, key=lambda row: losses[row], default="no stage")
    steps = ", ".join(f"{row} {loss:.2f}" for row, loss in losses.items())
    return [
        f"{lost:.2f} dB were lost, {lost - budget.max_drop_db:.2f} more than max_drop_db = {budget.max_drop_db} allows "
        f"({steps}: most in {worst})"
    ]


def _missed_gain(budget: Budget, quality: Mapping[str, Any]) -> list[str]:
    if budget.min_gain_kept is None:
        return []
    psnr_db, blurred_db = quality["psnr_db"], quality["blurred_db"]
    shares = {row: gain_kept(value, psnr_db["original"], blurred_db) for row, value in psnr_db.items()}
    kept = list(shares.values())[-1]
    if kept is None:
        gain = lost_db(psnr_db["original"], blurred_db)
        return [
            f"the original gains {gain:.2f} dB over the blurred input, too little to say what is kept of it, so "
            f"min_gain_kept = {budget.min_gain_kept} cannot be checked"
        ]
    if kept >= budget.min_gain_kept:
        return []
    steps = ", ".join(f"{row} {format_share(share)}" for row, share in list(shares.items())[1:])
    return [f"{kept:.1%} of the gain is kept, and min_gain_kept = {budget.min_gain_kept} ({steps})"]


def _missed_size(budget: Budget, sizes: Mapping[str, int]) -> list[str]:
    values = list(sizes.values())
    ratio = values[-1] / values[0]
    if budget.max_size_ratio is None or ratio <= budget.max_size_ratio:
        return []
    shares = {row: after / before for (row, after), before in _with_before(sizes)}
    worst = max(shares, key=lambda row: shares[row], default="no stage")
    steps = ", ".join(f"{row} x{share:.2f}" for row, share in shares.items())
    return [
        f"the last file has {ratio:.3f} of the original's bytes, {ratio / budget.max_size_ratio:.2f} times what "
        f"max_size_ratio = {budget.max_size_ratio} allows ({steps}: {worst} saved least)"
    ]


def _missed_speed(budget: Budget, made: RunArtifacts, bench: dict[str, Any] | None) -> list[str]:
    if budget.min_speedup is None:
        return []
    baseline = fastest(made, "original", bench)
    timed = {row: found[1] for row in made.onnx if (found := fastest(made, row, bench))}
    last = list(made.onnx)[-1] if made.engine is None else list(made.checkpoints)[-1]
    if baseline is None or last not in timed:
        return [f"{last} could not be timed here, so min_speedup = {budget.min_speedup} cannot be checked"]
    runtime, baseline_ms = baseline
    speedup = baseline_ms / timed[last]
    if speedup >= budget.min_speedup:
        return []
    steps = ", ".join(f"{row} {baseline_ms / ms:.1f}x" for row, ms in timed.items())
    return [
        f"{last} is {speedup:.1f} times as fast as the original in its fastest runtime, {runtime}, and min_speedup = "
        f"{budget.min_speedup} ({steps})"
    ]


def fastest(made: RunArtifacts, row: str, bench: dict[str, Any] | None) -> tuple[str, float] | None:
    """The runtime on which a row was fastest, and its median latency there in ms; None where it was timed on none."""
    measured = {runtime: latency_ms(made, row, bench, runtime) for runtime in measured_runtimes(bench)}
    timed = {runtime: ms for runtime, ms in measured.items() if ms is not None}
    return min(timed.items(), key=lambda item: item[1], default=None)


def _with_before(values: Mapping[str, Any]) -> list[tuple[tuple[str, Any], Any]]:
    """Every row but the first, with the value of the row before it."""
    items = list(values.items())
    return [(item, before) for item, (_, before) in zip(items[1:], items, strict=False)]


def _hint(budget: Budget, quality: Mapping[str, Any], made: RunArtifacts, sizes: Mapping[str, int]) -> str:
    allowed = float("inf") if budget.max_drop_db is None else budget.max_drop_db
    psnr_db, least = quality["psnr_db"], budget.min_gain_kept
    good = [row for row, value in psnr_db.items() if lost_db(psnr_db["original"], value) <= allowed]
    if least is not None:
        shares = {row: gain_kept(psnr_db[row], psnr_db["original"], quality["blurred_db"]) for row in good}
        good = [row for row, share in shares.items() if row == "original" or (share is not None and share >= least)]
    best = made.onnx[min(good, key=lambda row: sizes[row])].path
    advice = "keep more channels or tune for longer" if len(good) < len(psnr_db) else "keep fewer channels"
    return f"everything is kept, and {best} is the smallest that keeps enough quality; {advice}"
