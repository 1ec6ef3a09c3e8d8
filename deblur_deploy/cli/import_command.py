"""``deblur-deploy import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import RUNS, Json, Out, Runs, new_directory
from deblur_deploy.network.table import known_names

if TYPE_CHECKING:
    from deblur_deploy.network.architectures import ImportOptions

_ARCH = (
    f"Network that the checkpoint belongs to: {known_names()}, or package.module:factory for your own. Default: srn."
)

_CHECKPOINT = (
    "state_dict saved by torch, a .safetensors file, a folder of the files that make up one network, TensorFlow's "
    "checkpoint prefix, or an ONNX file, which is taken as it is."
)
_NORM = (
    "DeblurGAN-v2's normalisation: by each picture's own statistics, as the published code runs it (image, the "
    "default), or by those gathered in training, folded into the convolutions (folded)."
)
_UNSAFE = "Read a file that holds more than weights. Runs whatever code the file names: only in an isolated place."


def command(
    checkpoint: Annotated[Path, typer.Argument(help=_CHECKPOINT)],
    arch: Annotated[str | None, typer.Option(help=_ARCH, show_default=False)] = None,
    variant: Annotated[
        Literal["color", "gray", "lstm"] | None, typer.Option(help="Variant that srn-cvpr18 must be.")
    ] = None,
    norm: Annotated[Literal["image", "folded"] | None, typer.Option(help=_NORM)] = None,
    multiple_of: Annotated[
        int | None, typer.Option(min=1, help="Divisor of height and width that your own network needs.")
    ] = None,
    unsafe_pickle: Annotated[bool, typer.Option("--unsafe-pickle", help=_UNSAFE)] = False,
    runs: Runs = RUNS,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Turn a trained checkpoint into an artifact. Widths are read off the weights, so pruned networks load too."""
    from deblur_deploy.network.architectures import ImportOptions
    from deblur_deploy.network.checkpoint import import_checkpoint
    from deblur_deploy.quality.norms import compare_norms

    output = Output(as_json)
    options = ImportOptions(variant, norm, multiple_of, unsafe_pickle)
    directory = new_directory(out, runs, "import")
    if checkpoint.suffix == ".onnx":
        _take_onnx(output, checkpoint, arch, options, directory)
        return
    arch = arch or "srn"
    norms = compare_norms(checkpoint, arch, options)
    artifact = import_checkpoint(checkpoint, arch, directory, options, {"norm_psnr_db": norms} if norms else None)
    if average := artifact.history[-1].config["average"]:
        output.say(f"weights   the moving average ({average}), not the raw weights beside it")
    if norms:
        output.say(
            f"norm      {artifact.network.config['norm']} was taken; on shipped photographs image gives "
            f"{norms['image']:.2f} dB and folded {norms['folded']:.2f} dB, {norms['folded'] - norms['image']:+.2f} dB"
        )
    output.say(f"network   {arch}, {artifact.figures['params']:,} parameters, {artifact.figures['gmacs']:.1f} GMACs")
    output.wrote(artifact)


def _take_onnx(output: Output, file: Path, arch: str | None, options: ImportOptions, directory: Path) -> None:
    """Turn an ONNX file into an artifact."""
    from deblur_deploy.core.errors import ConfigError
    from deblur_deploy.export.from_onnx import import_onnx

    if arch is not None or any(vars(options).values()):
        raise ConfigError("an ONNX file is taken as it is", hint="give no option but --out and --runs")
    artifact = import_onnx(file, directory)
    size = "any size" if artifact.image.height is None else f"{artifact.image.width}x{artifact.image.height}"
    output.say(f"network   ONNX, {artifact.figures['params']:,} parameters, pictures of {size}")
    output.wrote(artifact)
