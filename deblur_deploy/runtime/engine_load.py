"""From the bytes of an engine to TensorRT's object, with TensorRT's reasons for a refusal in words.

An engine file may lack a manifest, such as those that trtexec writes; what it was built from is then not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deblur_deploy.core.artifact import MANIFEST, Artifact, NetworkSpec, Step, hash_file
from deblur_deploy.core.errors import ArtifactError, BuildError, DeblurDeployError, MissingDependencyError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.runtime.engine_fit import (
    driver_hint,
    flavour_of,
    flavour_title,
    import_tensorrt,
    rebuild_hint,
)
from deblur_deploy.runtime.nvidia import find_gpu

_DAMAGED_HINT = "copy the file again, or build the engine again with `deblur-deploy export-trt`"

_DIAGNOSTICS = {
    "VERSION_MISMATCH": "it was built by another version",
    "UNSUPPORTED_CC": "it was built for other cards than the one in this machine",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "the file is not an engine, or was damaged",
    "CUDA_ERROR": "CUDA cannot be used here",
}
"""What the bits of TensorRT-RTX's EngineInvalidityDiagnostics mean for the user."""

SUFFIXES = frozenset({".engine", ".plan", ".trt"})


@dataclass(frozen=True)
class LoadedEngine:
    """An engine in memory.

    Args:
        engine: TensorRT's ``ICudaEngine``.
        logger: Receives TensorRT's messages; ``last_error`` is the last error.
        runtime: TensorRT's ``IRuntime``, which must live as long as the engine.
    """

    engine: Any
    logger: Any
    runtime: Any


def load_engine(artifact: Artifact, trt: Any) -> LoadedEngine:
    """Deserialize an engine.

    Args:
        artifact: An engine that nothing is known against (see ``engine_fit.py``).
        trt: The module of the TensorRT that built it.

    Raises:
        ArtifactError: The file is damaged, or the library of its plugin is missing, or the ONNX file with the
            weights of an engine that was built without them.
        BuildError: It is for another version or another card.
        MissingDependencyError: Its weights are in an ONNX file, and onnx is not installed.
    """
    logger = new_logger(trt)
    data = _read(artifact.path)
    runtime = trt.Runtime(logger)
    if hasattr(runtime, "get_engine_validity"):
        _check_validity(artifact, trt, runtime.get_engine_validity(data))
    if artifact.figures.get("version_compatible"):
        # Such an engine carries TensorRT's lean runtime as code; it is known here only of engines that were built here.
        runtime.engine_host_code_allowed = True
    _load_plugin(artifact, runtime)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        title = flavour_title(flavour_of(artifact))
        hint = driver_hint(artifact, find_gpu()) or _DAMAGED_HINT
        raise ArtifactError(f"{title} cannot load {artifact.path}: {logger.last_error}", hint=hint)
    if artifact.figures.get("weights_stripped"):
        _put_weights_in(engine, artifact, trt, logger)
    return LoadedEngine(engine, logger, runtime)


def new_logger(trt: Any) -> Any:
    """A logger that keeps the last error and prints nothing."""

    class LastErrorLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last_error = "no reason was given"

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.last_error = " ".join(message.split())

    return LastErrorLogger()


def diagnostics(trt: Any, bits: Any) -> list[str]:
    """Names of the bits that TensorRT-RTX sets in its answer on an engine's validity."""
    return [name for name, value in trt.EngineInvalidityDiagnostics.__members__.items() if int(bits) & int(value)]


def _put_weights_in(engine: Any, artifact: Artifact, trt: Any, logger: Any) -> None:
    try:
        from deblur_deploy.runtime.refit import refit  # needs onnx, which engines with their weights run without
    except ImportError as err:
        raise MissingDependencyError(
            f"{artifact.path} was built without its weights, which are read with onnx: {err}", hint="pip install onnx"
        ) from err
    refit(engine, artifact, trt, logger)


def _load_plugin(artifact: Artifact, runtime: Any) -> None:
    """Load the library that the engine was built with, unless the engine carries it or its kernel.

    Never with TensorRT-RTX, whose registry a plugin brings down.
    """
    figures = artifact.figures
    if figures.get("plugin") != "library" or figures.get("version_compatible") or flavour_of(artifact) == "rtx":
        return
    plugin = Path(figures["plugin_path"])
    if not plugin.is_file():
        raise ArtifactError(
            f"{artifact.path} needs the plugin library {plugin}, which is not there",
            hint=f"build it: `deblur-deploy build-plugin --out {plugin}`, or the engine with `--plugin aot`",
        )
    if hash_file(plugin) != figures["plugin_sha256"]:
        raise ArtifactError(
            f"the plugin library {plugin} is not the one that {artifact.path} was built with",
            hint="put the one of the build there, or build the engine again with this one: `deblur-deploy export-trt "
            f"--flavour tensorrt --plugin {plugin}`",
        )
    if runtime.get_plugin_registry().load_library(str(plugin)) is None:
        raise ArtifactError(f"TensorRT cannot load the plugin library {plugin}", hint="build it for this TensorRT")


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ArtifactError(f"{path} cannot be read: {err}", hint="check the path and its permissions") from err
    if not data:
        raise ArtifactError(f"{path} is empty", hint=_DAMAGED_HINT)
    return data


def _check_validity(artifact: Artifact, trt: Any, answer: tuple[Any, Any]) -> None:
    """Refuse an engine whose header TensorRT-RTX rejects."""
    validity, bits = answer
    if validity != trt.EngineValidity.INVALID:
        return
    found = diagnostics(trt, bits)
    reasons = " and ".join(_DIAGNOSTICS.get(name, name) for name in found)
    message = f"TensorRT-RTX {trt.__version__} refuses {artifact.path}: {reasons or 'it gives no reason'}"
    if "MALFORMED_ENGINE" in found:
        raise ArtifactError(message, hint=_DAMAGED_HINT)
    if {"VERSION_MISMATCH", "UNSUPPORTED_CC"} & set(found):
        raise BuildError(message, hint=rebuild_hint(artifact, find_gpu()))
    raise DeblurDeployError(message, hint="check nvidia-smi and the driver, or build the engine again on this machine")


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
