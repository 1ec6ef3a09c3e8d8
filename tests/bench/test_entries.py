"""Which rows there are of an artifact."""

from __future__ import annotations

import dataclasses

import pytest

from deblur_deploy.bench import entries as entries_module
from deblur_deploy.bench.entries import BenchEntry, Selection, entries_of
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.runtime import runner as runner_module


@pytest.fixture
def engine(tiny_graph: Artifact) -> Artifact:
    """Facts of an engine that is not on disk."""
    step = dataclasses.replace(tiny_graph.history[-1], figures={"flavour": "rtx"})
    return dataclasses.replace(tiny_graph, kind="engine", history=(step,))


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int | None:
    """What the driver says of the number of GPUs."""
    for module in (entries_module, runner_module):
        monkeypatch.setattr(module, "count_nvidia_gpus", lambda: request.param)
    return request.param


def rows(artifact: Artifact, *runtimes: str, transfers: bool | None) -> list[tuple[str, bool]]:
    return [(entry.runtime, entry.transfers) for entry in entries_of(artifact, None, Selection(runtimes, transfers))]


@pytest.mark.parametrize("driver", [1], indirect=True)
def test_engines_are_measured_with_and_without_graphs_and_transfers(driver: int, engine: Artifact) -> None:
    assert rows(engine, transfers=None) == [
        *(("tensorrt-rtx", True), ("tensorrt-rtx", False)),
        *(("tensorrt-rtx-no-graph", True), ("tensorrt-rtx-no-graph", False)),
    ]
    assert rows(engine, transfers=True) == [("tensorrt-rtx", True), ("tensorrt-rtx-no-graph", True)]
    assert entries_of(engine) == entries_of(engine, None, Selection(transfers=True))


@pytest.mark.parametrize("driver", [None], indirect=True)
def test_where_no_engine_can_run_one_reason_is_enough(driver: None, engine: Artifact) -> None:
    assert rows(engine, transfers=None) == [("tensorrt-rtx", True), ("tensorrt-rtx-no-graph", True)]
    assert rows(engine, "tensorrt-rtx", transfers=False) == [("tensorrt-rtx", True), ("tensorrt-rtx", False)]


def test_pytorch_on_a_gpu_does_without_transfers_only_where_that_is_asked_for(tiny_checkpoint: Artifact) -> None:
    chosen = ("torch", "torch-cuda", "torch-cuda-fp16-graph")
    with_transfers = [(name, True) for name in chosen]
    assert rows(tiny_checkpoint, *chosen, transfers=None) == with_transfers
    assert rows(tiny_checkpoint, *chosen, transfers=False) == [
        ("torch", True),
        *((name, transfers) for name in chosen[1:] for transfers in (True, False)),
    ]


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime-cuda", "pytorch"])
def test_what_cannot_keep_pictures_on_the_gpu_is_refused(tiny_checkpoint: Artifact, runtime: str) -> None:
    with pytest.raises(ConfigError, match=f"{runtime} cannot run a network on pictures that stay"):
        BenchEntry(tiny_checkpoint, runtime, transfers=False)


@pytest.mark.parametrize("driver", [1], indirect=True)
def test_engines_of_films_have_no_row_without_transfers(driver: int, engine: Artifact) -> None:
    film = dataclasses.replace(engine, image=dataclasses.replace(engine.image, state=(8, 4, 5)))

    assert all(entry.transfers for entry in entries_of(film, None, Selection(transfers=False)))
