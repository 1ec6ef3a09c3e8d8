"""An engine's input and output: names, types, layout and sizes of the two tensors, and pictures in that form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import ImageSpec

Shape = tuple[int, ...]

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8"}
"""TensorRT's names of types, and NumPy's."""


@dataclass(frozen=True)
class EngineIO:
    """The two tensors of an engine.

    Args:
        input_name: Name of the input.
        output_name: Name of the output.
        input_dtype: ``float32``, ``float16`` or ``uint8``.
        output_dtype: The same for the output.
        channels_last: Whether the tensors are (N, H, W, 3), else (N, 3, H, W).
        profiles: Smallest and largest input shape of each optimization profile; the two are one where it is fixed.
    """

    input_name: str
    output_name: str
    input_dtype: str
    output_dtype: str
    channels_last: bool
    profiles: tuple[tuple[Shape, Shape], ...]

    def image_for_one(self, image: ImageSpec) -> ImageSpec:
        """What the engine takes where it is given one picture at a time: pictures of the largest size that it can.

        Args:
            image: What the artifact says, whose size may be missing.

        Returns:
            The same with a fixed size; with none where the engine takes several pictures at a time only.
        """
        if self.input_dtype == "uint8" and self.channels_last:
            image = ImageSpec.of_frames(None, None, image.multiple_of)
        sizes = [self._extent(high)[:2] for low, high in self.profiles if low[0] == 1]
        width, height = max(sizes, key=math.prod, default=(None, None))
        return replace(image, height=height, width=width)

    def choose_profile(self, shape: Shape) -> int:
        """The first optimization profile that takes a shape.

        Raises:
            ConfigError: None does.
        """
        for index, (low, high) in enumerate(self.profiles):
            if len(shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
                return index
        axes, sizes = len(self.profiles[0][0]), self._sizes()
        if len(shape) != axes:
            raise ConfigError(f"a batch has shape {shape}", hint=f"give one of {axes} axes: {sizes}")
        width, height, number = self._extent(shape)
        self.check_number(number)
        raise ConfigError(
            f"the engine takes {sizes} and cannot take {_count(number)} of {width}x{height}",
            hint=f"give pictures of that size, or build an engine for this one: "
            f"`deblur-deploy export-trt --res {width}x{height}`",
        )

    def check_number(self, number: int) -> None:
        """Refuse a number of pictures that no profile takes at a time, whatever their size.

        Raises:
            ConfigError: None does.
        """
        if any(low[0] <= number <= high[0] for low, high in self.profiles):
            return
        most = max(high[0] for _, high in self.profiles)
        raise ConfigError(
            f"the engine takes {self._sizes()} at a time, and {number} {'was' if number == 1 else 'were'} given",
            hint=f"build one that takes this number: `deblur-deploy export-trt --batch {number}-{most}`"
            if number < most
            else "give fewer at a time, or build one with --batch",
        )

    def bytes_of(self, input_shape: Shape, output_shape: Shape) -> tuple[int, int]:
        """Sizes of both tensors."""
        shapes = ((self.input_dtype, input_shape), (self.output_dtype, output_shape))
        in_bytes, out_bytes = (np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in shapes)
        return in_bytes, out_bytes

    def write(self, batch: NDArray[Any], buffer: NDArray[np.uint8]) -> None:
        """Put pictures into the input's buffer, converted where the engine takes the other form.

        Args:
            batch: (N, 3, H, W) float32 in [0, 1] or (N, H, W, 3) uint8.
            buffer: The bytes of the input tensor.
        """
        view = buffer.view(self.input_dtype).reshape(self.shape_of(batch))
        ordered = batch.transpose(_axes(batch.dtype == np.uint8, self.channels_last))
        if batch.dtype == view.dtype:
            np.copyto(view, ordered)
        elif self.input_dtype == "uint8":
            view[...] = _codes(ordered)
        elif batch.dtype == np.uint8:
            view[...] = ordered / np.float32(255)
        else:
            np.copyto(view, ordered, casting="same_kind")

    def read(self, buffer: NDArray[np.uint8], shape: Shape, like: np.dtype[Any]) -> NDArray[Any]:
        """Pictures out of the output's buffer, copied.

        Args:
            buffer: The bytes of the output tensor.
            shape: Its shape.
            like: dtype of the batch that went in: uint8 gives (N, H, W, 3), float32 (N, 3, H, W).
        """
        view = buffer.view(self.output_dtype).reshape(shape)
        ordered = view.transpose(_axes(self.channels_last, like == np.uint8))
        if like == np.uint8:
            codes = ordered if self.output_dtype == "uint8" else _codes(ordered)
            return np.array(codes, np.uint8, order="C")
        values = np.array(ordered, np.float32, order="C")
        return values / np.float32(255) if self.output_dtype == "uint8" else values

    def shape_of(self, batch: NDArray[Any]) -> Shape:
        """Shape of the input tensor that holds a batch."""
        axes = _axes(batch.dtype == np.uint8, self.channels_last)
        return tuple(batch.shape[axis] for axis in axes)

    def check(self, batch: NDArray[Any], image: ImageSpec) -> None:
        """Refuse what is not a batch of pictures; its size is checked elsewhere.

        Raises:
            ConfigError: It has other axes or another type.
        """
        axis = {"float32": 1, "uint8": 3}.get(batch.dtype.name)
        if axis is None or batch.ndim != 4 or batch.shape[axis] != image.channels or 0 in batch.shape:
            number = image.channels
            raise ConfigError(
                f"a batch has shape {batch.shape} and dtype {batch.dtype}",
                hint=f"give float32 of shape (N, {number}, H, W), or uint8 of shape (N, H, W, {number})",
            )

    def _sizes(self) -> str:
        """All profiles in words."""
        return " or ".join(self._describe(*profile) for profile in self.profiles)

    def _extent(self, shape: Shape) -> tuple[int, int, int]:
        """Width, height and number of the pictures in a shape."""
        height, width = shape[1:3] if self.channels_last else shape[2:4]
        return width, height, shape[0]

    def _describe(self, low: Shape, high: Shape) -> str:
        """A profile in words, such as ``320x180 to 1280x720, 1 to 4 pictures``."""
        (w, h, n), (max_w, max_h, max_n) = self._extent(low), self._extent(high)
        size = f"{w}x{h}" if (w, h) == (max_w, max_h) else f"{w}x{h} to {max_w}x{max_h}"
        return f"{_count(n)} of {size}" if n == max_n else f"{n} to {_count(max_n)} of {size}"


def describe_io(engine: Any, image: ImageSpec) -> EngineIO:
    """Read an engine's tensors.

    Args:
        engine: TensorRT's ``ICudaEngine``.
        image: What the artifact says that it takes.

    Raises:
        ArtifactError: It has not one input and one output, or they are not as deblur-deploy builds them.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
    outputs = [name for name in names if engine.get_tensor_mode(name).name == "OUTPUT"]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(
            f"the engine has the inputs {', '.join(inputs) or 'none'} and the outputs {', '.join(outputs) or 'none'}",
            hint="a deblurring engine has one of each; build it with `deblur-deploy export-trt`",
        )
    shape = tuple(engine.get_tensor_shape(inputs[0]))
    if -1 in shape:
        ranges = (engine.get_tensor_profile_shape(inputs[0], n) for n in range(engine.num_optimization_profiles))
        profiles = tuple((tuple(low), tuple(high)) for low, _, high in ranges)
    else:
        profiles = ((shape, shape),)
    dtypes = [tensor_dtype(engine, name) for name in (inputs[0], outputs[0])]
    channels_last = len(shape) == 4 and shape[1] != image.channels and shape[3] == image.channels
    return EngineIO(inputs[0], outputs[0], dtypes[0], dtypes[1], channels_last, profiles)


