"""Which TensorRT is installed, and the few places where its flavours differ.

TensorRT-RTX (module ``tensorrt_rtx``) builds for named cards on a machine without a GPU. The full TensorRT (module
``tensorrt``) builds for the GPU that it runs on. Both take the same strongly typed ONNX file; everything else is found
out by asking for an attribute, never by comparing versions. Nothing here is process-wide: one process may use both.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from deblur_deploy.core.errors import BuildError, MissingDependencyError
from deblur_deploy.engine.targets import CURRENT, PORTABLE, BuildTarget, check_buildable
from deblur_deploy.runtime.nvidia import find_gpu

FlavourName = Literal["rtx", "tensorrt"]

_MODULES: dict[FlavourName, str] = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
_TITLES: dict[FlavourName, str] = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
_EXTRAS: dict[FlavourName, str] = {"rtx": "rtx", "tensorrt": "trt"}


@dataclass(frozen=True)
class Flavour:
    """An importable TensorRT.

    Args:
        name: ``rtx`` or ``tensorrt``.
        module: Its Python module.
    """

    name: FlavourName
    module: Any

    @property
    def title(self) -> str:
        """Its name in messages."""
        return _TITLES[self.name]

    @property
    def version(self) -> str:
        """Its version, such as ``1.7.1.116``."""
        return str(self.module.__version__)


def choose_flavour(wanted: Literal["auto", "rtx", "tensorrt"] = "auto") -> FlavourName:
    """Find an installed flavour without importing it.

    Args:
        wanted: A flavour, or ``auto``: TensorRT-RTX if it is there, for it needs no GPU, else the full TensorRT.

    Raises:
        MissingDependencyError: It is not installed.
    """
    candidates: tuple[FlavourName, ...] = ("rtx", "tensorrt") if wanted == "auto" else (wanted,)
    for name in candidates:
        if find_spec(_MODULES[name]) is not None:
            return name
    raise missing_flavour(candidates[0])


def load_flavour(name: FlavourName) -> Flavour:
    """Import a flavour.

    Raises:
        MissingDependencyError: It is not installed, or its libraries cannot be loaded.
    """
    try:
        return Flavour(name, importlib.import_module(_MODULES[name]))
    except (ImportError, OSError) as err:
        raise missing_flavour(name, str(err)) from err


def missing_flavour(name: FlavourName, reason: str = "") -> MissingDependencyError:
    """The error for a flavour that cannot be used, with the line that installs it."""
    because = f"cannot be loaded: {reason}" if reason else "is not installed"
    return MissingDependencyError(
        f"{_TITLES[name]}, which builds engines, {because}", hint=f"pip install 'deblur-deploy[{_EXTRAS[name]}]'"
    )


def strongly_typed_flags(module: Any) -> int:
    """Flags for ``create_network``: the engine keeps the types of the ONNX file.

    Where the flag is gone, every network is strongly typed and the answer is 0.
    """
    flags = module.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def check_at_hand(target: BuildTarget) -> None:
    """Refuse a card that is not in this machine, for the full TensorRT builds for no other.

    Raises:
        BuildError: It is another card.
    """
    gpu = find_gpu()
    if target != CURRENT and (gpu is None or gpu.capability != target.capability):
        raise BuildError(
            f"TensorRT builds for the GPU it runs on and cannot build for {target.name}",
            hint="give `--target current` on a machine with that card, or pip install 'deblur-deploy[rtx]'",
        )


def aim(flavour: Flavour, builder_config: Any, target: BuildTarget) -> None:
    """Tell the builder which card to build for.

    Args:
        flavour: What builds.
        builder_config: Its ``IBuilderConfig``.
        target: The card.

    Raises:
        BuildError: This flavour cannot build for it.
    """
    if not hasattr(builder_config, "set_compute_capability"):
        check_at_hand(target)
        return
    capabilities = flavour.module.ComputeCapability
    check_buildable(target, capabilities.__members__)
    if target != PORTABLE:
        builder_config.num_compute_capabilities = 1
        if not builder_config.set_compute_capability(getattr(capabilities, target.sm or "CURRENT"), 0):
            raise BuildError(
                f"{flavour.title} {flavour.version} refuses to build for {target.name}", hint="name another"
            )
