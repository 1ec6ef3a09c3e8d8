"""Asking the NVIDIA driver, played by a stand-in."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch

from deblur_deploy.runtime.nvidia import Gpu, count_nvidia_gpus, find_gpu


class FakeDriver:
    def __init__(self, init_status: int, gpus: int) -> None:
        self.init_status = init_status
        self.gpus = gpus

    def cuInit(self, flags: int) -> int:
        return self.init_status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = 40 + index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        assert len(name) == size
        name.value = f"card {device.value}".encode()
        return 0

    def cuDeviceGetPCIBusId(self, bus_id: Any, size: int, device: Any) -> int:
        assert len(bus_id) == size
        bus_id.value = f"0000:{device.value}:00.0".encode()
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 12040
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: int, device: Any) -> int:
        value._obj.value = {75: 8, 76: 6}[number]
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


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(0, 2))
    assert find_gpu(1) == Gpu("card 41", "8.6", "12.4", "0000:41:00.0")
    assert find_gpu(1).sm == "SM86"
    assert find_gpu(2) is None


@pytest.mark.gpu
def test_the_driver_and_pytorch_tell_the_same() -> None:
    gpu = find_gpu()
    assert gpu is not None
    assert gpu.name == torch.cuda.get_device_name(0)
    assert gpu.capability == ".".join(map(str, torch.cuda.get_device_capability(0)))
