"""Engines without weights: these come from the ONNX file that was built from, that very one, or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from engine_bench import Bench, picture

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, DeblurDeployError, MissingDependencyError
from deblur_deploy.graph.for_tensorrt import prepare_network, read_network
from deblur_deploy.runtime import engine_load
from deblur_deploy.runtime.engine_fit import WEIGHTS_FIGURE as FIGURE
from deblur_deploy.runtime.engine_fit import _weights_unavailable, find_weights, places_of

Strip = Callable[..., Bench]


@pytest.fixture
def source(onnx_file: Artifact, tmp_path: Path) -> Path:
    """A copy of the ONNX file that tests may spoil, in a folder beside the engine's."""
    path = tmp_path / "onnx" / "model.onnx"
    path.parent.mkdir()
    shutil.copy(onnx_file.path, path)
    return path


@pytest.fixture
def strip(make: Callable[..., Bench], source: Path) -> Strip:
    """Makes an engine that lacks the weights of the network that the builder got, its constants included."""

    def strip(flavour: str = "tensorrt", plugin: str = "none") -> Bench:
        bench = make(flavour=flavour)
        network = prepare_network(read_network(source.read_bytes()), (), plugin != "none").network
        graph = onnx.load_from_string(network).graph
        bench.engine.lacks = {value.name for value in graph.initializer}
        bench.engine.lacks |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
        parent = hashlib.sha256(source.read_bytes()).hexdigest()
        step = dataclasses.replace(bench.artifact.history[-1], parent=parent)
        bench.artifact = dataclasses.replace(bench.artifact, history=(step,))
        bench.tell(
            weights_stripped=True,
            plugin=plugin,
            profiles=[],
            network_sha256=hashlib.sha256(network).hexdigest(),
            **{FIGURE: places_of(source, bench.artifact.directory)},
        )
        return bench

    return strip


@pytest.mark.parametrize(("flavour", "plugin"), [("tensorrt", "aot"), ("tensorrt", "none"), ("rtx", "none")])
def test_the_weights_are_put_in_before_the_first_picture(strip: Strip, flavour: str, plugin: str) -> None:
    bench = strip(flavour, plugin)
    assert len(bench.engine.lacks) > 20
    with bench.open() as runner:
        assert bench.engine.lacks == set()
        np.testing.assert_array_equal(runner.infer(picture()), 1 - picture())
    assert bench.cuda.leaks == {}


def test_both_may_be_moved_together(strip: Strip, source: Path, tmp_path: Path) -> None:
    bench = strip()
    moved = tmp_path / "elsewhere" / "runs"
    shutil.move(source.parent, moved / "onnx")
    (moved / "engine").mkdir()
    assert bench.artifact.directory == tmp_path
    bench.tell(**{FIGURE: places_of(source, tmp_path / "engine")})
    engine = dataclasses.replace(bench.artifact, path=moved / "engine" / "model.engine")
    assert find_weights(engine).samefile(moved / "onnx" / "model.onnx")


def test_a_place_that_cannot_be_looked_at_hides_no_other(strip: Strip, source: Path) -> None:
    bench = strip()
    bench.tell(**{FIGURE: ["x" * 5000, str(source.parent), *places_of(source, bench.artifact.directory)]})
    assert find_weights(bench.artifact).samefile(source)


def test_a_file_that_is_not_there_is_named(strip: Strip, source: Path) -> None:
    bench = strip()
    source.unlink()
    with pytest.raises(
        ArtifactError, match=r"model\.engine was built without its weights, and .*model\.onnx with"
    ) as e:
        bench.open()
    assert "put the ONNX file that it was built from back there" in e.value.hint
    unavailable = _weights_unavailable(bench.artifact)
    assert unavailable is not None
    assert unavailable.message == e.value.message
    for told in (None, 5):
        bench.tell(**{FIGURE: told})
        with pytest.raises(ArtifactError, match="whose place its manifest does not say"):
            bench.open()
    assert bench.cuda.leaks == {}


def test_another_file_in_its_place_is_refused(strip: Strip, source: Path) -> None:
    bench = strip()
    assert _weights_unavailable(bench.artifact) is None
    model = onnx.load(source)
    model.producer_name = "another"
    onnx.save(model, source)
    with pytest.raises(ArtifactError, match=r"model\.onnx is not the file that it was built from") as e:
        bench.open()
    assert "--strip-weights" in e.value.hint
    assert bench.engine.lacks


def test_a_file_that_gives_another_network_here_is_refused(strip: Strip) -> None:
    bench = strip()
    bench.tell(network_sha256="0" * 64)
    with pytest.raises(ArtifactError, match=r"does not give the network that .* though the file is the same") as e:
        bench.open()
    assert f"({onnx.__version__})" in e.value.hint


def test_what_tensorrt_complains_of_is_said(strip: Strip) -> None:
    bench = strip()
    bench.engine.lacks.add("of another network")
    with pytest.raises(ArtifactError, match=r"does not take the weights .*: Failed to refit all the weights\."):
        bench.open()
    bench = strip()
    bench.engine.has_memory = False
    with pytest.raises(DeblurDeployError, match=r"cannot put the weights into .*: out of memory"):
        bench.open()
    assert bench.cuda.leaks == {}


def test_an_engine_with_its_weights_asks_for_no_file(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    monkeypatch.setattr(engine_load, "_put_weights_in", lambda *_: pytest.fail("there was nothing to put in"))
    assert _weights_unavailable(bench.artifact) is None
    with bench.open():
        pass


def test_without_onnx_there_is_the_line_that_installs_it(strip: Strip, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = strip()
    monkeypatch.setitem(sys.modules, "deblur_deploy.runtime.refit", None)
    with pytest.raises(MissingDependencyError, match="which are read with onnx") as e:
        bench.open()
    assert e.value.hint == "pip install onnx"
