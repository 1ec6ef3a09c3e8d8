"""Functions that a table names, imported when they are first called."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def load_named(path: str) -> Any:
    """The object that ``module:name`` refers to.

    Args:
        path: Dotted module and name of something in it, with a colon between.
    """
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
