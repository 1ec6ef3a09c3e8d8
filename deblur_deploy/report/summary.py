"""What a run did, in plain words and in four figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deblur_deploy.core.units import format_bytes, format_ms
from deblur_deploy.quality.gain import SMALL_GAIN_DB, gain_kept, lost_db
from deblur_deploy.report.charts import SHARES, signed
from deblur_deploy.report.stages import ORIGINAL, ReportStage, compared, in_type
from deblur_deploy.report.timings import Session, Timing


@dataclass(frozen=True)
class KeyFigure:
    """One figure that stands out.

    Args:
        value: The figure with its unit.
        label: What it is.
        note: What it is compared with.
    """

    value: str
    label: str
    note: str


def summarize(stages: Sequence[ReportStage], sessions: Sequence[Session]) -> tuple[list[str], list[KeyFigure]]:
    """Sentences for people who open the report first, and key figures beside them.

    Args:
        stages: Stages of the run, at least one.
        sessions: Its timings; each is described separately.

    Returns:
        The sentences and the key figures; what was not measured has neither.
    """
    parts = [
        _gain(stages),
        _making(stages),
        _quality(stages),
        _size(stages),
        *(_speed(session) for session in sessions),
        _proof(stages),
    ]
    return [words for words, _ in parts if words], [figure for _, figure in parts if figure]


def speedup(session: Session) -> tuple[Timing, Timing] | None:
    """The original on its fastest runtime, which is the baseline, and the fastest of the other rows.

    None where the session lacks either.
    """
    others = [row for row in session.rows if row.stage is not None and row.label != ORIGINAL]
    originals = [row for row in session.rows if row.label == ORIGINAL]
    if not others or not originals:
        return None
    baseline, fastest = (min(rows, key=lambda row: row.median) for rows in (originals, others))
    return baseline, fastest


Part = tuple[str, KeyFigure | None]


def _making(stages: Sequence[ReportStage]) -> Part:
    labels = [stage.label for stage in stages]
    if len(labels) == 1:
        return f"This run has one network: {labels[0]}.", None
    return f"One trained generator, {len(labels)} ways to deploy it: {', '.join(labels[:-1])} and {labels[-1]}.", None


def _gain(stages: Sequence[ReportStage]) -> Part:
    """What compression left of the reason to run the network at all."""
    measured = compared(stages)
    if len(measured) < 2 or measured[0][1].blurred_db is None:
        return "", None
    (_, original), (last, final) = measured[0], measured[-1]
    gain, left = -lost_db(original.blurred_db, original.psnr_db), -lost_db(original.blurred_db, final.psnr_db)
    share = gain_kept(final.psnr_db, original.psnr_db, original.blurred_db)
    if share is None:
        verdict = "does harm" if gain <= -SMALL_GAIN_DB else "gains too little to say what compression keeps of it"
        return f"The original {verdict}: {signed(gain)} dB against the blurred pictures.", None
    figure = KeyFigure(f"{share:.0%}", "Gain kept", f"{gain:.2f} → {left:.2f} dB over the blurred pictures")
    words = f"Of the {gain:.2f} dB that the original gains over the blurred pictures, {last.label} "
    if left < 0:
        return f"{words}keeps nothing: its pictures are {-left:.2f} dB worse than the blurred ones.", figure
    return f"{words}keeps {left:.2f} dB: {share:.0%}.", figure


def _quality(stages: Sequence[ReportStage]) -> Part:
    measured = compared(stages)
    if len(measured) < 2:
        return "", None
    (_, original), (last, final) = measured[0], measured[-1]
    change = -lost_db(original.psnr_db, final.psnr_db)
    where = f"the mean of {original.images} photographs" if original.images else "the mean of the photographs"
    words = (
        f"Picture quality is {original.psnr_db:.2f} dB with the original and {final.psnr_db:.2f} dB with {last.label}, "
        f"{where}: {_change(change)}. It is measured as PSNR: the closer pictures come to the sharp photographs, the "
        "more dB."
    )
    return words, KeyFigure(
        f"{signed(change)} dB", "Picture quality", f"{original.psnr_db:.2f} → {final.psnr_db:.2f} dB PSNR"
    )


def _change(change_db: float) -> str:
    """What compression has done to the quality, in words."""
    if abs(change_db) < 0.005:
        return "compression costs nothing"
    return f"compression costs {-change_db:.2f} dB" if change_db < 0 else f"compression gains {change_db:.2f} dB"


def _size(stages: Sequence[ReportStage]) -> Part:
    smallest = min(stages, key=lambda stage: stage.bytes)
    if smallest is stages[0] or stages[0].label != ORIGINAL:
        return "", None
    ratio = smallest.bytes / stages[0].bytes
    mark = SHARES[0]
    verdict = f"within the mark of 1/{mark}" if ratio <= 1 / mark else f"above the mark of 1/{mark}"
    words = (
        f"The smallest file is {smallest.label} with {format_bytes(smallest.bytes)}, 1/{1 / ratio:.1f} of the "
        f"original's {format_bytes(stages[0].bytes)}: {verdict}."
    )
    if any(stage.artifact.kind == "engine" and stage.bytes > smallest.bytes for stage in stages):
        words += " The engine is larger because it holds compiled code besides the weights."
    return words, KeyFigure(
        f"1/{1 / ratio:.1f}", "Smallest file", f"{format_bytes(stages[0].bytes)} → {format_bytes(smallest.bytes)}"
    )


def _speed(session: Session) -> Part:
    found = speedup(session)
    if found is None:
        return "", None
    before, after = found
    times = before.median / after.median
    words = (
        f"On {session.device}, {after.label} takes {format_ms(after.median)} for a {session.res} frame in "
        f"{after.runtime}, where the original takes {format_ms(before.median)} in its fastest runtime, "
        f"{before.runtime}: it is {times:.1f} times as fast."
    )
    eager = next((row for row in session.rows if row.label == ORIGINAL and row.runtime == "torch"), None)
    if eager is not None and eager is not before:
        gain = eager.median / after.median
        words += (
            f" The original in PyTorch, as it was trained, takes {format_ms(eager.median)}: {gain:.1f} times as long."
        )
    if not (before.stable and after.stable):
        words += " These figures are unstable: repeated measurements did not agree within 10 %."
    note = f"{format_ms(before.median)} in {before.runtime} → {format_ms(after.median)} in {after.runtime}"
    return words, KeyFigure(f"{times:.1f}×", f"Speed, {session.res}", note)


def _proof(stages: Sequence[ReportStage]) -> Part:
    engines = [stage for stage in stages if stage.artifact.kind == "engine"]
    if not engines:
        return "", None
    figures = engines[-1].artifact.figures
    builder = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}.get(figures["flavour"], figures["flavour"])
    shares = ", ".join(f"{share:.0%} {in_type(kind)}" for kind, share in engines[-1].precision.items())
    words = (
        f"The engine is built for {figures['target']} by {builder} {figures['flavour_version']}; by its own list of "
        f"layers it computes {shares}. Its picture quality was measured on the ONNX file that it was built from."
    )
    kind, share = next(iter(engines[-1].precision.items()))
    return words, KeyFigure(f"{share:.0%} {kind}", "Engine arithmetic", f"proven, for {figures['target']}")
