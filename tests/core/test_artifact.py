"""Artifacts are there whole or not at all, and a changed byte is noticed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deblur_deploy.config import FitConfig
from deblur_deploy.core.artifact import (
    Artifact,
    Draft,
    NetworkSpec,
    Step,
    _manifest_hash,
    load_artifact,
    new_step,
    write_artifact,
)
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.core.sources import find_artifacts

NETWORK = NetworkSpec("srn", {"level_channels": [8, 16, 32], "recurrent_channels": 32})


def step(stage: str = "import", created: str = "2026-01-01T00:00:00.000000+00:00", **figures: Any) -> Step:
    return Step(stage, {}, {"numpy": "2.0"}, None, created, figures)


def draft(content: bytes = b"payload", last: Step | None = None, earlier: tuple[Step, ...] = ()) -> Draft:
    def write(path: Path) -> None:
        path.write_bytes(content)

    image = ImageSpec(multiple_of=16, value_range=(0.0, 1.0))
    return Draft("checkpoint", "weights.bin", write, NETWORK, image, last or step(), earlier)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    first, last = step(psnr_db=30.0, params=9), step("prune", psnr_db=29.5)
    written = write_artifact(tmp_path / "runs" / "prune", draft(b"12345", last, (first,)))
    assert written == load_artifact(tmp_path / "runs" / "prune")
    assert written.path.read_bytes() == b"12345"
    assert written.sha256 == "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"
    assert written.directory == tmp_path / "runs" / "prune"
    assert written.stage == "prune"
    assert written.figures == {"psnr_db": 29.5, "params": 9, "bytes": 5}
    assert (written.network, written.image) == (NETWORK, ImageSpec(multiple_of=16))


def test_what_is_measured_of_the_payload_joins_the_figures(tmp_path: Path) -> None:
    def measure(staged: Artifact) -> dict[str, Any]:
        assert staged.path.read_bytes() == b"12345"
        assert (staged.network, staged.history[0].stage) == (NETWORK, "import")
        return {"psnr_db": staged.figures["bytes"] + 20.0, "kept": (1, 2)}

    measured = dataclasses.replace(draft(b"12345", step(params=9)), measure=measure)
    written = write_artifact(tmp_path / "a", measured)
    assert written.figures == {"params": 9, "bytes": 5, "psnr_db": 25.0, "kept": [1, 2]}
    assert load_artifact(tmp_path / "a") == written


def test_nothing_is_left_where_measuring_fails(tmp_path: Path) -> None:
    def measure(_: Artifact) -> dict[str, Any]:
        raise ArtifactError("no", hint="none")

    with pytest.raises(ArtifactError, match="no"):
        write_artifact(tmp_path / "a", dataclasses.replace(draft(), measure=measure))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", [".", "manifest.json", "weights.bin"])
def test_an_artifact_is_opened_by_its_directory_manifest_or_payload(tmp_path: Path, part: str) -> None:
    written = write_artifact(tmp_path / "a", draft())
    assert load_artifact(tmp_path / "a" / part) == written


def test_a_neighbour_of_the_payload_is_not_taken_for_it(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", draft())
    (tmp_path / "a" / "other.pth").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"other\.pth is not part of the artifact"):
        load_artifact(tmp_path / "a" / "other.pth")
    with pytest.raises(ArtifactError, match=r"there is no .*gone\.pth"):
        load_artifact(tmp_path / "a" / "gone.pth")


def test_a_step_describes_the_stage_that_ran(tmp_path: Path) -> None:
    parent = write_artifact(tmp_path / "a", draft())
    described = new_step("prune", FitConfig(steps=3), parent, {"kept": (1, 2), "log": Path("x")})
    assert described.config["steps"] == 3
    assert described.figures == {"kept": [1, 2], "log": "x"}
    assert described.parent == parent.sha256
    assert "numpy" in described.versions
    assert described.created.endswith("+00:00")


def test_one_flipped_byte_of_the_payload_is_noticed(tmp_path: Path) -> None:
    written = write_artifact(tmp_path / "a", draft(bytes(100)))
    content = bytearray(written.path.read_bytes())
    content[57] ^= 1
    written.path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is not the file its manifest describes"):
        load_artifact(tmp_path / "a")


def test_a_missing_payload_is_named(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", draft()).path.unlink()
    with pytest.raises(ArtifactError, match=r"weights\.bin is missing"):
        load_artifact(tmp_path / "a")


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], object], signed: bool) -> None:
    """Change a manifest, and its own hash with it where ``signed``, so that the checks behind the hash are reached."""
    manifest = json.loads(path.read_text())
    change(manifest)
    if signed:
        manifest["manifest_sha256"] = _manifest_hash(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"sha256": "0" * 64}, "is not the file its manifest describes: .* manifest says 000000000000"),
        ({"sha256": None}, "is not the file its manifest describes: .* manifest says None"),
        ({"kind": "model"}, "is malformed: .*has kind 'model'"),
        ({"kind": ["checkpoint"]}, r"is malformed: .*has kind \['checkpoint'\]"),
        ({"format_version": 2}, "is not a manifest of format 1"),
        ({"history": []}, "is malformed"),
        ({"history": "import"}, "is malformed"),
        ({"history": [{"stage": "import"}]}, "is malformed: history lacks config"),
        ({"network": {"arch": "srn"}}, "is malformed: network lacks config"),
        ({"network": {"arch": "srn", "config": {}, "widths": 8}}, "is malformed: network has no field 'widths'"),
        ({"image": {"multiple_of": "16"}}, r"is malformed: image\.multiple_of is '16'"),
        ({"image": 3}, "is malformed"),
        ({"file": "../a/weights.bin"}, "names the file '../a/weights.bin'"),
        ({"file": "/etc/hostname"}, "names the file '/etc/hostname'"),
        ({"file": ".."}, r"names the file '\.\.'"),
        ({"file": ""}, "names the file ''"),
        ({"file": 7}, "names the file 7"),
        ({"file": "weights.bin\0"}, r"weights\.bin\0 is missing"),
    ],
    ids=str,
)
def test_a_manifest_of_nonsense_is_refused(tmp_path: Path, edit: dict[str, Any], said: str) -> None:
    write_artifact(tmp_path / "a", draft())
    edit_manifest(tmp_path / "a" / "manifest.json", lambda manifest: manifest.update(edit), signed=True)
    with pytest.raises(ArtifactError, match=said) as error:
        load_artifact(tmp_path / "a")
    assert error.value.hint


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("format_version", "is not a manifest of format 1"),
        ("kind", "is malformed: .*kind"),
        ("file", "names the file None"),
        ("sha256", "is not the file its manifest describes"),
        ("network", "is malformed: .*network"),
        ("image", "is malformed: .*image"),
        ("history", "is malformed: .*history"),
        ("manifest_sha256", "was changed after it was written"),
    ],
)
def test_a_manifest_that_lacks_a_field_is_refused(tmp_path: Path, field: str, said: str) -> None:
    write_artifact(tmp_path / "a", draft())
    signed = field != "manifest_sha256"
    edit_manifest(tmp_path / "a" / "manifest.json", lambda manifest: manifest.pop(field), signed)
    with pytest.raises(ArtifactError, match=said):
        load_artifact(tmp_path / "a")


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest["history"][0]["figures"].update(psnr_db=99.0),
        lambda manifest: manifest["network"]["config"].update(recurrent_channels=16),
        lambda manifest: manifest["image"].update(width=640),
        lambda manifest: manifest.update(kind="onnx"),
        lambda manifest: manifest.update(note="checked by hand"),
        lambda manifest: manifest.update(manifest_sha256="0" * 64),
    ],
    ids=["figure", "width", "size", "kind", "addition", "hash"],
)
def test_an_edited_manifest_is_noticed(tmp_path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    write_artifact(tmp_path / "a", draft(last=step(psnr_db=30.0)))
    edit_manifest(tmp_path / "a" / "manifest.json", edit, signed=False)
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        load_artifact(tmp_path / "a")


def test_a_signed_edit_without_nonsense_is_read(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", draft())
    edit_manifest(tmp_path / "a" / "manifest.json", lambda manifest: manifest.update(kind="onnx"), signed=True)
    assert load_artifact(tmp_path / "a").kind == "onnx"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    write_artifact(tmp_path / "a", draft())
    (tmp_path / "a" / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load_artifact(tmp_path / "a")


def test_what_is_no_artifact_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "net.pth").write_bytes(b"")
    for path in (tmp_path / "folder", tmp_path / "net.pth"):
        with pytest.raises(ArtifactError, match="is not an artifact") as error:
            load_artifact(path)
        assert "deblur-deploy import" in error.value.hint
    with pytest.raises(ArtifactError, match="there is no"):
        load_artifact(tmp_path / "nothing")


@pytest.mark.parametrize("failure", [RuntimeError("stopped"), KeyboardInterrupt()])
def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half of it")
        raise failure

    with pytest.raises(type(failure)):
        write_artifact(tmp_path / "a", dataclasses.replace(draft(), write=write))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtifactError, match="No space left on device"):
        write_artifact(tmp_path / "a", dataclasses.replace(draft(), write=write))
    assert list(tmp_path.iterdir()) == []


KILLED_RUN = """
import os, signal, sys
from collections.abc import Callable
from pathlib import Path
from deblur_deploy.core.artifact import Draft, NetworkSpec, Step, write_artifact
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.core.sources import find_artifacts

