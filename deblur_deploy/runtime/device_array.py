"""Pictures that lie on the GPU already: whatever library made them, they are used where they are.

Two protocols are read. With DLPack (``__dlpack__``), which PyTorch, CuPy and JAX speak, the maker sees to it that the
stream on which the picture will be used waits for it. The CUDA array interface (``__cuda_array_interface__``), which
PyCUDA and Numba speak, names the stream on which the picture is being made.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.runtime.cuda import LEGACY_STREAM, stream_handle

_CUDA_DEVICES = (2, 13)
"""DLPack's device types kDLCUDA and kDLCUDAManaged."""

_DLPACK_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}
_DTYPES = ("float32", "float16", "uint8")
_REFUSALS = (BufferError, AssertionError, TypeError, ValueError, RuntimeError)

# CUDA array interface: in version 3, None means that nothing has to be waited for; earlier versions do not say.
_FIRST_WITH_STREAM = 3


@dataclass(frozen=True)
class DeviceArray:
    """Memory on a GPU.

    It has the CUDA array interface itself, so that ``torch.as_tensor(a, device="cuda")`` and ``cupy.asarray(a)`` take
    it as it is.

    Args:
        address: Of the first element.
        shape: Sizes of its axes; elements lie in C order without gaps.
        dtype: ``float32``, ``float16`` or ``uint8``.
        stream: The stream that it is being made on, or None if it is finished; 0 is kept as the legacy stream's handle.
        device: Number of the GPU, or None where its maker does not say.
        owner: The object that must live as long as this array is used.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    stream: int | None = None
    device: int | None = None
    owner: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.stream is not None:
            object.__setattr__(self, "stream", stream_handle(self.stream))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.address, False),
            "strides": None,
            "stream": self.stream,
            "version": _FIRST_WITH_STREAM,
        }


def as_device_array(array: Any, stream: int) -> DeviceArray:
    """Find out where an array lies on the GPU, without copying it.

    Args:
        array: A :class:`DeviceArray`, a torch or JAX tensor, a CuPy, PyCUDA or Numba array.
        stream: The stream that it will be used on; makers that speak DLPack see to it that it waits for them.

    Returns:
        The array. Where ``stream`` is not None, the user has to wait for it.

    Raises:
        ConfigError: It is not an array on a GPU, has gaps or another order, or a type that no engine takes.
    """
    if isinstance(array, DeviceArray):
        return array
    if hasattr(array, "__dlpack__"):
        return _checked(_from_dlpack(array, stream))
    if hasattr(array, "__cuda_array_interface__"):
        return _checked(_from_interface(array))
    raise ConfigError(
        f"{type(array).__name__} is not an array on a GPU",
        hint="give a CUDA tensor of PyTorch, CuPy, PyCUDA or JAX; for NumPy arrays there is `infer`",
    )


class _DLDevice(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("number", ctypes.c_int32))


class _DLType(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    """DLPack's C structure, as dlpack.h lays it out."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("axes", ctypes.c_int32),
        ("type", _DLType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(array: Any, stream: int) -> tuple[DeviceArray, tuple[int, ...] | None]:
    """The array and its strides in elements, None where it has no gaps."""
    name = type(array).__name__
    try:
        kind, number = array.__dlpack_device__()
        on_gpu = kind in _CUDA_DEVICES
        capsule = array.__dlpack__(stream=stream_handle(stream)) if on_gpu else None
    except _REFUSALS as err:  # each library has its own kind, such as for a tensor that keeps gradients
        raise ConfigError(
            f"the {name} cannot be handed over: {' '.join(str(err).split()) or type(err).__name__}",
            hint="give a plain tensor on the GPU, such as tensor.detach()",
        ) from err
    if capsule is None:
        raise ConfigError(
            f"the {name} does not lie on a CUDA device", hint="move it there, or give a NumPy array to `infer`"
        )
    tensor = read_dlpack(capsule)
    shape = tuple(tensor.shape[: tensor.axes])
    strides = tuple(tensor.strides[: tensor.axes]) if tensor.strides else None
    dtype = f"{_DLPACK_KINDS.get(tensor.type.kind, 'unknown')}{tensor.type.bits}"
    address = (tensor.data or 0) + tensor.byte_offset
    # The capsule gives the memory back to its maker when it is collected.
    return DeviceArray(address, shape, dtype, None, int(number), capsule), strides


def read_dlpack(capsule: Any) -> Any:
    """The C structure at the start of a capsule that nobody has consumed; it lives as long as the capsule."""
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return _DLTensor.from_address(get_pointer(capsule, b"dltensor"))


def _from_interface(array: Any) -> tuple[DeviceArray, tuple[int, ...] | None]:
    """The array and its strides in elements, None where it has no gaps."""
    facts = array.__cuda_array_interface__
    dtype = np.dtype(facts["typestr"])
    in_bytes = facts.get("strides")
    strides = None if in_bytes is None else tuple(stride // dtype.itemsize for stride in in_bytes)
    stream = facts.get("stream") if facts["version"] >= _FIRST_WITH_STREAM else LEGACY_STREAM
    return DeviceArray(facts["data"][0], tuple(facts["shape"]), dtype.name, stream, None, array), strides


def _checked(found: tuple[DeviceArray, tuple[int, ...] | None]) -> DeviceArray:
    """The array, if an engine can read it."""
    array, strides = found
    if array.dtype not in _DTYPES:
        raise ConfigError(f"the array is of type {array.dtype}", hint=f"give {', '.join(_DTYPES)}")
    dense = [math.prod(array.shape[axis + 1 :]) for axis in range(len(array.shape))]
    # The stride of an axis with one element says nothing.
    if strides and any(s != d for s, d, size in zip(strides, dense, array.shape, strict=True) if size > 1):
        raise ConfigError(
            f"the array of shape {array.shape} has strides {strides} and is not contiguous",
            hint="give tensor.contiguous()",
        )
    return array
