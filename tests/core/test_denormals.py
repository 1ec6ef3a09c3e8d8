"""Denormal numbers become zero inside the context, in this thread and those that it starts, and nowhere else."""

from __future__ import annotations

import platform
import threading

import numpy as np
import pytest

from deblur_deploy.core import denormals
from deblur_deploy.core.denormals import flushed_denormals

pytestmark = pytest.mark.skipif(
    denormals._math_library() is None, reason=f"the mode of {platform.machine()} is not known"
)


def keeps_denormals() -> bool:
    tiny = np.full(64, 1e-20, np.float32)
    return bool(np.any(tiny * tiny))


def test_inside_the_context_they_are_zero() -> None:
    assert keeps_denormals()
    with flushed_denormals():
        assert not keeps_denormals()
        with flushed_denormals():
            assert not keeps_denormals()
        assert not keeps_denormals()
    assert keeps_denormals()


def test_an_error_leaves_no_trace() -> None:
    with pytest.raises(ValueError, match="stop"), flushed_denormals():
        raise ValueError("stop")
    assert keeps_denormals()


def test_threads_started_inside_have_the_mode_and_others_do_not() -> None:
    seen: dict[str, bool] = {}
    go = threading.Event()

    def early() -> None:
        go.wait()
        seen["early"] = keeps_denormals()

    before = threading.Thread(target=early)
    before.start()
    with flushed_denormals():
        after = threading.Thread(target=lambda: seen.update(late=keeps_denormals()))
        after.start()
        after.join()
        go.set()
        before.join()
    assert seen == {"early": True, "late": False}


def test_on_an_unknown_processor_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denormals, "_math_library", lambda: None)
    with flushed_denormals():
        assert keeps_denormals()
