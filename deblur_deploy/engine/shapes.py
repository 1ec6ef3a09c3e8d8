"""Sizes that an engine takes.

A network whose sizes are free is built with optimization profiles: ranges of shapes that the engine takes, each tuned
for one shape in it. Several ``res`` are several profiles of one shape. One shape alone needs no profile: the network is
fixed to it, which leaves the builder more to work with.
"""

from __future__ import annotations

import onnx

from deblur_deploy.config import ShapeConfig
from deblur_deploy.core.errors import BuildError, ConfigError
from deblur_deploy.core.images import Resolution, parse_resolution
from deblur_deploy.graph.profile import Profile, Shape

_Range = tuple[Resolution, Resolution, Resolution]


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
