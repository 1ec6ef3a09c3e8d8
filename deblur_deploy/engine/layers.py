"""Polygraphy, NVIDIA's tool for TensorRT models, for two tasks: listing layers, and finding a bad one.

It runs in a process of its own, for its choice between the flavours of TensorRT is one of the whole process.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.util import find_spec

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError, MissingDependencyError
from deblur_deploy.runtime.engine_fit import engine_unavailable, flavour_of

_START = "import sys; from polygraphy.tools import main; sys.exit(main())"
_USE_RTX = "POLYGRAPHY_USE_TENSORRT_RTX"
_TIMEOUT_S = 300


def has_polygraphy() -> bool:
    """Whether Polygraphy is installed."""
    return find_spec("polygraphy") is not None


def can_reduce() -> bool:
    """Whether everything that :func:`reduce_command` needs is installed."""
    return has_polygraphy() and find_spec("onnx_graphsurgeon") is not None


def list_layers(artifact: Artifact) -> str:
    """Polygraphy's description of a graph: inputs, outputs, and every layer with its tensors.

    Args:
        artifact: An ONNX file, or an engine for this machine's card.

    Returns:
        Lines of text.

    Raises:
        ConfigError: A checkpoint has no layers in this sense.
        MissingDependencyError: Polygraphy is not installed.
        ArtifactError: Polygraphy cannot read the file.
        DeblurDeployError: The engine cannot be loaded here.
    """
    if artifact.kind == "checkpoint":
        raise ConfigError(
            f"{artifact.directory} is a checkpoint, and layers are listed of ONNX files and engines",
            hint="export it first: `deblur-deploy export-onnx`",
        )
    if not has_polygraphy():
        raise MissingDependencyError("Polygraphy, which lists layers, is not installed", hint="pip install polygraphy")
    if artifact.kind == "engine" and (unavailable := engine_unavailable(artifact)):
        raise unavailable
    kind = "engine" if artifact.kind == "engine" else "onnx"
    options = ["inspect", "model", str(artifact.path), "--model-type", kind, "--show", "layers"]
    use_rtx = artifact.kind == "engine" and flavour_of(artifact) == "rtx"
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _START, *options],
            env=os.environ | {_USE_RTX: "1" if use_rtx else "0"},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as err:
        raise ArtifactError(
            f"Polygraphy did not finish with {artifact.path} after {_TIMEOUT_S} s",
            hint=f"run it yourself: `polygraphy {shlex.join(options)}`",
        ) from err
    if ended.returncode:
        lines = (ended.stderr or ended.stdout).strip().splitlines()
        raise ArtifactError(
            f"Polygraphy cannot read {artifact.path}: {lines[-1] if lines else 'it does not say why'}",
            hint="make the artifact again",
        )
    start = ended.stdout.find("====")
    return ended.stdout[max(start, 0) :].rstrip()


def reduce_command(onnx: Artifact, engine: Artifact) -> str:
    """The command that cuts an ONNX file down to the nodes in which TensorRT and onnxruntime differ.

    A file with free sizes is looked at in the first shape that the engine was tuned for.

    Args:
        onnx: The ONNX artifact.
        engine: An engine built from it; its TensorRT is the one that is asked.
    """
    profiles = engine.figures.get("profiles") or ()
    shapes = [f"{profile['input']}:{list(profile['opt'])}".replace(" ", "") for profile in profiles[:1]]
    sized = f" --model-input-shapes {shlex.join(shapes)}" if shapes else ""
    prefix = f"{_USE_RTX}=1 " if flavour_of(engine) == "rtx" else ""
    check = "--check polygraphy run polygraphy_debug.onnx --trt --onnxrt --atol 1e-2"
    reduce = f"polygraphy debug reduce {shlex.quote(str(onnx.path))} -o reduced.onnx --mode bisect{sized}"
    return f"{prefix}{reduce} {check}"
