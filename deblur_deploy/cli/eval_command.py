"""``deblur-deploy eval``."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Runs, Runtime, Source
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.units import one_line
from deblur_deploy.quality.gain import format_db, format_share, gain_of, lost_db

if TYPE_CHECKING:
    from deblur_deploy.data.pairs import Image8
    from deblur_deploy.quality.evaluate import EvalReport


def is_runnable(artifact: Artifact) -> bool:
    """Whether evaluation takes it by default: engines need their card."""
    return artifact.kind in ("checkpoint", "onnx")


def command(
    source: Source = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="GoPro, REDS, RealBlur, HIDE, a folder with blur/ and sharp/, or of sharp photographs to shake. "
            "Left out: the shipped pairs."
        ),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align", help="Register pictures on the sharp ones first: RealBlur's protocol.")
    ] = False,
    lpips: Annotated[bool, typer.Option("--lpips", help="Measure LPIPS too (needs the extra `lpips`).")] = False,
    csv: Annotated[
        Path | None, typer.Option(help="CSV file, one row per image; a summary .json is written next to it.")
    ] = None,
    blurred: Annotated[
        Path | None,
        typer.Option(
            help="Folder of blurred photographs without sharp ones: colour shift and overshoot are measured instead."
        ),
    ] = None,
    sheets: Annotated[
        Path | None, typer.Option(help="With --blurred: folder for a picture of each photograph, before and after.")
    ] = None,
    temporal: Annotated[
        bool,
        typer.Option("--temporal", help="Pairs are frames of films: compare frame by frame and with the frame before."),
    ] = False,
    runtime: Runtime = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """PSNR and SSIM on blurred/sharp pairs, of the blurred pictures and of the restored ones.

    With --blurred, on photographs without a sharp partner: colour shift on flat surfaces and the share of pixels that
    overshoot, which need no reference.
    """
    _check_flags(blurred, sheets, needs_sharp=bool(data or align or lpips or csv or temporal))
    if temporal and (align or lpips or csv):
        raise ConfigError("--temporal measures PSNR and flicker alone", hint="leave out --align, --lpips and --csv")
    output = Output(as_json)
    artifact = output.source(source, runs, (lambda _: True) if source else is_runnable)
    if blurred is not None:
        _evaluate_blurred(output, artifact, blurred, sheets, runtime)
        return
    if temporal:
        _evaluate_films(output, artifact, data, runtime)
        return
    from deblur_deploy.data.pairs import PairsOnDisk
    from deblur_deploy.quality.evaluate import EvalConfig, evaluate, write_report

    pairs = PairsOnDisk(data, "evaluation")
    with output.counting("evaluating", len(pairs)) as on_image:
        report = evaluate(artifact, pairs, runtime, EvalConfig(align, lpips), on_image)
    kept = _print_report(output, report, artifact)
    if csv is not None:
        output.say(f"wrote     {csv} and {write_report(report, csv)}")
    output.emit(report.as_json() | kept)


def _evaluate_films(output: Output, artifact: Artifact, data: Path | None, runtime: str | None) -> None:
    """PSNR and flicker of films, frame by frame and with the frame before."""
    from deblur_deploy.data.films import load_films
    from deblur_deploy.quality.film_quality import evaluate_films

    films = load_films(data)
    with output.counting("restoring", 2 * sum(map(len, films))) as on_frame:
        report = evaluate_films(artifact, films, runtime, on_frame)
    rows = [
        [score.way, f"{score.psnr_db:.2f}", "-" if score.flicker is None else f"{score.flicker:.3f}", str(score.cuts)]
        for score in report.scores
    ]
    output.table(["way", "dB", "flicker", "cuts"], rows)
    output.say(
        f"{report.films} films of {report.frames} frames together on {report.runtime}; flicker is over that of the "
        "sharp films"
    )
    output.emit(report.as_json())


def _check_flags(blurred: Path | None, sheets: Path | None, needs_sharp: bool) -> None:
    """Refuse flags that do not go together."""
    if sheets is not None and blurred is None:
        raise ConfigError("--sheets needs --blurred", hint="name the folder of blurred photographs with --blurred")
    if blurred is not None and needs_sharp:
        reason = "--blurred has no sharp photographs for --data, --align, --lpips, --csv and --temporal"
        raise ConfigError(reason, hint="leave those out, or leave --blurred out")


def _evaluate_blurred(
    output: Output, artifact: Artifact, folder: Path, sheets: Path | None, runtime: str | None
) -> None:
    """Measure the side effects on every photograph of a folder, and draw it before and after if that is wanted."""
    from deblur_deploy.data.pairs import blurred_files
    from deblur_deploy.quality.evaluate_blurred import evaluate_blurred
    from deblur_deploy.report.photographs import save_before_after

    files = blurred_files(folder)
    with output.counting("restoring", len(files)) as on_image:
        done = itertools.count(1)

        def show(name: str, blurred: Image8, restored: Image8) -> None:
            if sheets is not None:
                save_before_after(sheets, name.replace("/", "-"), blurred, restored)
            on_image(next(done))

        report = evaluate_blurred(artifact, files, runtime, show, folder)
    rows = []
    for name, effects in report.per_image:
        shifts = [f"{shift:+.2f}" for shift in effects.color_shift] if effects.color_shift else ["-"] * 3
        rows.append([one_line(name), f"{effects.flat_share:.0%}", *shifts, f"{effects.overshoot_share:.2%}"])
    output.table(["image", "flat", "shift R", "shift G", "shift B", "overshoot"], rows)
    largest = (
        "no flat surface to measure a colour shift on"
        if report.color_shift is None
        else (f"colour shift at most {report.color_shift:.2f} of 255 on flat areas")
    )
    overshoot = f"{report.overshoot_share:.2%} of the pixels overshoot"
    output.say(f"{len(report.per_image)} on {report.runtime}: {largest}, {overshoot}")
    if sheets is not None:
        output.say(f"wrote     {sheets}")
    output.emit(report.as_json())
    for _, error in report.failed:
        output.say(f"failed    {one_line(error)}")
    if report.failed:
        names = ", ".join(one_line(name) for name, _ in report.failed[:10])
        raise ArtifactError(
            f"{len(report.failed)} of {len(files)} photographs failed: {names}", hint="the lines above say why"
        )


def _print_report(output: Output, report: EvalReport, artifact: Artifact) -> dict[str, Any]:
    """A row per pair, blurred before restored, then the means; what they say of the gain kept, if anything."""
    figures = [("dB", "psnr_blurred_db", "psnr_db", 2)]
    figures += [(f"SSIM {name}", f"ssim_{name}_blurred", f"ssim_{name}", 4) for name in ("matlab", "skimage")]
    headings = [f"{state} {name}" for name, *_ in figures for state in ("blurred", "restored")]
    rows = [
        [score.name, *(f"{getattr(score, key):.{digits}f}" for _, *keys, digits in figures for key in keys)]
        for score in report.per_image
    ]
    output.table(["image", *headings], rows)
    gain = -lost_db(report.psnr_blurred_db, report.psnr_db)
    output.say(
        f"mean of {len(report.per_image)} on {report.runtime}: {format_db(report.psnr_blurred_db)} dB blurred, "
        f"{format_db(report.psnr_db)} dB restored ({gain:+.2f}), "
        f"SSIM {report.ssim_matlab_blurred:.4f} blurred, {report.ssim_matlab:.4f} restored (matlab), "
        f"{report.ssim_skimage_blurred:.4f} blurred, {report.ssim_skimage:.4f} restored (skimage)"
    )
    if report.lpips is not None:
        output.say(f"LPIPS     {report.lpips:.4f}")
    if report.lpips_skipped:
        output.say(f"skipped   LPIPS: {report.lpips_skipped}")
    kept = gain_of(artifact.history, {"psnr_db": report.psnr_db, "psnr_blurred_db": report.psnr_blurred_db})
    if kept:
        share, original = format_share(kept["gain_kept"]), format_db(kept["psnr_original_db"])
        output.say(f"gain kept {share} (the original has {original} dB)")
    return kept
