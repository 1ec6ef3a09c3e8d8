"""``deblur-deploy verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import Json
from deblur_deploy.core.artifact import Artifact, load_artifact


def command(
    first: Annotated[Path, typer.Argument(help="An artifact, such as the checkpoint.")],
    second: Annotated[Path, typer.Argument(help="Another, such as the ONNX file made from it.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of images. Left out: the shipped pairs' blurred pictures.")
    ] = None,
    max_abs: Annotated[float | None, typer.Option(help="Largest difference allowed, in [0, 1].")] = None,
    psnr_db: Annotated[float | None, typer.Option(help="Least PSNR allowed between the two.")] = None,
    as_json: Json = False,
) -> None:
    """Compare two artifacts on the same images; more apart than allowed is an error."""
    a, b = load_artifact(first), load_artifact(second)
    from deblur_deploy.core.errors import VerificationError
    from deblur_deploy.core.images import list_images, load_rgb
    from deblur_deploy.data.pairs import load_pairs
    from deblur_deploy.quality.verify import Tolerances, default_tolerances, drift_between, verify

    output = Output(as_json)
    pictures = [load_rgb(path) for path in list_images(images)] if images else [p.blurred for p in load_pairs(None)]
    asked = {"max_abs": max_abs, "psnr_db": psnr_db}
    given = {key: value for key, value in asked.items() if value is not None}
    tolerances = Tolerances(**given) if given else default_tolerances(a, b)
    report = verify(a, b, pictures, tolerances if given else None)
    output.say(
        f"{len(pictures)} images: max error {report.max_abs:.2e}, mean {report.mean_abs:.2e}, "
        f"PSNR between the two {report.psnr_db:.2f} dB"
    )
    if report.noise_psnr_db is not None:
        output.say(f"noise of 1e-6 on the pictures alone moves the quantized network by {report.noise_psnr_db:.2f} dB")
    if drift := drift_between(a, b, pictures):
        output.say(f"mean error after each scale: {', '.join(f'{error:.1e}' for error in drift.scales)}")
        output.say(
            f"after {len(drift.applications)} applications of one scale: {drift.applications[-1]:.1e}, "
            f"{drift.growth:.1f} times the first"
        )
    output.emit(report.as_json() | {"drift": drift.as_json() if drift else None})
    if not report.passed:
        raise VerificationError(
            f"{first} and {second} differ by more than {tolerances}",
            hint=f"{_where_to_look(a, b)}, or allow more with --max-abs or --psnr-db",
        )


def _where_to_look(a: Artifact, b: Artifact) -> str:
    """How to find what makes the difference."""
    by_kind = {artifact.kind: artifact for artifact in (a, b)}
    if by_kind.keys() == {"onnx", "engine"}:
        from deblur_deploy.engine.layers import can_reduce, reduce_command

        if can_reduce():
            return f"find the nodes with `{reduce_command(by_kind['onnx'], by_kind['engine'])}`"
    return "look at the step between them"
