"""Engine files that deblur-deploy did not write: not run unless the user vouches for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deblur_deploy.cli.dispatch import run_command
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.runtime import engine_load
from deblur_deploy.runtime.engine_load import adopt_engine, is_foreign_engine
from deblur_deploy.runtime.runner import default_runtime


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.plan"
    path.write_bytes(b"some engine")
    return path


def test_a_file_with_a_manifest_beside_it_is_not_foreign(file: Path) -> None:
    assert is_foreign_engine(file)
    assert not is_foreign_engine(file.parent)
    assert not is_foreign_engine(file.with_name("none.engine"))
    (file.parent / "manifest.json").touch()
    assert not is_foreign_engine(file)


def test_without_trust_it_is_refused(file: Path) -> None:
    with pytest.raises(ArtifactError, match=r"theirs\.plan has no manifest\.json: who built it") as e:
        adopt_engine(file, trust=False)
    assert "--trust" in e.value.hint


@pytest.mark.rtx
def test_what_rtx_does_not_know_is_taken_for_the_full_tensorrt(file: Path) -> None:
    artifact = adopt_engine(file, trust=True)
    assert default_runtime(artifact) == "tensorrt"
    assert artifact.path == file


def test_what_rtx_knows_is_its_own(monkeypatch: pytest.MonkeyPatch, stand_in: Any, file: Path) -> None:
    rtx = stand_in.StandInTensorRTRTX({})
    rtx.validity = (rtx.EngineValidity.INVALID, rtx.EngineInvalidityDiagnostics.UNSUPPORTED_CC)
    monkeypatch.setattr(engine_load, "find_spec", lambda name: object())
    monkeypatch.setattr(engine_load, "import_tensorrt", lambda flavour: rtx)
    assert default_runtime(adopt_engine(file, trust=True)) == "tensorrt-rtx"
    rtx.validity = (rtx.EngineValidity.INVALID, 0)
    assert default_runtime(adopt_engine(file, trust=True)) == "tensorrt-rtx"


def test_without_rtx_it_is_the_full_tensorrts(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setattr(engine_load, "find_spec", lambda name: None)
    monkeypatch.setattr(engine_load, "import_tensorrt", lambda flavour: SimpleNamespace())
    assert default_runtime(adopt_engine(file, trust=True)) == "tensorrt"


def test_infer_asks_for_trust(capsys: pytest.CaptureFixture[str], file: Path, photo: Any) -> None:
    from deblur_deploy.core.images import save_rgb

    save_rgb(file.parent / "photo.png", photo)
    arguments = [str(file), str(file.parent / "photo.png"), "--out", str(file.parent / "out")]
    assert run_command("infer", arguments) == 1
    assert "give --trust" in capsys.readouterr().err
