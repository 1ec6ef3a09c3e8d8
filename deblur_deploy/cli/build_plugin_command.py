"""``deblur-deploy build-plugin``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deblur_deploy.cli.console import Output, format_bytes
from deblur_deploy.cli.options import Json
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.engine.targets import resolve_target
from deblur_deploy.kernels.plugin_library import CAPABILITIES, PluginBuildConfig, build_plugin


def capabilities_of(targets: list[str]) -> tuple[str, ...]:
    """Compute capabilities without the dot, of cards by name.

    Raises:
        ConfigError: A card is unknown, or is not one particular card.
    """
    numbers = []
    for text in targets:
        target = resolve_target(text)
        if target.capability is None:
            raise ConfigError(
                f"--target is {target.name!r}, and the plugin is compiled for particular cards",
                hint="name cards, such as '--target 2080ti --target sm86', or leave it out for all",
            )
        numbers.append(target.capability.replace(".", ""))
    return tuple(dict.fromkeys(numbers)) or CAPABILITIES


def command(
    tensorrt_include: Annotated[
        Path | None, typer.Option(help="Directory of NvInferRuntime.h. Left out: where TensorRT is usually installed.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Card or compute capability; may be repeated. Left out: every card from SM75 to SM120."),
    ] = None,
    nvcc: Annotated[Path | None, typer.Option(help="CUDA's compiler. Left out: the one on the path.")] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("libdeblur_plugin.so"),
    as_json: Json = False,
) -> None:
    """Compile the deformable convolution's TensorRT plugin for trtexec and C++ programs; no GPU is needed."""
    output = Output(as_json)
    config = PluginBuildConfig(tensorrt_include, capabilities_of(target or []), nvcc)
    output.say(f"cards     {', '.join(f'SM{number}' for number in config.capabilities)}")
    library = build_plugin(config, out)
    output.say(f"headers   TensorRT {library.tensorrt_version}, CUDA {library.cuda_version}")
    output.say(f"wrote     {library.path} ({format_bytes(library.path.stat().st_size)})")
    output.say(f"use it    trtexec --onnx=model.onnx --dynamicPlugins={library.path} --enablePluginOverride")
    output.emit(
        {
            "library": str(library.path),
            "tensorrt": library.tensorrt_version,
            "cuda": library.cuda_version,
            "capabilities": list(config.capabilities),
            "creators": library.creators,
        }
    )
