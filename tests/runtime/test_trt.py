"""The engine runner on a stand-in for CUDA and TensorRT: what it copies, captures, refuses and gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import COMPUTE_MS, DOWNLOAD_MS, UPLOAD_MS
from engine_bench import DYNAMIC, TWO_PROFILES, Bench, Foreign, picture

from deblur_deploy.core.errors import ConfigError, DeblurDeployError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.infer.restore import RestoreConfig, Restorer
from deblur_deploy.runtime.trt import EngineOptions


def test_a_picture_goes_through_the_engine_and_comes_back(make: Callable[..., Bench]) -> None:
    bench = make()
    with bench.open() as runner:
        assert runner.name == "tensorrt"
        first, second = runner.infer(picture()), runner.infer(picture(seed=1))
    np.testing.assert_array_equal(first, 1 - picture())
    np.testing.assert_array_equal(second, 1 - picture(seed=1))
    assert first.dtype == np.float32
    assert bench.cuda.log[:3] == ["upload", "execute", "download"]
    assert bench.cuda.leaks == {}


def test_the_result_is_the_callers_own(make: Callable[..., Bench]) -> None:
    with make().open() as runner:
        first = runner.infer(picture())
        kept = first.copy()
        runner.infer(picture(seed=1))
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("flavour", ["tensorrt", "rtx"])
def test_everything_is_given_back_when_something_fails_on_the_way(make: Callable[..., Bench], flavour: str) -> None:
    bench = make(flavour=flavour)
    bench.engine.refuses = lambda: True
    with bench.open(streams=2) as runner, pytest.raises(DeblurDeployError, match="cannot be run: enqueue failed"):
        runner.infer(picture())
    assert bench.cuda.leaks == {}


def test_what_was_opened_before_a_failure_is_given_back(make: Callable[..., Bench]) -> None:
    bench = make()
    made = iter([True, False])
    create = bench.engine.create_execution_context
    bench.engine.create_execution_context = lambda config=None: create(config) if next(made) else None
    with pytest.raises(DeblurDeployError, match="no memory left"):
        bench.open(streams=2)
    assert bench.cuda.leaks == {}


def test_no_room_on_the_gpu_is_an_error_and_leaves_nothing_behind(make: Callable[..., Bench], stand_in: Any) -> None:
    bench = make()
    bench.cuda._left = 300
    with bench.open() as runner, pytest.raises(DeblurDeployError, match="no memory left"):
        runner.infer(picture())
    assert bench.cuda.leaks == {}


def test_the_second_picture_of_a_size_is_captured_and_the_third_replayed(make: Callable[..., Bench]) -> None:
    bench = make()
    with bench.open() as runner:
        results = [runner.infer(picture(seed=seed)) for seed in range(4)]
        assert (bench.count("execute"), bench.count("capture"), bench.count("graph")) == (2, 1, 3)
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(result, 1 - picture(seed=seed))
    assert bench.cuda.leaks == {}


def test_no_graph_where_none_is_wanted(make: Callable[..., Bench]) -> None:
    bench = make()
    with bench.open(cuda_graph=False) as runner:
        assert runner.name == "tensorrt-no-graph"
        for seed in range(3):
            runner.infer(picture(seed=seed))
    assert (bench.count("execute"), bench.count("capture"), bench.count("graph")) == (3, 0, 0)


def test_a_graph_does_not_outlive_its_shape(make: Callable[..., Bench]) -> None:
    bench = make(DYNAMIC, profiles=TWO_PROFILES)
    sizes = [(4, 6), (4, 6), (8, 8), (4, 6), (4, 6)]
    with bench.open() as runner:
        for seed, (height, width) in enumerate(sizes):
            x = picture(1, 3, height, width, seed=seed)
            np.testing.assert_array_equal(runner.infer(x), 1 - x)
            assert len(bench.cuda.live["graph"]) == (1 if seed in (1, 4) else 0)
    assert bench.cuda.leaks == {}


def test_a_failed_capture_says_which_runtime_needs_none(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.engine.refuses = lambda: bool(bench.cuda._captures)
    with bench.open() as runner:
        runner.infer(picture())
        with pytest.raises(DeblurDeployError, match="no CUDA graph of the engine") as e:
            runner.infer(picture())
        assert "-no-graph" in e.value.hint
        bench.engine.refuses = lambda: False
        np.testing.assert_array_equal(runner.infer(picture(seed=1)), 1 - picture(seed=1))
    assert bench.cuda.leaks == {}


@pytest.mark.parametrize(("height", "width", "number"), [(2, 2, 1), (8, 8, 1), (16, 32, 2), (4, 6, 1)])
def test_any_shape_within_a_profile_is_taken(make: Callable[..., Bench], height: int, width: int, number: int) -> None:
    bench = make(DYNAMIC, profiles=TWO_PROFILES)
    x = picture(number, 3, height, width)
    with bench.open() as runner:
        runner.infer(picture(1, 3, 8, 8))
        np.testing.assert_array_equal(runner.infer(x), 1 - x)
        np.testing.assert_array_equal(runner.infer(x), 1 - x)


def test_a_shape_outside_of_the_profiles_is_refused_and_named(make: Callable[..., Bench]) -> None:
    with make(DYNAMIC, profiles=TWO_PROFILES).open() as runner:
        with pytest.raises(ConfigError) as e:
            runner.infer(picture(1, 3, 8, 9))
        assert "one picture of 2x2 to 8x8 or 1 to 2 pictures of 16x16 to 32x16" in e.value.message
        assert "cannot take one picture of 9x8" in e.value.message
        assert "--res 9x8" in e.value.hint
        x = picture(1, 3, 4, 4)
        np.testing.assert_array_equal(runner.infer(x), 1 - x)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((3, 4, 6), np.float32),
        np.zeros((1, 1, 4, 6), np.float32),
        np.zeros((1, 3, 4, 6), np.float64),
        np.zeros((1, 3, 4, 6), np.uint8),
        np.zeros((1, 3, 0, 6), np.float32),
        np.zeros((2, 3, 4, 6), np.float32),
    ],
)
def test_malformed_batches_are_refused(make: Callable[..., Bench], batch: np.ndarray) -> None:
    with make().open() as runner, pytest.raises(ConfigError):
        runner.infer(batch)


def test_half_precision_tensors_are_converted_at_the_border(make: Callable[..., Bench], stand_in: Any) -> None:
    x = picture()
    with make(dtype=stand_in.Named.HALF).open() as runner:
        result = runner.infer(x)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, (1 - x.astype(np.float16)).astype(np.float32))


def frames_engine(make: Callable[..., Bench], stand_in: Any) -> Bench:
    return make((1, 4, 6, 3), dtype=stand_in.Named.UINT8)


def test_camera_frames_go_through_untouched(make: Callable[..., Bench], stand_in: Any) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 3), np.uint8)
    with frames_engine(make, stand_in).open() as runner:
        result = runner.infer(frames)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, 255 - frames)


def test_floats_are_rounded_for_an_engine_of_frames(make: Callable[..., Bench], stand_in: Any) -> None:
    x = picture() * 1.4 - 0.2
    with frames_engine(make, stand_in).open() as runner:
        result = runner.infer(x)
    assert result.dtype == np.float32
    assert result.shape == x.shape
    np.testing.assert_allclose(result, 1 - np.clip(x, 0, 1), atol=0.5 / 255 + 1e-6)


def test_frames_are_scaled_for_an_engine_of_floats(make: Callable[..., Bench]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 3), np.uint8)
    with make().open() as runner:
        result = runner.infer(frames)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, 255 - frames)


def test_phases_are_those_of_the_device(make: Callable[..., Bench]) -> None:
    with make().open() as runner:
        runner.infer(picture())
        _, timings = runner.infer_timed(picture())
        again = runner.compute_again()
        assert runner.settings == {"cuda_graph": True, "spin_wait": True}
    copies = (timings.h2d, timings.compute, timings.d2h)
    expected = (UPLOAD_MS, COMPUTE_MS, DOWNLOAD_MS)
    assert [end - start for start, end in copies] == pytest.approx(expected)
    assert timings.h2d[0] == pytest.approx(sum(expected))
    assert timings.h2d[1] == timings.compute[0]
    assert timings.compute[1] == timings.d2h[0]
    assert timings.latency_ms == pytest.approx(sum(expected))
    assert 0 < timings.enqueue[0] < timings.enqueue[1]
    assert again.latency_ms == pytest.approx(COMPUTE_MS)
    assert again.compute[0] == pytest.approx(2 * sum(expected))


@pytest.mark.parametrize(("spin_wait", "way"), [(True, "awake"), (False, "asleep")])
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_the_host_waits_as_it_is_told(make: Callable[..., Bench], spin_wait: bool, way: str, cuda_graph: bool) -> None:
    bench = make()
    with bench.open(spin_wait=spin_wait, cuda_graph=cuda_graph) as runner:
        assert runner.settings == {"cuda_graph": cuda_graph, "spin_wait": spin_wait}
        for _ in range(3):
            np.testing.assert_array_equal(runner.infer(picture()), 1 - picture())
        runner.compute_again()
        runner.infer_device(Foreign(bench.cuda, picture()))
    assert bench.cuda.host_waits == [way] * 5


def test_without_transfers_nothing_is_copied_and_the_graph_is_replayed(make: Callable[..., Bench]) -> None:
    bench = make()
    with bench.open() as runner:
        runner.infer(picture())
        runner.infer(picture())
        before = bench.cuda.log[:]
        for _ in range(3):
            runner.compute_again()
    assert bench.cuda.log[len(before) :] == ["graph"] * 3


@pytest.mark.parametrize("streams", [1, 3])
def test_many_pictures_keep_their_order_on_several_streams(make: Callable[..., Bench], streams: int) -> None:
    bench = make()
    batches = [picture(seed=seed) for seed in range(7)]
    with bench.open(streams=streams) as runner:
        results = list(runner.infer_all(batches))
        assert len(bench.cuda.live["stream"]) == streams
    for batch, result in zip(batches, results, strict=True):
        np.testing.assert_array_equal(result, 1 - batch)
    assert bench.cuda.leaks == {}


def test_streams_are_filled_before_the_first_result_is_waited_for(make: Callable[..., Bench]) -> None:
    bench = make()
    with bench.open(streams=3) as runner:
        results = runner.infer_all(picture(seed=seed) for seed in range(5))
        next(results)
        assert bench.count("upload") == 3
        results.close()
        np.testing.assert_array_equal(runner.infer(picture()), 1 - picture())


@pytest.mark.parametrize("name", ["streams", "batch"])
def test_zero_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0"):
        EngineOptions(**{name: 0})


def test_an_adopted_engine_of_one_size_restores_pictures_of_any(make: Callable[..., Bench]) -> None:
    bench = make((1, 3, 32, 48))
    samples = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    with bench.open() as runner:
        assert (runner.image.height, runner.image.width) == (32, 48)
        restored = Restorer(runner, RestoreConfig(count_process=False)).restore(samples)
    np.testing.assert_array_equal(restored, 255 - samples)


def test_of_several_sizes_the_largest_for_one_picture_is_used(make: Callable[..., Bench], stand_in: Any) -> None:
    with make(DYNAMIC, profiles=TWO_PROFILES).open() as runner:
        assert (runner.image.height, runner.image.width) == (16, 32)
    with make((1, 4, 6, 3), dtype=stand_in.Named.UINT8).open() as runner:
        assert runner.image == ImageSpec.of_frames(4, 6)


@pytest.mark.parametrize(
    ("shape", "profiles"), [((4, 3, 4, 6), ()), (DYNAMIC, (((2, 3, 2, 2),) * 2 + ((4, 3, 8, 8),),))]
)
def test_an_engine_for_batches_is_refused_at_once_where_pictures_come_one_by_one(
    make: Callable[..., Bench], shape: tuple[int, ...], profiles: tuple[Any, ...]
) -> None:
    bench = make(shape, profiles=profiles)
    with pytest.raises(ConfigError, match=r"4 pictures of .* at a time, and 1 was given") as e:
        bench.open(batch=1)
    assert "--batch 1-4" in e.value.hint
    assert bench.cuda.leaks == {}
    with pytest.raises(ConfigError, match="5 were given") as e:
        bench.open(batch=5)
    assert "give fewer" in e.value.hint
    with bench.open(batch=4) as runner:
        np.testing.assert_array_equal(runner.infer(picture(4, 3, 4, 6)), 1 - picture(4, 3, 4, 6))


def test_an_engine_for_batches_names_the_option_that_takes_one_picture(make: Callable[..., Bench]) -> None:
    with make((4, 3, 4, 6)).open() as runner:
        assert runner.image.height is None
        with pytest.raises(ConfigError, match="4 pictures of 6x4 at a time, and 1 was given") as e:
            runner.infer(picture())
        assert "--batch 1-4" in e.value.hint
        np.testing.assert_array_equal(runner.infer(picture(4, 3, 4, 6)), 1 - picture(4, 3, 4, 6))
