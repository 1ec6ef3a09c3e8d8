"""Whether an engine can run here, as far as its manifest and the driver tell before it is loaded.

An engine is bound to the TensorRT that built it (flavour and version) and to a compute capability. TensorRT's own
answer to a wrong one is a number or a null pointer; here it is a sentence and a command.
"""

from __future__ import annotations

import importlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from deblur_deploy.config import DEFAULT_PRECISION, PRECISIONS
from deblur_deploy.core.artifact import Artifact, hash_file
from deblur_deploy.core.errors import ArtifactError, BuildError, DeblurDeployError, MissingDependencyError
from deblur_deploy.runtime.nvidia import Gpu, count_nvidia_gpus, find_gpu

_MODULES = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
_TITLES = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
_INSTALL = {"rtx": "pip install tensorrt-rtx-cu13", "tensorrt": "pip install tensorrt"}

_AMPERE = (8, 0)
"""First capability of engines for several cards: TensorRT-RTX's portable ones and TensorRT's ``ampere_plus``."""

_WITHOUT_RTX = ("8.7", "9.0", "10.0", "10.3", "11.0")
"""Capabilities of servers and embedded machines, which the full TensorRT builds for and TensorRT-RTX does not."""


WEIGHTS_FIGURE = "weights_from"
"""Figure of a stripped engine: the places of its ONNX file, in the order in which they are looked at."""


def flavour_of(artifact: Artifact) -> str:
    """Which TensorRT built an engine: ``rtx`` or ``tensorrt``."""
    return "tensorrt" if artifact.figures.get("flavour") == "tensorrt" else "rtx"


def flavour_title(flavour: str) -> str:
    """A TensorRT's name in messages."""
    return _TITLES[flavour]


