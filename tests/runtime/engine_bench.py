"""A stand-in engine of one flavour with the runners opened on it, and pictures for it."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.runtime.trt import EngineOptions, EngineRunner, Libraries

FIXED = (1, 3, 4, 6)
DYNAMIC = (-1, 3, -1, -1)
TWO_PROFILES = (
    ((1, 3, 2, 2), (1, 3, 4, 6), (1, 3, 8, 8)),
    ((1, 3, 16, 16), (2, 3, 16, 16), (2, 3, 16, 32)),
)


class Bench:
    """A stand-in engine of one flavour, and the runners opened on it."""

    def __init__(self, stand_in: Any, artifact: Artifact, flavour: str, built: Any) -> None:
        figures = artifact.figures | {"flavour": flavour}
        step = dataclasses.replace(artifact.history[-1], figures=figures)
        self.artifact = dataclasses.replace(artifact, history=(step,), image=ImageSpec())
        self.cuda = built.cuda
        self.engine = built
        module = stand_in.StandInTensorRT if flavour == "tensorrt" else stand_in.StandInTensorRTRTX
        self.trt = module({b"engine": built})

    def tell(self, **figures: Any) -> None:
        """Add figures to the engine's manifest."""
        step = dataclasses.replace(self.artifact.history[-1], figures=self.artifact.figures | figures)
        self.artifact = dataclasses.replace(self.artifact, history=(step,))

    def open(self, **options: Any) -> EngineRunner:
        return EngineRunner(self.artifact, EngineOptions(**options), Libraries(self.trt, self.cuda))

    def count(self, name: str) -> int:
        return self.cuda.log.count(name)


def picture(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape or FIXED, dtype=np.float32)


class Foreign:
    """An array of another library on the stand-in's device: what PyCUDA gives."""

    def __init__(self, cuda: Any, values: np.ndarray, stream: int | None = None, version: int = 3) -> None:
        self.address = cuda.allocate(values.nbytes)
        ctypes.memmove(self.address, values.ctypes.data, values.nbytes)
        self._shape, self._dtype, self._nbytes = values.shape, values.dtype, values.nbytes
        self._facts = {"version": version, "strides": None} | ({"stream": stream} if version >= 3 else {})

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        where = {"data": (self.address, False), "shape": self._shape, "typestr": self._dtype.str}
        return self._facts | where

    def numpy(self) -> np.ndarray:
        return values_at(self.address, self._shape, self._dtype)


def values_at(address: int, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape).copy()
