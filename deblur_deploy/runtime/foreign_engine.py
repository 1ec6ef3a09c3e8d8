"""Engine files without a manifest, such as trtexec writes them: what they were built from is not known."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from deblur_deploy.core.artifact import MANIFEST, Artifact, NetworkSpec, Step, hash_file
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.runtime.engine_fit import import_tensorrt
from deblur_deploy.runtime.engine_load import diagnostics, new_logger

SUFFIXES = frozenset({".engine", ".plan", ".trt"})


def is_foreign_engine(path: Path) -> bool:
    """Whether a path is an engine's file with no manifest beside it."""
    return path.suffix.lower() in SUFFIXES and path.is_file() and not (path.parent / MANIFEST).exists()


def adopt_engine(path: Path, *, trust: bool) -> Artifact:
    """Facts of an engine file of unknown origin, as far as they can be found out; nothing is written.

    Whether it fits this machine shows when it is loaded.

    Args:
        path: The file.
        trust: Whether the user vouches for it. An engine holds code, and loading it may run some.

    Raises:
        ArtifactError: It is not vouched for, or cannot be read.
        MissingDependencyError: No TensorRT is installed.
    """
    if not trust:
        raise ArtifactError(
            f"{path} has no {MANIFEST}: who built it, and from what, is not known",
            hint="an engine holds code that runs on this machine: build your own with `deblur-deploy export-trt`, "
            "or give --trust if you know where it is from",
        )
    sha256, figures = hash_file(path), {"flavour": _guess_flavour(path)}
    step = Step("unknown", {}, {}, None, "", figures)
    return Artifact("engine", path, sha256, NetworkSpec("unknown", {}), ImageSpec(), (step,))


def _guess_flavour(path: Path) -> str:
    """Which TensorRT the file is for: TensorRT-RTX knows its own by their first bytes, without a GPU."""
    if find_spec("tensorrt_rtx") is None:
        return "tensorrt"
    trt = import_tensorrt("rtx")
    _, bits = trt.Runtime(new_logger(trt)).get_engine_validity(path.read_bytes())
    return "tensorrt" if "MALFORMED_ENGINE" in diagnostics(trt, bits) else "rtx"
