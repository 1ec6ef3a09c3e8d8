"""What the tests of training share: one thread, and a recipe for the drawn photograph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from deblur_deploy.core.images import save_rgb


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Layers this small only lose time when they are divided among threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write_recipe(photo, tmp_path: Path) -> Callable[[str], Path]:
    """Writes ``recipe.toml`` with the given tables and, as its photographs, a folder with the drawn one."""

    def write(tables: str) -> Path:
        (tmp_path / "photos").mkdir()
        save_rgb(tmp_path / "photos" / "one.png", photo)
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(f'photos = "{tmp_path / "photos"}"\n{tables}')
        return recipe

    return write
