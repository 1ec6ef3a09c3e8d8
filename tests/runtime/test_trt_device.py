"""Pictures that lie on the GPU already, on a stand-in for CUDA: used where they are, after what makes them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
from engine_bench import DYNAMIC, FIXED, TWO_PROFILES, Bench, Foreign, picture, values_at

from deblur_deploy.core.errors import ConfigError, DeblurDeployError
from deblur_deploy.runtime.cuda import LEGACY_STREAM
from deblur_deploy.runtime.device_array import DeviceArray


def test_arrays_on_the_gpu_are_used_where_they_are(make: Callable[..., Bench]) -> None:
    bench = make()
    x, out = Foreign(bench.cuda, picture()), Foreign(bench.cuda, np.zeros(FIXED, np.float32))
    with bench.open() as runner:
        result = runner.infer_device(x, out)
        assert result.address == out.address
        assert result.stream is None
        np.testing.assert_array_equal(out.numpy(), 1 - picture())
        own = runner.infer_device(x)
        np.testing.assert_array_equal(values_at(own.address, own.shape), 1 - picture())
        assert own.__cuda_array_interface__["typestr"] == "<f4"
        assert own.__cuda_array_interface__["shape"] == FIXED
        chained = runner.infer_device(result, x)
        np.testing.assert_allclose(values_at(chained.address, FIXED), picture(), atol=1e-6)
    assert bench.count("upload") == bench.count("download") == 0


@pytest.mark.parametrize(("stream", "version", "waits_for"), [(77, 3, 77), (None, 3, None), (None, 2, 1)])
def test_the_stream_that_makes_an_array_is_waited_for(
    make: Callable[..., Bench], stream: int | None, version: int, waits_for: int | None
) -> None:
    bench = make()
    x = Foreign(bench.cuda, picture(), stream, version)
    with bench.open() as runner:
        runner.infer_device(x)
    assert bench.cuda.log == ([] if waits_for is None else [f"wait for {waits_for}"]) + ["execute"]


def test_on_the_callers_stream_nothing_is_waited_for(make: Callable[..., Bench]) -> None:
    bench = make()
    x, out = Foreign(bench.cuda, picture()), Foreign(bench.cuda, np.zeros(FIXED, np.float32))
    with bench.open() as runner:
        result = runner.infer_device(x, out, stream=55)
        assert result.stream == 55
        assert not out.numpy().any()
        np.testing.assert_array_equal(runner.infer(picture(seed=1)), 1 - picture(seed=1))
        np.testing.assert_array_equal(out.numpy(), 1 - picture())  # the context ran one thing after the other


def test_the_default_stream_is_never_handed_on_as_zero(make: Callable[..., Bench]) -> None:
    """What ``torch.cuda.current_stream().cuda_stream`` is by default: DLPack and the array interface forbid it."""
    bench = make()
    x, out = Foreign(bench.cuda, picture(), stream=77), Foreign(bench.cuda, np.zeros(FIXED, np.float32))
    with bench.open() as runner:
        result = runner.infer_device(x, out, stream=0)
        assert result.stream == LEGACY_STREAM
        assert result.__cuda_array_interface__["stream"] == LEGACY_STREAM
        assert bench.cuda.log[0] == "wait for 77"
        bench.cuda.synchronize(LEGACY_STREAM)
        np.testing.assert_array_equal(out.numpy(), 1 - picture())
        speaks = SpeaksDLPack(x)
        runner.infer_device(speaks, out, stream=0)
        assert speaks.streams == [LEGACY_STREAM]


class SpeaksDLPack:
    """A foreign array that is asked through DLPack, and refuses stream 0 as the protocol says."""

    def __init__(self, array: Foreign) -> None:
        values = values_at(array.address, FIXED)
        memory = (ctypes.c_uint8 * values.nbytes).from_address(array.address)
        self._view = np.frombuffer(memory, np.float32).reshape(FIXED)
        self.streams: list[int] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, stream: int) -> object:
        assert stream != 0
        self.streams.append(stream)
        return self._view.__dlpack__()


def test_a_refused_call_in_between_does_not_let_a_graph_be_captured_too_early(make: Callable[..., Bench]) -> None:
    """The shape was set twice: the network has to run with it before a graph is captured."""
    bench = make(DYNAMIC, profiles=TWO_PROFILES)
    x, other = Foreign(bench.cuda, picture()), Foreign(bench.cuda, picture(1, 3, 8, 8))
    out = Foreign(bench.cuda, np.zeros(FIXED, np.float32))
    with bench.open() as runner:
        runner.infer_device(x, out)
        with pytest.raises(DeblurDeployError, match="that 256 divides"):
            runner.infer_device(DeviceArray(other.address + 4, (1, 3, 8, 8), "float32"))
        runner.infer_device(x, out)
        assert bench.count("capture") == 0
        runner.infer_device(x, out)
        assert bench.count("capture") == 1
        np.testing.assert_array_equal(out.numpy(), 1 - picture())


def test_switching_profiles_waits_for_the_callers_stream(make: Callable[..., Bench]) -> None:
    bench = make(DYNAMIC, profiles=TWO_PROFILES)
    x, out = Foreign(bench.cuda, picture()), Foreign(bench.cuda, np.zeros(FIXED, np.float32))
    with bench.open() as runner:
        runner.infer_device(x, out, stream=55)
        large = picture(1, 3, 16, 16)  # of the second profile, while the first still runs on stream 55
        np.testing.assert_array_equal(runner.infer(large), 1 - large)
        np.testing.assert_array_equal(out.numpy(), 1 - picture())


def test_running_again_touches_nobodys_arrays(make: Callable[..., Bench]) -> None:
    bench = make()
    x, out = Foreign(bench.cuda, picture(seed=1)), Foreign(bench.cuda, np.zeros(FIXED, np.float32))
    with bench.open() as runner:
        runner.infer_device(x, out)
        with pytest.raises(DeblurDeployError, match="no picture lies on the device"):
            runner.compute_again()
        runner.infer(picture())
        runner.infer_device(x, out)
        ctypes.memset(out.address, 0, out.numpy().nbytes)
        runner.compute_again()
        assert not out.numpy().any()


def test_arrays_that_do_not_fit_are_refused(make: Callable[..., Bench]) -> None:
    bench = make()
    good = Foreign(bench.cuda, picture())
    with bench.open() as runner:
        with pytest.raises(ConfigError, match="float16, and the engine takes float32"):
            runner.infer_device(Foreign(bench.cuda, picture().astype(np.float16)))
        with pytest.raises(ConfigError, match="out has shape"):
            runner.infer_device(good, Foreign(bench.cuda, picture(1, 3, 4, 7)))
        with pytest.raises(ConfigError, match="cannot take one picture of 7x4"):
            runner.infer_device(Foreign(bench.cuda, picture(1, 3, 4, 7)))
        with pytest.raises(DeblurDeployError, match="that 256 divides"):
            runner.infer_device(DeviceArray(good.address + 4, FIXED, "float32"))
        with pytest.raises(ConfigError, match="lies on GPU 1"):
            runner.infer_device(DeviceArray(good.address, FIXED, "float32", device=1))
        bench.cuda.elsewhere[good.address] = 2  # the array interface does not say it, CUDA does
        with pytest.raises(ConfigError, match="lies on GPU 2"):
            runner.infer_device(good)
        with pytest.raises(ConfigError, match="names an address that is not on a GPU"):
            runner.infer_device(DeviceArray(4096, FIXED, "float32"))
        with pytest.raises(ConfigError, match="ndarray does not lie on a CUDA device"):
            runner.infer_device(picture())