def tensor_dtype(engine: Any, name: str) -> str:
    """A tensor's type, if its values can be handed over as they lie in memory.

    Args:
        engine: TensorRT's ``ICudaEngine``.
        name: The tensor.

    Returns:
        NumPy's name of the type.

    Raises:
        ArtifactError: They cannot.
    """
    dtype, layout = engine.get_tensor_dtype(name).name, engine.get_tensor_format(name).name
    if dtype not in _DTYPES or layout != "LINEAR" or engine.get_tensor_location(name).name != "DEVICE":
        raise ArtifactError(
            f"the engine's tensor {name!r} is {dtype} in the format {layout}",
            hint="build it with `deblur-deploy export-trt`, whose engines take float32 or uint8 in plain order",
        )
    return _DTYPES[dtype]


def _count(number: int) -> str:
    return "one picture" if number == 1 else f"{number} pictures"


def _axes(from_last: bool, to_last: bool) -> tuple[int, int, int, int]:
    """The order of axes that puts channels from one place to another."""
    if from_last == to_last:
        return 0, 1, 2, 3
    return (0, 2, 3, 1) if to_last else (0, 3, 1, 2)


def _codes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values in [0, 1] as 8-bit codes, clipped and rounded."""
    codes: NDArray[np.uint8] = np.rint(np.clip(values.astype(np.float32), 0, 1) * np.float32(255)).astype(np.uint8)
    return codes
