"""Encoders that write a log of their own to the terminal, asked not to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_SVT_LOG, _ERRORS_ONLY = "SVT_LOG", "1"


@contextmanager
def quiet_encoders() -> Iterator[None]:
    """SVT-AV1 reads from the environment how much it tells; what the user set there stays."""
    if _SVT_LOG in os.environ:
        yield
        return
    os.environ[_SVT_LOG] = _ERRORS_ONLY
    try:
        yield
    finally:
        os.environ.pop(_SVT_LOG, None)
