"""Which artifact a command works on when it is told, and when it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deblur_deploy.core import sources
from deblur_deploy.core.artifact import Artifact, Draft, NetworkSpec, Step, write_artifact
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.core.sources import describe, find_artifacts, resolve_source


def draft(content: bytes = b"payload", created: str = "2026-01-01") -> Draft:
    def write(path: Path) -> None:
        path.write_bytes(content)

    step = Step("import", {}, {}, None, created, {})
    return Draft("checkpoint", "weights.bin", write, NetworkSpec("srn", {}), ImageSpec(), step)


def taken(source: Path | None, runs: Path, fits: Callable[[Artifact], bool] = lambda _: True) -> tuple[str, str]:
    artifact, reason = resolve_source(source, runs, fits)
    return artifact.directory.name, reason


def test_the_source_named_by_the_user_is_taken(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", draft())
    assert taken(tmp_path / "a", tmp_path) == ("a", "named on the command line")


def test_a_named_source_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    named = write_artifact(tmp_path / "a", draft())
    assert describe(named) == "a float checkpoint from import"
    with pytest.raises(ArtifactError, match="is a float checkpoint from import, which this stage cannot start from"):
        resolve_source(tmp_path / "a", tmp_path, lambda _: False)


def test_without_a_name_the_newest_that_fits_is_taken(tmp_path: Path) -> None:
    for name, created in (("new", "2026-03-01"), ("old", "2026-01-01"), ("newest", "2026-04-01")):
        write_artifact(tmp_path / "deep" / name, draft(name.encode(), created))
    write_artifact(tmp_path / ".hidden", draft(b"h", "2027-01-01"))
    write_artifact(tmp_path / "damaged", draft(b"d", "2028-01-01")).path.write_bytes(b"x")
    assert [found.directory.name for found in find_artifacts(tmp_path)] == ["old", "new", "newest"]
    assert taken(None, tmp_path) == ("newest", f"newest fitting artifact under {tmp_path}")
    assert taken(None, tmp_path, lambda a: a.directory.name != "newest")[0] == "new"


def test_without_any_run_the_shipped_generator_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_artifact(tmp_path / "models" / "srn-demo", draft())
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "deblur_deploy" / "core" / "sources.py"))
    assert taken(None, tmp_path / "no-runs") == ("srn-demo", "the shipped generator")
