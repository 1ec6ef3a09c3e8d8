"""The user's cache folder, and users who have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from deblur_deploy.core import files as module
from deblur_deploy.core.files import user_cache


def test_it_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache("kernels") == tmp_path / "deblur-deploy" / "kernels"


def test_a_user_without_a_home_has_a_folder_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(module.Path, "home", homeless)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    module._home_cache.cache_clear()
    first = user_cache("kernels")
    module._home_cache.cache_clear()
    assert first.is_relative_to(tmp_path)
    assert user_cache("kernels").parent != first.parent
    module._home_cache.cache_clear()