def import_tensorrt(flavour: str) -> Any:
    """Import the Python module of a TensorRT.

    Args:
        flavour: ``rtx`` or ``tensorrt``.

    Raises:
        MissingDependencyError: It is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module(_MODULES[flavour])
    except (ImportError, OSError) as err:
        raise MissingDependencyError(
            f"{_TITLES[flavour]}, which runs the engine, cannot be loaded: {err}", hint=_INSTALL[flavour]
        ) from err


def engine_unavailable(artifact: Artifact) -> DeblurDeployError | None:
    """The error that running an engine here would end in, or None where it can be tried.

    Args:
        artifact: An engine.
    """
    name, gpus = name_engine(artifact), count_nvidia_gpus()
    if gpus is None:
        return DeblurDeployError(
            f"{name} needs an NVIDIA GPU, and this machine has no NVIDIA driver",
            hint="copy it to a machine with that card; here, measure the ONNX file that it was built from",
        )
    gpu = find_gpu()
    if gpu is None:
        return DeblurDeployError(
            f"{name} needs an NVIDIA GPU, and the driver of this machine finds none",
            hint="check nvidia-smi, and CUDA_VISIBLE_DEVICES",
        )
    return _version_unavailable(artifact, gpu) or _card_unavailable(artifact, gpu) or _weights_unavailable(artifact)


def name_engine(artifact: Artifact) -> str:
    """An engine and its card, such as ``an engine for RTX 2080 Ti (SM75)``."""
    target, capability = artifact.figures.get("target"), artifact.figures.get("capability")
    if not capability:
        return "an engine"
    architecture = f"SM{capability.replace('.', '')}"
    return f"an engine for {architecture if target in (None, architecture) else f'{target} ({architecture})'}"


def rebuild_hint(artifact: Artifact, gpu: Gpu | None, flavour: str | None = None) -> str:
    """The command that builds an engine like this one for a card.

    Args:
        artifact: The engine that does not run.
        gpu: The card, or None where it is not known: then the card that the engine was built for.
        flavour: Which TensorRT is to build it; by default the one that built this engine.
    """
    flavour, precision = flavour or flavour_of(artifact), str(artifact.history[-1].config.get("precision"))
    target = gpu.sm.lower() if gpu else str(artifact.figures.get("target", "portable"))
    if gpu and gpu.capability in _WITHOUT_RTX:
        flavour = "tensorrt"
    if flavour == "tensorrt":
        target = "current"  # the full TensorRT builds for nothing else
    elif gpu and precision in PRECISIONS and gpu.version < PRECISIONS[precision].first_capability:
        precision = DEFAULT_PRECISION
    kind = f" --{precision}" if precision else ""
    sizes = _size_options(artifact)
    return f"build it again: `deblur-deploy export-trt --flavour {flavour} --target '{target}'{sizes}{kind}`"


def driver_hint(artifact: Artifact, gpu: Gpu | None) -> str | None:
    """What to do where an engine does not load and the driver is older than the one that it was built with.

    An older driver by itself does no harm: an engine needs the one that its TensorRT needs.
    """
    built = artifact.figures.get("driver_cuda")
    if gpu is None or built is None or int(gpu.driver_cuda.split(".")[0]) >= int(str(built).split(".")[0]):
        return None
    return (
        f"update the NVIDIA driver, which knows CUDA {gpu.driver_cuda} and the one at the build {built}, or "
        f"{rebuild_hint(artifact, gpu)} on this machine"
    )


def _size_options(artifact: Artifact) -> str:
    """The options of ``export-trt`` that gave an engine its sizes."""
    image, shapes = artifact.image, artifact.history[-1].config.get("shapes") or {}
    sizes = [f" --res {size}" for size in shapes.get("res") or ()]
    ends = (("min", shapes.get("min_res")), ("opt", shapes.get("opt_res")), ("max", shapes.get("max_res")))
    sizes += [f" --{end}-res {size}" for end, size in ends if size]
    if not sizes and image.width and image.height:
        sizes = [f" --res {image.width}x{image.height}"]
    low, high = shapes.get("batch") or (1, 1)
    batch = "" if high == 1 else f" --batch {high if low == high else f'{low}-{high}'}"
    return "".join(sizes) + batch


def _version_unavailable(artifact: Artifact, gpu: Gpu) -> DeblurDeployError | None:
    """TensorRT is missing, or is another one than that which built the engine."""
    flavour = flavour_of(artifact)
    try:
        here = str(import_tensorrt(flavour).__version__)
    except MissingDependencyError as err:
        return err
    built = artifact.figures.get("flavour_version")
    if built is None or built == here or _is_compatible(artifact, built, here):
        return None
    return BuildError(
        f"{name_engine(artifact)} was built by {_TITLES[flavour]} {built}, which {here}, installed here, cannot load",
        hint=f"{rebuild_hint(artifact, gpu)}; or install {_TITLES[flavour]} {built}",
    )


def _is_compatible(artifact: Artifact, built: str, here: str) -> bool:
    """Whether a version-compatible engine of the full TensorRT meets the same or a newer release of its series."""
    if flavour_of(artifact) == "rtx" or not artifact.figures.get("version_compatible"):
        return False
    old, new = ([int(part) for part in version.split(".")[:3]] for version in (built, here))
    return old[0] == new[0] and old <= new


def _card_unavailable(artifact: Artifact, gpu: Gpu) -> BuildError | None:
    """The engine is for other cards than the one in this machine."""
    if _fits_card(artifact, gpu.capability):
        return None
    name = name_engine(artifact) if artifact.figures.get("capability") else "a portable engine, for Ampere and later,"
    return BuildError(f"{name} cannot run on this machine's {gpu.name} ({gpu.sm})", hint=rebuild_hint(artifact, gpu))


def _weights_unavailable(artifact: Artifact) -> DeblurDeployError | None:
    """The engine was built without its weights, and the ONNX file that has them is not there."""
    if not artifact.figures.get("weights_stripped"):
        return None
    try:
        find_weights(artifact)
    except ArtifactError as err:
        return err
    return None


def _fits_card(artifact: Artifact, capability: str) -> bool:
    figures = artifact.figures
    here = tuple(map(int, capability.split(".")))
    if figures.get("target") == "portable" or figures.get("hardware_compatibility") == "ampere_plus":
        return here >= _AMPERE
    built = figures.get("capability")
    return built is None or built == capability


def places_of(onnx_file: Path, engine_directory: Path) -> list[str]:
    """What the manifest says of an ONNX file: its place seen from the engine, which copies keep, and its own."""
    absolute = onnx_file.absolute()
    return [os.path.relpath(absolute, engine_directory.absolute()), str(absolute)]


def find_weights(engine: Artifact) -> Path:
    """The ONNX file that an engine was built from.

    Args:
        engine: An engine that was built without its weights.

    Raises:
        ArtifactError: The file is not where the manifest says, or has been changed.
    """
    told = engine.figures.get(WEIGHTS_FIGURE)
    places = [engine.directory / str(place) for place in told] if isinstance(told, list) else []
    found = [path for path in places if os.path.isfile(path)]  # noqa: PTH113 - is_file raises where one may not look
    expected = engine.history[-1].parent
    for path in found:
        with suppress(ArtifactError):  # one that cannot be read does not hide the next
            if hash_file(path) == expected:
                return path
    if found:
        raise ArtifactError(
            f"{engine.path} was built without its weights, and {found[0]} is not the file that it was built from",
            hint=f"put that file back there (sha256 {str(expected)[:12]}…), or build the engine again from this one: "
            f"`deblur-deploy export-trt {found[0].parent} --strip-weights`",
        )
    where = str(places[-1]) if places else "the ONNX file, whose place its manifest does not say,"
    raise ArtifactError(
        f"{engine.path} was built without its weights, and {where} with the weights is not there",
        hint="put the ONNX file that it was built from back there, or build it again without --strip-weights",
    )
