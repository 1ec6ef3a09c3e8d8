"""Gates: this measurement against an earlier one, and against a budget of milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deblur_deploy.bench.samples import median_ratio_interval
from deblur_deploy.core.bench_rows import Record, batch_of, device_identity, has_transfers
from deblur_deploy.core.errors import BudgetError, ConfigError

Verdict = Literal["kept", "slower", "failed", "unstable", "not measured"]


@dataclass(frozen=True)
class Comparison:
    """A row against the same row of an earlier measurement.

    Args:
        name: Artifact, runtime, size, batch where it is more than one, and that there are no transfers.
        verdict: ``kept`` or ``slower``; ``failed`` where it ran before and does not now; ``unstable`` where one of
            both figures does not count; ``not measured`` where it is not among today's rows.
        ratio: Median of then over median of now: above 1 is faster.
        ratio_ci: 95 % interval of the ratio.
        note: What else differs: the payload, a setting.
    """

    name: str
    verdict: Verdict
    ratio: float | None = None
    ratio_ci: tuple[float, float] | None = None
    note: str = ""


def device_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """In what two machines differ, in words; library versions do not count, because gates exist to compare new ones."""
    here, there = device_identity(ours), device_identity(theirs)
    return [f"{fact} is {now} and was {there[fact]}" for fact, now in here.items() if now != there[fact]]


def compare(now: Sequence[Record], then: Sequence[Record], fail_below: float) -> list[Comparison]:
    """Hold every row of an earlier measurement against the same row of now.

    Rows are the same where artifact (its last folder), runtime, size and batch are, and both have transfers or none.

    Args:
        now: Records of this measurement.
        then: Records of the earlier one, from the same device.
        fail_below: Least ratio that does not count as a loss, such as 0.95.
    """
    by_key = {_key(record): record for record in now}
    return [_compare_row(by_key.get(_key(old)), old, fail_below) for old in then if old["latency_ms"]]


def refuse_other_device(differences: Sequence[str], path: Path) -> None:
    """Refuse to compare two machines.

    Raises:
        ConfigError: There are differences; the message says which.
    """
    if differences:
        raise ConfigError(
            f"{path} was measured on another device: {'; '.join(dict.fromkeys(differences))}",
            hint="measure the baseline on this device, or give --other-device to compare all the same",
        )


def check_comparison(comparisons: Sequence[Comparison], fail_below: float) -> None:
    """End with exit code 3 where something got slower.

    Raises:
        BudgetError: A row is slower than allowed or fails now, or no row could be compared at all.
    """
    lost = [
        f"{row.name} has {row.ratio:.2f} of the baseline's speed" if row.ratio is not None else f"{row.name} fails now"
        for row in comparisons
        if row.verdict in ("slower", "failed")
    ]
    if lost:
        raise BudgetError(
            f"{'; '.join(lost)}; --fail-below is {fail_below:g}", hint="measure again on an idle machine to be sure"
        )
    if not any(row.verdict == "kept" for row in comparisons):
        raise BudgetError(
            "no row of the baseline could be compared: none is measured and stable on both sides",
            hint="measure the same artifacts, sizes and runtimes on an idle machine, with more --seconds",
        )


def check_latency_budget(records: Sequence[Record], budget_ms: float) -> None:
    """End with exit code 3 unless a row is fast enough; only stable figures count, and with transfers.

    Raises:
        BudgetError: The fastest stable median is above the budget, or there is none.
    """
    counted = [record for record in records if _counts(record) and has_transfers(record)]
    timed = {_name(record): record["latency_ms"]["median"] for record in counted}
    if not timed:
        raise BudgetError(
            f"there is no stable figure to compare with {budget_ms:g} ms",
            hint="measure on an idle machine, with more --seconds",
        )
    fastest = min(timed, key=lambda name: timed[name])
    if timed[fastest] > budget_ms:
        raise BudgetError(
            f"the fastest row takes {timed[fastest]:.2f} ms ({fastest}), and the budget is {budget_ms:g} ms",
            hint="prune more, quantize, choose a smaller --res, or a faster runtime",
        )


def _compare_row(new: Record | None, old: Record, fail_below: float) -> Comparison:
    name = _name(old)
    if new is None:
        return Comparison(name, "not measured")
    if new["latency_ms"] is None:
        return Comparison(name, "failed", note=new["skipped"] or "")
    note = _note(new, old)
    before, after = (_counted_ms(record) for record in (old, new))
    ratio = old["latency_ms"]["median"] / new["latency_ms"]["median"]
    interval = median_ratio_interval(before, after) if before and after else None
    if not (_counts(new) and _counts(old)):
        return Comparison(name, "unstable", ratio, interval, note)
    return Comparison(name, "slower" if ratio < fail_below else "kept", ratio, interval, note)


def _note(new: Record, old: Record) -> str:
    """What differs besides the time: the payload, and settings such as the way of waiting for a GPU."""
    notes = [] if new["sha256"] == old["sha256"] else ["the payload differs"]
    now, then = new.get("settings", {}), old.get("settings", {})
    differing = [name for name in now if name in then and now[name] != then[name]]
    return "; ".join([*notes, *(f"{name} is {now[name]} and was {then[name]}" for name in differing)])


def _counted_ms(record: Record) -> list[float]:
    """Samples of the last windows, as many as agree when a figure counts."""
    return [sample for window in record["windows_ms"][-3:] for sample in window]


def _counts(record: Record) -> bool:
    return record["latency_ms"] is not None and record["stable"]


def _key(record: Record) -> tuple[str, str, str, int, bool]:
    return Path(record["artifact"]).name, record["runtime"], record["res"], batch_of(record), has_transfers(record)


def _name(record: Record) -> str:
    artifact, runtime, res, batch, transfers = _key(record)
    batches, copies = f" in batches of {batch}" if batch > 1 else "", "" if transfers else " without transfers"
    return f"{artifact} on {runtime} at {res}{batches}{copies}"
