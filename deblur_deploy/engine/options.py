"""What the file of an engine can do beside running, told to the builder.

The flavours differ here more than anywhere else. What TensorRT-RTX has the names of but not the use is refused with the
reason; what a version lacks is found out by asking for the name. Nothing that was asked for is left out silently.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deblur_deploy.config import PlanConfig
from deblur_deploy.core.errors import BuildError
from deblur_deploy.engine.flavour import Flavour, FlavourName

_RTX_REASONS = {
    "timing_cache": (
        "--timing-cache: TensorRT-RTX times no kernels while it builds, so that there is nothing to keep",
        "leave it out; kernels are chosen when the engine first runs, and the runtime cache beside it keeps them",
    ),
    "version_compatible": (
        "--version-compatible: TensorRT-RTX comes without the lean runtime that such an engine needs",
        "leave it out and build again for each version, or use the full TensorRT: --flavour tensorrt",
    ),
    "hardware_compatibility": (
        "--hardware-compatibility: TensorRT-RTX has no such levels",
        "`--target portable` builds one engine for Ampere and later",
    ),
}
"""What TensorRT-RTX cannot do, why, and what to do instead; by field of :class:`PlanConfig`."""


_RTX_NEEDS_A_GPU = ("strip_weights", "refit")
"""What TensorRT-RTX cannot build without a GPU, by field of :class:`PlanConfig`.

Any network with weights, for any card, ends in ``graph_jit.cpp: CHECK(status == CUDA_SUCCESS)``; one without weights is
built (1.7.1, with no driver).
"""


def check_plan(flavour: FlavourName, plan: PlanConfig, *, has_gpu: bool) -> None:
    """Refuse what a flavour is known not to have, before any work.

    Args:
        flavour: What builds.
        plan: What was asked for.
        has_gpu: Whether this machine has an NVIDIA GPU that its driver finds.

    Raises:
        BuildError: It does not have one of the things asked for, or not without a GPU.
    """
    if flavour != "rtx":
        return
    for field in () if has_gpu else _RTX_NEEDS_A_GPU:
        if getattr(plan, field):
            raise BuildError(
                f"--{field.replace('_', '-')}: TensorRT-RTX needs the CUDA driver to build an engine whose weights are "
                "put in later, and this machine has no NVIDIA GPU with one",
                hint="build on a machine with an NVIDIA GPU, or leave it out",
            )
    for field, (reason, hint) in _RTX_REASONS.items():
        if getattr(plan, field) not in (None, False, "none"):
            raise BuildError(reason, hint=hint)


def apply_plan(flavour: Flavour, builder_config: Any, plan: PlanConfig) -> None:
    """Set what was asked for on a builder's ``IBuilderConfig``.

    Raises:
        BuildError: This version does not have it, or the timing cache is of another version or card.
    """
    trt = flavour.module
    wanted = {
        "STRIP_PLAN": plan.strip_weights,
        "REFIT": plan.refit,
        "VERSION_COMPATIBLE": plan.version_compatible,
    }
    for flag in [_member(flavour, trt.BuilderFlag, name) for name, is_wanted in wanted.items() if is_wanted]:
        builder_config.set_flag(flag)
    if plan.hardware_compatibility != "none":
        level = plan.hardware_compatibility.upper()
        builder_config.hardware_compatibility_level = _member(flavour, trt.HardwareCompatibilityLevel, level)
    if plan.timing_cache is not None:
        _load_timing_cache(flavour, builder_config, Path(plan.timing_cache))


def save_timing_cache(builder_config: Any, path: Path) -> None:
    """Write what the builder has timed, for the next build.

    Raises:
        BuildError: The file cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(builder_config.get_timing_cache().serialize())
        part.replace(path)
    except OSError as err:
        part.unlink(missing_ok=True)
        raise BuildError(f"the timing cache {path} cannot be written: {err}", hint="name another file") from err


@dataclass(frozen=True)
class Failure:
    """What is known of a build that failed.

    Args:
        reason: The builder's last error.
        workspace_bytes: The scratch memory that it was given, or None for its default.
    """

    reason: str
    workspace_bytes: int | None

    def hint(self) -> str:
        """What to change."""
        if "workspace" in self.reason.lower():
            given = "its default" if self.workspace_bytes is None else f"{self.workspace_bytes} bytes"
            return f"out of workspace, which is {given}: give more --workspace, or leave it out for all there is"
        return "if memory ran out, give more --workspace; if a layer is named, other types may help: --fp16 or --fp32"


def _member(flavour: Flavour, enumeration: Any, name: str) -> Any:
    """A member of one of TensorRT's enumerations."""
    if not hasattr(enumeration, name):
        raise BuildError(
            f"{flavour.title} {flavour.version} has no {enumeration.__name__}.{name}",
            hint="leave the option out, or install a newer TensorRT",
        )
    return getattr(enumeration, name)


def _load_timing_cache(flavour: Flavour, builder_config: Any, path: Path) -> None:
    """Start from the timings in a file, or from none where there is no file yet."""
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as err:
        raise BuildError(f"the timing cache {path} cannot be read: {err}", hint="name another file") from err
    cache = builder_config.create_timing_cache(data)
    if cache is None or not builder_config.set_timing_cache(cache, ignore_mismatch=False):
        raise BuildError(
            f"the timing cache {path} is not one that {flavour.title} {flavour.version} can use on this card",
            hint="remove it, or name another file: --timing-cache FILE",
        )
