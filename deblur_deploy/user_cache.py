"""The user's folder for what is made once and can be made again: ``$XDG_CACHE_HOME``, by default ``~/.cache``."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(name: str) -> Path:
    """The folder of one kind of thing, which may not be there yet.

    Args:
        name: What is kept, such as ``kernels``.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "deblur-deploy" / name