def write(path):
    path.write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)

step = Step("prune", {}, {}, None, "2026-01-02T00:00:00.000000+00:00", {})
write_artifact(Path(sys.argv[1]), Draft("checkpoint", "weights.bin", write, NetworkSpec("srn", {}), ImageSpec(), step))
"""


@pytest.mark.parametrize("replacing", [False, True])
def test_a_killed_run_leaves_no_artifact_and_spares_the_older_one(tmp_path: Path, replacing: bool) -> None:
    out = tmp_path / "a"
    older = [write_artifact(out, draft())] if replacing else []
    killed = subprocess.run([sys.executable, "-c", KILLED_RUN, str(out)], check=False, timeout=60)
    assert killed.returncode == -9
    assert find_artifacts(tmp_path) == older
    assert out.exists() == replacing
    again = write_artifact(out, draft(b"second try"))
    assert load_artifact(out) == again


def test_an_older_artifact_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "a"
    write_artifact(out, draft())
    onnx = dataclasses.replace(draft(b"new"), kind="onnx", file_name="net.onnx")
    replaced = write_artifact(out, onnx)
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "net.onnx"]
    assert load_artifact(out) == replaced
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_older_artifact_is_put_back_where_the_new_one_cannot_be_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a"
    older = write_artifact(out, draft())
    rename = Path.rename

    def rename_but_not_the_new_one(self: Path, target: Path) -> Path:
        if (self / "manifest.json").is_file() and b"new" in (self / "weights.bin").read_bytes():
            raise OSError("the file system went read-only")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_but_not_the_new_one)
    with pytest.raises(ArtifactError, match="read-only"):
        write_artifact(out, draft(b"new"))
    assert load_artifact(out) == older
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_only_an_empty_or_an_artifacts_directory_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="is a file"):
        write_artifact(tmp_path / "file", draft())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("precious")
    with pytest.raises(ArtifactError, match="holds files that are not an artifact"):
        write_artifact(tmp_path / "photos", draft())
    assert (tmp_path / "photos" / "holiday.jpg").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    assert write_artifact(tmp_path / "empty", draft()) == load_artifact(tmp_path / "empty")


def test_an_output_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_artifact(tmp_path / "file" / "a", draft())
