"""Arrays of other libraries: where they lie, and what an engine cannot read."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.runtime.device_array import DeviceArray, as_device_array, read_dlpack

STREAM = 77


class OnGpu:
    """Speaks DLPack and says that its values, a NumPy array's, lie on a GPU."""

    def __init__(self, values: Any, device: tuple[int, int] = (2, 0)) -> None:
        self.values, self.device = values, device
        self.streams: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: Any = None) -> Any:
        self.streams.append(stream)
        return self.values.__dlpack__()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_dlpack_tells_where_an_array_lies(dtype: Any, library: str) -> None:
    values = np.zeros((2, 3, 4, 5), dtype)
    array = OnGpu(values if library == "numpy" else torch.from_numpy(values), (13, 1))
    found = as_device_array(array, STREAM)
    assert found == DeviceArray(values.ctypes.data, (2, 3, 4, 5), np.dtype(dtype).name, None, 1)
    assert array.streams == [STREAM]


def test_dlpack_structure_of_a_slice() -> None:
    values = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)[:, 1:]
    capsule = values.__dlpack__()
    tensor = read_dlpack(capsule)
    assert tensor.data + tensor.byte_offset == values.data_ptr()
    assert (tensor.device.type, tensor.axes, tensor.type.kind, tensor.type.bits) == (1, 3, 2, 32)
    assert (tensor.shape[:3], tensor.strides[:3]) == ([2, 2, 4], [12, 4, 1])


def test_the_memory_lives_as_long_as_the_array_is_held() -> None:
    values = np.zeros((1, 3, 4, 4), np.float32)
    watched = weakref.ref(values)
    found = as_device_array(OnGpu(values), STREAM)
    del values
    gc.collect()
    assert watched() is not None
    del found
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((1, 4, 4, 3), np.float32).transpose(0, 3, 1, 2), r"strides \(48, 1, 12, 3\) and is not contiguous"),
        (np.zeros((1, 3, 4, 8), np.float32)[..., ::2], "not contiguous"),
        (np.zeros((1, 3, 4, 4), np.float64), "of type float64"),
        (np.zeros((1, 3, 4, 4), np.int16), "of type int16"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16), "of type bfloat16"),
    ],
)
def test_what_an_engine_cannot_read_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        as_device_array(OnGpu(values), STREAM)


def test_strides_of_axes_with_one_element_say_nothing() -> None:
    values = np.lib.stride_tricks.as_strided(np.zeros(12, np.float32), (1, 3, 1, 4), (999 * 4, 16, 7 * 4, 4))
    assert as_device_array(OnGpu(values), STREAM).shape == (1, 3, 1, 4)


class WithInterface:
    def __init__(self, **facts: Any) -> None:
        self.__cuda_array_interface__ = {"data": (4096, False), "shape": (1, 3, 2, 2), "typestr": "<f4"} | facts


@pytest.mark.parametrize(
    ("facts", "stream"),
    [
        ({"version": 3, "stream": 5}, 5),
        ({"version": 3, "stream": None}, None),
        ({"version": 3}, None),
        ({"version": 2}, 1),
        ({"version": 3, "strides": (48, 16, 8, 4)}, None),
    ],
)
def test_the_cuda_array_interface_is_read(facts: dict[str, Any], stream: int | None) -> None:
    assert as_device_array(WithInterface(**facts), STREAM) == DeviceArray(4096, (1, 3, 2, 2), "float32", stream)


def test_gaps_in_the_cuda_array_interface_are_refused() -> None:
    with pytest.raises(ConfigError, match="not contiguous"):
        as_device_array(WithInterface(version=3, strides=(96, 32, 16, 8)), STREAM)


@pytest.mark.parametrize(
    ("array", "message"),
    [([1.0], "list is not an array on a GPU"), (torch.zeros(1), "Tensor does not lie on a CUDA device")],
)
def test_what_lies_elsewhere_is_refused(array: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        as_device_array(array, STREAM)


def test_a_result_has_the_cuda_array_interface_itself() -> None:
    result = DeviceArray(4096, (1, 3, 2, 2), "float16", 9)
    again = as_device_array(WithInterface(**result.__cuda_array_interface__), STREAM)
    assert again == result


@pytest.mark.parametrize("refusal", [BufferError, AssertionError, TypeError, RuntimeError, ValueError])
def test_what_a_library_does_not_hand_over_is_refused_in_its_words(refusal: type[Exception]) -> None:
    class Refuses(OnGpu):
        def __dlpack__(self, stream: Any = None) -> Any:
            raise refusal("cannot export tensors that require gradient")

    with pytest.raises(ConfigError, match="Refuses cannot be handed over: cannot export tensors that require gradient"):
        as_device_array(Refuses(np.zeros(1)), STREAM)


def test_a_tensor_that_keeps_gradients_is_refused() -> None:
    tensor = torch.zeros(1, 3, 2, 2, requires_grad=True)
    with pytest.raises(ConfigError, match="cannot be handed over") as caught:
        as_device_array(OnGpu(tensor), STREAM)
    assert "detach" in caught.value.hint


def test_stream_zero_is_the_legacy_stream_on_both_sides() -> None:
    array = OnGpu(np.zeros((1, 3, 2, 2), np.float32))
    as_device_array(array, 0)
    assert array.streams == [1]
    assert DeviceArray(4096, (1,), "float32", 0).__cuda_array_interface__["stream"] == 1
    assert as_device_array(WithInterface(version=3, stream=0), STREAM).stream == 1


@pytest.mark.gpu
def test_tensors_of_pytorch_on_the_gpu() -> None:
    tensor = torch.rand(1, 3, 4, 5, device="cuda")
    found = as_device_array(tensor, torch.cuda.current_stream().cuda_stream)
    assert (found.address, found.shape, found.dtype, found.device) == (tensor.data_ptr(), (1, 3, 4, 5), "float32", 0)
    assert torch.equal(torch.as_tensor(found, device="cuda"), tensor)
