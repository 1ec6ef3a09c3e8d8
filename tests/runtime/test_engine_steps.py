"""Engines of temporal networks on a stand-in for CUDA and TensorRT: what is copied, kept, refused and given back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import COMPUTE_MS
from trt_stand_in import Named, StandInContext, StandInCuda, StandInEngine, StandInTensorRT, _values

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, DeblurDeployError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.runtime.engine_steps import EngineStepRunner
from deblur_deploy.runtime.film_runner import TemporalRunner
from deblur_deploy.runtime.trt import EngineOptions, Libraries

HEIGHT, WIDTH = 64, 80
SHAPES = {
    "blurred": (1, 3, HEIGHT, WIDTH),
    "before": (1, 3, HEIGHT, WIDTH),
    "state": (1, 4, 4, 5),
    "flow": (1, 2, 16, 20),
    "trust": (1, 1, 16, 20),
    "restored": (1, 3, HEIGHT, WIDTH),
    "state_out": (1, 4, 4, 5),
}


class StepContext(StandInContext):
    """The mean of a frame and the result before it, where the flow is trusted; the state counts the frames."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self._engine
        if engine.refuses():
            engine.logger.log(type("Severity", (), {"name": "ERROR"}), "enqueue failed")
            return False

        def run() -> None:
            found = {
                name: _values(self._addresses[name], math.prod(shape), np.dtype(np.float32)).reshape(shape)
                for name, shape in SHAPES.items()
            }
            share = 0.5 * found["trust"].mean()
            found["restored"][...] = (1 - share) * found["blurred"] + share * found["before"]
            found["state_out"][...] = found["state"] + 1
            engine.cuda.take(COMPUTE_MS)

        engine.cuda.log.append("execute")
        engine.cuda.enqueue(stream_handle, run)
        return True


class StepEngine(StandInEngine):
    """An engine with the tensors of a temporal network."""

    def __init__(self, cuda: StandInCuda) -> None:
        super().__init__(cuda, SHAPES["blurred"])
        self.tensors = {name: Named.OUTPUT if name in ("restored", "state_out") else Named.INPUT for name in SHAPES}

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return SHAPES[name]

    def create_execution_context(self, runtime_config: Any = None) -> StandInContext | None:
        return StepContext(self, runtime_config) if self.has_memory else None


@pytest.fixture
def temporal_engine(engine: Artifact, with_figures: Callable[..., Artifact]) -> Artifact:
    figures = {"target": "L4", "capability": "8.9", "flavour": "tensorrt", "flavour_version": "11.4.0.106"}
    built = with_figures(engine, **figures)
    return dataclasses.replace(built, image=ImageSpec(height=HEIGHT, width=WIDTH, state=(4, 4, 5)))


@pytest.fixture
def built() -> StepEngine:
    return StepEngine(StandInCuda())


def opened(artifact: Artifact, built: StepEngine) -> EngineStepRunner:
    return EngineStepRunner(
        artifact, EngineOptions(cuda_graph=False), Libraries(StandInTensorRT({b"engine": built}), built.cuda)
    )  # type: ignore[arg-type]


def frames(count: int) -> list[np.ndarray]:
    texture = np.random.default_rng(0).random((1, 3, HEIGHT // 8, WIDTH // 8), dtype=np.float32)
    still = texture.repeat(8, axis=2).repeat(8, axis=3)
    return [np.clip(still + 0.02 * index, 0, 1) for index in range(count)]


def test_a_film_goes_through_frame_by_frame_and_everything_is_given_back(temporal_engine, built):
    film = frames(3)
    with TemporalRunner(opened(temporal_engine, built), temporal_engine, remembers=True) as runner:
        restored = [runner.infer(frame) for frame in film]
        state = runner._before.state

    np.testing.assert_allclose(restored[0], film[0], atol=1e-6)
    trusted = [np.abs(found - frame).max() > 1e-3 for found, frame in zip(restored[1:], film[1:], strict=True)]
    assert trusted == [True, True]
    np.testing.assert_array_equal(state, np.full(SHAPES["state"], 3, np.float32))
    assert built.cuda.log[:8] == ["upload"] * 5 + ["execute"] + ["download"] * 2
    assert built.cuda.leaks == {}


def test_pictures_by_themselves_have_nothing_before_them(temporal_engine, built):
    with TemporalRunner(opened(temporal_engine, built), temporal_engine, remembers=False) as runner:
        for frame in frames(2):
            np.testing.assert_allclose(runner.infer(frame), frame, atol=1e-6)


def test_a_run_that_is_refused_says_why_and_leaves_nothing_behind(temporal_engine, built):
    built.refuses = lambda: True
    runner = TemporalRunner(opened(temporal_engine, built), temporal_engine, remembers=True)
    with runner, pytest.raises(DeblurDeployError, match="enqueue failed"):
        runner.infer(frames(1)[0])
    assert built.cuda.leaks == {}


def test_no_room_on_the_gpu_leaves_nothing_behind(temporal_engine, built):
    built.cuda._left = 100_000
    with pytest.raises(DeblurDeployError, match="no memory left"):
        opened(temporal_engine, built)
    assert built.cuda.leaks == {}


def test_an_engine_with_other_tensors_or_types_is_refused(temporal_engine, built):
    built.dtype = Named.HALF
    with pytest.raises(ArtifactError, match="is float16, not float32"):
        opened(temporal_engine, built)
    built.dtype = Named.FLOAT
    del built.tensors["trust"]
    with pytest.raises(ArtifactError, match="not those of a temporal network") as caught:
        opened(temporal_engine, built)
    assert "export-trt --temporal" in caught.value.hint
