"""``deblur-deploy eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deblur_deploy.artifact import Artifact
from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Runs, Runtime, Source

if TYPE_CHECKING:
    from deblur_deploy.evaluate import EvalReport


def is_runnable(artifact: Artifact) -> bool:
    """Whether evaluation takes it by default: engines need their card."""
    return artifact.kind in ("checkpoint", "onnx")


def command(
    source: Source = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="GoPro, RealBlur, HIDE, a folder with blur/ and sharp/, or of sharp photographs to shake. "
            "Left out: the shipped pairs."
        ),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align", help="Register pictures on the sharp ones first: RealBlur's protocol.")
    ] = False,
    lpips: Annotated[bool, typer.Option("--lpips", help="Measure LPIPS too (needs the extra `lpips`).")] = False,
    csv: Annotated[Path | None, typer.Option(help="CSV file, one row per image; a summary .json lies beside.")] = None,
    runtime: Runtime = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """PSNR and SSIM on blurred/sharp pairs, with the blurred pictures' own PSNR beside."""
    from deblur_deploy.data.pairs import PairsOnDisk
    from deblur_deploy.evaluate import EvalConfig, evaluate, write_report

    output = Output(as_json)
    artifact = output.source(source, runs, (lambda _: True) if source else is_runnable)
    pairs = PairsOnDisk(data, "evaluation")
    with output.counting("evaluating", len(pairs)) as on_image:
        report = evaluate(artifact, pairs, runtime, EvalConfig(align, lpips), on_image)
    _print_report(output, report)
    if csv is not None:
        output.say(f"wrote     {csv} and {write_report(report, csv)}")
    output.emit(report.as_json())


def _print_report(output: Output, report: EvalReport) -> None:
    """A row per pair, blurred before restored, then the means."""
    figures = [("dB", "psnr_blurred_db", "psnr_db", 2)]
    figures += [(f"SSIM {name}", f"ssim_{name}_blurred", f"ssim_{name}", 4) for name in ("matlab", "skimage")]
    headings = [f"{state} {name}" for name, *_ in figures for state in ("blurred", "restored")]
    rows = [
        [score.name, *(f"{getattr(score, key):.{digits}f}" for _, *keys, digits in figures for key in keys)]
        for score in report.per_image
    ]
    output.table(["image", *headings], rows)
    gain = report.psnr_db - report.psnr_blurred_db
    output.say(
        f"mean of {len(report.per_image)} on {report.runtime}: {report.psnr_blurred_db:.2f} dB blurred, "
        f"{report.psnr_db:.2f} dB restored ({gain:+.2f}), "
        f"SSIM {report.ssim_matlab_blurred:.4f} blurred, {report.ssim_matlab:.4f} restored (matlab), "
        f"{report.ssim_skimage_blurred:.4f} blurred, {report.ssim_skimage:.4f} restored (skimage)"
    )
    if report.lpips is not None:
        output.say(f"LPIPS     {report.lpips:.4f}")
    if report.lpips_skipped:
        output.say(f"skipped   LPIPS: {report.lpips_skipped}")
