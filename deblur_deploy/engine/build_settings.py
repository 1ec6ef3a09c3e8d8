"""The builder's settings: the sizes that an engine takes, and what its file can do besides running.

A network whose sizes are free is built with optimization profiles: ranges of shapes that the engine takes, each tuned
for one shape in it. Several ``res`` are several profiles of one shape. A single shape needs no profile: the network is
fixed to it, which gives the builder more to work with.

The flavours differ here more than anywhere else. Options that TensorRT-RTX names but does not support are refused with
the reason; what a version lacks is found by looking up the name. No option is silently left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from deblur_deploy.config import PlanConfig, ShapeConfig
from deblur_deploy.core.errors import BuildError, ConfigError
from deblur_deploy.core.images import Resolution, parse_resolution
from deblur_deploy.engine.flavour import Flavour, FlavourName
from deblur_deploy.graph.profile import Profile, Shape

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

_Range = tuple[Resolution, Resolution, Resolution]


def check_plan(flavour: FlavourName, plan: PlanConfig, *, has_gpu: bool) -> None:
    """Refuse options that a flavour is known to lack, before any work.

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
    """Facts about a failed build.

    Args:
        reason: The builder's last error.
        workspace_bytes: The scratch memory that it was given, or None for its default.
    """

    reason: str
    workspace_bytes: int | None

    def hint(self) -> str:
        """The hint."""
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


def resolve_profiles(model: onnx.ModelProto, config: ShapeConfig) -> tuple[Profile, ...]:
    """Find the ranges of shapes to build for.

    Args:
        model: A network. Of its inputs one may have free sizes; that is (N, C, H, W) or (N, H, W, C) with C fixed.
        config: What was asked for.

    Returns:
        The profiles in the order asked for; none where the network has no free size.

    Raises:
        ConfigError: A size was asked for that the network does not take, or none where it must be, or a range that has
            its ends or its best size in the wrong order.
        BuildError: It is not clear which of the network's sizes are free.
    """
    constants = {item.name for item in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    free = [value for value in inputs if 0 in _dims(value)]
    if not free:
        if len(inputs) == 1 and len(_dims(inputs[0])) == 4:
            _check_fixed(_dims(inputs[0]), config)
        return ()
    if len(free) > 1 or len(_dims(free[0])) != 4:
        names = ", ".join(f"{value.name!r} {_described(value)}" for value in free)
        raise BuildError(
            f"the sizes of {names} are free, and an engine is built for one free batch of pictures",
            hint="export the network for one size: `deblur-deploy export-onnx --res 640x360`",
        )
    dims = _dims(free[0])
    profiles = tuple(_profile(free[0].name, dims, sizes, config.batch) for sizes in _ranges(dims, config))
    if repeated := next((p for i, p in enumerate(profiles) if p in profiles[:i]), None):
        raise ConfigError(f"the shape {repeated.opt} was asked for twice", hint="name each size once")
    return profiles


def _dims(value: onnx.ValueInfoProto) -> Shape:
    """Sizes of an input, 0 where free."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _described(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return f"({', '.join(str(dim.dim_value or dim.dim_param or '?') for dim in dims)})"


def _axes(dims: Shape) -> tuple[int, int, int]:
    """Axes of batch, height and width: channels come second, or last where the second is free."""
    if dims[1]:
        return 0, 2, 3
    if dims[3]:
        return 0, 1, 2
    raise BuildError(
        "the number of channels of the network's input is free",
        hint="export the network with a fixed number of channels: `deblur-deploy export-onnx`",
    )


def _ranges(dims: Shape, config: ShapeConfig) -> list[_Range]:
    """Smallest, best and largest size of every profile."""
    _, height, width = _axes(dims)
    if config.res:
        return [(size, size, size) for size in map(parse_resolution, config.res)]
    if config.min_res is not None and config.max_res is not None:
        low, high = parse_resolution(config.min_res), parse_resolution(config.max_res)
        best = high if config.opt_res is None else parse_resolution(config.opt_res)
        if not (low.width <= best.width <= high.width and low.height <= best.height <= high.height):
            raise ConfigError(
                f"the range from {low} to {high} has {best} as its best size, which is outside",
                hint="give --min-res, --opt-res and --max-res, each at least as wide and as high as the one before",
            )
        return [(low, best, high)]
    if dims[height] and dims[width]:
        size = Resolution(dims[width], dims[height])
        return [(size, size, size)]
    raise ConfigError(
        "the network takes pictures of any size, and an engine must know which",
        hint="give --res 640x360, which may be repeated, or a range: --min-res 320x180 --max-res 1280x720",
    )


def _profile(name: str, dims: Shape, sizes: _Range, batch: tuple[int, int]) -> Profile:
    low, best, high = (
        _shape(dims, size, number) for size, number in zip(sizes, (batch[0], batch[1], batch[1]), strict=True)
    )
    return Profile(name, low, best, high)


def _shape(dims: Shape, size: Resolution, batch: int) -> Shape:
    """The input's shape for pictures of a size, checked against what the network takes."""
    wanted = dict(zip(_axes(dims), (batch, size.height, size.width), strict=True))
    shape = tuple(wanted.get(axis, fixed) for axis, fixed in enumerate(dims))
    if any(fixed not in (0, size) for fixed, size in zip(dims, shape, strict=True)):
        taken = ", ".join(str(size or "any") for size in dims)
        raise ConfigError(
            f"an engine for the shape {shape} was asked for, and the network takes ({taken})",
            hint="export it with free sizes: `deblur-deploy export-onnx --dynamic`; or for the size that you need",
        )
    return shape


def _check_fixed(dims: Shape, config: ShapeConfig) -> None:
    """Refuse sizes that a fixed network does not have."""
    batch, height, width = _axes(dims)
    sizes = [text for text in (*config.res, config.min_res, config.opt_res, config.max_res) if text is not None]
    for number in set(config.batch) - {1} or {dims[batch]}:
        for size in map(parse_resolution, sizes or [f"{dims[width]}x{dims[height]}"]):
            _shape(dims, size, number)
