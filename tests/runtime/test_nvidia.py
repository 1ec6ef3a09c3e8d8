"""Asking the NVIDIA driver, played by a stand-in."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from deblur_deploy.runtime.nvidia import count_nvidia_gpus


class FakeDriver:
    def __init__(self, init_status: int, gpus: int) -> None:
        self.init_status = init_status
        self.gpus = gpus

    def cuInit(self, flags: int) -> int:
        return self.init_status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0


@pytest.mark.parametrize(("init_status", "gpus", "expected"), [(0, 2, 2), (0, 0, 0), (100, 2, 0)])
def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, init_status: int, gpus: int, expected: int) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(init_status, gpus))
    assert count_nvidia_gpus() == expected


def test_no_driver_is_told_from_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert count_nvidia_gpus() is None
