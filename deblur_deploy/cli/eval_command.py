"""``deblur-deploy eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deblur_deploy.artifact import Artifact
from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Runs, Runtime, Source


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
    from deblur_deploy.data.pairs import load_pairs
    from deblur_deploy.evaluate import EvalConfig, evaluate, write_report

    output = Output(as_json)
    artifact = output.source(source, runs, (lambda _: True) if source else is_runnable)
    report = evaluate(artifact, load_pairs(data, "evaluation"), runtime, EvalConfig(align, lpips))
    output.table(
        ["image", "blurred dB", "restored dB", "SSIM matlab", "SSIM skimage"],
        [
            [s.name, f"{s.psnr_blurred_db:.2f}", f"{s.psnr_db:.2f}", f"{s.ssim_matlab:.4f}", f"{s.ssim_skimage:.4f}"]
            for s in report.per_image
        ],
    )
    gain = report.psnr_db - report.psnr_blurred_db
    output.say(
        f"mean of {len(report.per_image)} on {report.runtime}: {report.psnr_blurred_db:.2f} dB blurred, "
        f"{report.psnr_db:.2f} dB restored ({gain:+.2f}), "
        f"SSIM {report.ssim_matlab:.4f} (matlab) {report.ssim_skimage:.4f} (skimage)"
    )
    if report.lpips is not None:
        output.say(f"LPIPS     {report.lpips:.4f}")
    if report.lpips_skipped:
        output.say(f"skipped   LPIPS: {report.lpips_skipped}")
    if csv is not None:
        output.say(f"wrote     {csv} and {write_report(report, csv)}")
    output.emit(report.as_json())
