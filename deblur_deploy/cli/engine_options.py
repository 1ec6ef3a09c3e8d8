"""Options of ``deblur-deploy export-trt`` and how they are read; trtexec's spellings are accepted too."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from deblur_deploy.config import (
    DEFAULT_PRECISION,
    PRECISIONS,
    ExportConfig,
    HardwareCompatibility,
    Precision,
    ShapeConfig,
)
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution

DEFAULT_SIZE = Resolution(ExportConfig.width, ExportConfig.height)

_MOST_MIB = 2**40
"""An exbibyte: TensorRT's sizes are 64-bit numbers."""

Target = Annotated[
    str,
    typer.Option(help="Card or compute capability ('RTX 2080 Ti', 2080ti, sm75), portable (Ampere on), or current."),
]
Res = Annotated[
    list[str] | None,
    typer.Option(
        "--res",
        help="Picture size as WIDTHxHEIGHT; repeated: the engine takes each of them. "
        "Left out: the ONNX artifact's own, else 640x360.",
    ),
]
MinRes = Annotated[str | None, typer.Option(help="Smallest size of a range that the engine takes, instead of --res.")]
OptRes = Annotated[str | None, typer.Option(help="The size of the range to tune for. Left out: the largest.")]
MaxRes = Annotated[str | None, typer.Option(help="Largest size of the range.")]
Batch = Annotated[str, typer.Option(help="Pictures at a time: 4, or a range such as 1-4.")]
Workspace = Annotated[
    float | None, typer.Option(help="Scratch memory that the engine may use, in MiB. Left out: all there is.")
]
TimingCache = Annotated[
    Path | None,
    typer.Option(
        "--timing-cache",
        "--timingCacheFile",
        help="File of kernel timings to start from and to add to. Not TensorRT-RTX.",
    ),
]
StripWeights = Annotated[
    bool,
    typer.Option(
        "--strip-weights",
        "--stripWeights",
        help="Leave the weights out: they are put in at load, from the ONNX file that the engine is built from. "
        "TensorRT-RTX needs a GPU for it.",
    ),
]
Refit = Annotated[bool, typer.Option("--refit", help="Let the weights be replaced without building again.")]
VersionCompatible = Annotated[
    bool,
    typer.Option(
        "--version-compatible",
        "--versionCompatible",
        "--vc",
        help="Later releases of the major version load the engine too. Not TensorRT-RTX.",
    ),
]
Compatibility = Annotated[
    HardwareCompatibility,
    typer.Option(
        "--hardware-compatibility",
        "--hardwareCompatibilityLevel",
        help="Other cards that run the engine. TensorRT-RTX: --target portable.",
    ),
]
OptimizationLevel = Annotated[
    int | None,
    typer.Option(
        "--optimization-level",
        "--builderOptimizationLevel",
        help="How long the builder may search: 0 (fast) to 5 (thorough).",
    ),
]
Plugin = Annotated[
    str,
    typer.Option(
        help="The deformable convolution in the full TensorRT: aot (its kernel inside the engine), the library that "
        "build-plugin wrote, or none (standard operators). auto takes aot.",
    ),
]


def with_precision_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag for each row of the table of precisions, in place of its parameter ``precision``."""
    labels = list(PRECISIONS)
    names = {label: label.replace("-", "_") for label in labels}

    @functools.wraps(command)
    def flagged(**given: Any) -> None:
        flags = {label: given.pop(names[label]) for label in labels}
        command(precision=chosen_precision(flags), **given)

    types, signature = get_type_hints(command, include_extras=True), inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name != "precision":
            parameters.append(parameter.replace(annotation=types[parameter.name]))
            continue
        for label in labels:
            flag = Annotated[bool, typer.Option(f"--{label}", help=PRECISIONS[label].help)]
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            parameters.append(inspect.Parameter(names[label], kind, default=False, annotation=flag))
    flagged.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    flagged.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return flagged


def chosen_precision(flags: Mapping[str, bool]) -> Precision:
    """The precision whose flag was given; the default one if there was none.

    Raises:
        ConfigError: Several were given.
    """
    given = [name for name, is_given in flags.items() if is_given]
    if len(given) > 1:
        named = " and ".join(f"--{name}" for name in given)
        raise ConfigError(f"{named} were given, and an engine has one precision", hint="give one of them")
    return given[0] if given else DEFAULT_PRECISION


def parse_batch(text: str) -> tuple[int, int]:
    """Read ``4`` or ``1-4``: fewest and most pictures at a time.

    Raises:
        ConfigError: The text has another form.
    """
    found = re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", text)
    if found is None:
        raise ConfigError(f"--batch is {text!r}", hint="give a number of pictures, such as 4, or a range such as 1-4")
    return int(found[1]), int(found[2] or found[1])


def workspace_bytes(mebibytes: float | None) -> int | None:
    """Bytes of a number of MiB, which is trtexec's unit.

    Raises:
        ConfigError: It is not an amount of memory.
    """
    if mebibytes is None:
        return None
    if not 1 <= mebibytes <= _MOST_MIB:  # NaN is refused, too
        raise ConfigError(f"--workspace is {mebibytes:g}", hint="give MiB from 1 up, such as 1024 for 1 GiB")
    return int(mebibytes * 2**20)


def with_default_size(shapes: ShapeConfig) -> ShapeConfig:
    """The same, with the usual size where none was given."""
    if shapes.res or shapes.max_res is not None:
        return shapes
    return replace(shapes, res=(str(DEFAULT_SIZE),))
