"""The user's folder for what is made once and can be made again: ``$XDG_CACHE_HOME``, by default ``~/.cache``."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path


def user_cache(name: str) -> Path:
    """The folder of one kind of thing, which may not be there yet.

    Args:
        name: What is kept, such as ``kernels``.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or _home_cache()) / "deblur-deploy" / name


@functools.cache
def _home_cache() -> Path:
    """``~/.cache``; for a user without a home, as in many containers, a folder that this process alone can use."""
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return Path(tempfile.mkdtemp(prefix="deblur-deploy-"))
