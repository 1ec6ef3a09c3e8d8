"""Pictures that lie on the GPU already, on a stand-in for CUDA: used where they are, after what makes them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
from engine_bench import FIXED, Bench, Foreign, picture, values_at

from deblur_deploy.core.errors import ConfigError, DeblurDeployError
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
        with pytest.raises(ConfigError, match="ndarray does not lie on a CUDA device"):
            runner.infer_device(picture())
