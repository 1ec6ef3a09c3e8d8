"""The table of runtimes: a row is all that a new one needs."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deblur_deploy.bench.ceilings import Ceilings
from deblur_deploy.bench.entries import all_entries
from deblur_deploy.bench.floor import network_floor
from deblur_deploy.bench.measure import BenchConfig, measure
from deblur_deploy.cli import doctor_command
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError, DeblurDeployError
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.lazy import load_named
from deblur_deploy.runtime.ov import OpenVINORunner
from deblur_deploy.runtime.runner import Runner, open_runner, reason_unavailable
from deblur_deploy.runtime.runtimes import RUNTIMES, OpenOptions, Runtime


class Halving(Runner):
    """A runtime whose network halves every value."""

    failures = (FloatingPointError,)
    opened = 0

    def __init__(self, artifact: Artifact, name: str, options: OpenOptions) -> None:
        super().__init__(name, artifact.image)
        self.options = options
        Halving.opened += 1

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        if batch.min() < 0:
            raise FloatingPointError("below zero\nand more")
        return batch / 2

    def close(self) -> None:
        Halving.opened -= 1


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> str:
    """A runtime that no file of the package knows of, in the table."""
    module = ModuleType("made_up_runtime")
    module.open_made_up = Halving  # type: ignore[attr-defined]
    module.lacks_nothing = lambda name: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up_runtime", module)
    row = Runtime(
        kind="onnx",
        opener="made_up_runtime:open_made_up",
        precision="bf16",
        modules=("made_up_runtime",),
        packages=("pip",),
        install="pip install made-up-runtime",
        unavailable="made_up_runtime:lacks_nothing",
    )
    monkeypatch.setitem(RUNTIMES, "made-up", row)  # type: ignore[arg-type]
    module.__spec__ = sys.__spec__  # what says that it is installed
    return "made-up"


def test_a_made_up_runtime_is_opened_and_its_failures_are_named(made_up: str, onnx_file: Artifact) -> None:
    batch = np.full((1, 3, 36, 50), 0.5, np.float32)
    with open_runner(onnx_file, made_up, threads=3) as runner:
        assert isinstance(runner, Halving)
        assert (runner.name, runner.options.threads, Halving.opened) == (made_up, 3, 1)
        np.testing.assert_array_equal(runner.infer(batch), batch / 2)
        assert runner.infer(np.full((1, 36, 50, 3), 100, np.uint8)).max() == 50
        with pytest.raises(DeblurDeployError) as failed:
            runner.infer(-batch)
        assert failed.value.message == "made-up failed on a 1x3x36x50 batch: below zero"
    assert Halving.opened == 0


def test_a_made_up_runtime_is_benchmarked_beside_the_others(made_up: str, onnx_file: Artifact) -> None:
    config = BenchConfig(Resolution(50, 36), duration_ms=0.0, warmup_ms=0.0, min_iterations=1, windows=1, max_windows=1)
    report = measure(all_entries([onnx_file]), config)
    row = next(row for row in report.rows if row.runtime == made_up)
    assert row.latency_ms is not None
    assert {"openvino", "onnxruntime"} < {row.runtime for row in report.rows}
    assert "pip" in report.device["libraries"]
    ceilings = Ceilings("cpu", {"fp32": 1.0, "bf16": 4.0}, 1.0, {})
    floors = [network_floor(onnx_file, name, (Resolution(50, 36), 1), ceilings) for name in (made_up, "onnxruntime")]
    assert [set(floor.gmacs) for floor in floors if floor] == [{"bf16"}, {"fp32"}]


def test_doctor_lists_a_made_up_runtime_and_what_it_lacks(
    made_up: str, onnx_file: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor_command.command(as_json=True)
    assert json.loads(capsys.readouterr().out)["runtimes"][made_up] is None

    lacking = DeblurDeployError("made-up needs a moon", hint="wait for the night")
    monkeypatch.setattr(sys.modules["made_up_runtime"], "lacks_nothing", lambda name: lacking)
    assert reason_unavailable(onnx_file, made_up) == "made-up needs a moon; wait for the night"
    doctor_command.command(as_json=True)
    assert json.loads(capsys.readouterr().out)["runtimes"][made_up] == "made-up needs a moon; wait for the night"


def test_a_name_that_is_not_in_the_table_is_refused_everywhere(onnx_file: Artifact) -> None:
    for opening in (open_runner, lambda *given: OpenVINORunner(*given)):
        with pytest.raises(ConfigError, match="there is no runtime 'openvno'") as refused:
            opening(onnx_file, "openvno")
        assert refused.value.hint == "did you mean 'openvino'?"


def test_every_row_names_functions_that_are_there() -> None:
    for row in RUNTIMES.values():
        assert callable(load_named(row.opener))
        assert row.unavailable is None or callable(load_named(row.unavailable))
        assert row.install
