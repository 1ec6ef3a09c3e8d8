"""Ten thousand frames through one network: memory stays flat."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.process_memory import resident_bytes
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.infer.raw import restore_raw
from deblur_deploy.infer.restore import RestoreConfig, Restorer
from deblur_deploy.runtime.runner import open_runner

FRAMES, WARM_UP = 10_000, 2_000
SIZE = Resolution(32, 24)


class Endless(io.RawIOBase):
    """Frames of noise until there were enough."""

    def __init__(self, frames: int) -> None:
        self._left = frames * SIZE.width * SIZE.height * 3
        self._noise = np.random.default_rng(1).integers(0, 256, self._left // frames, dtype=np.uint8).tobytes()

    def read(self, count: int = -1) -> bytes:
        given = self._noise[: min(count, self._left)]
        self._left -= len(given)
        return given


class Nowhere(io.RawIOBase):
    def write(self, data: object) -> int:
        return len(data)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_is_flat_over_ten_thousand_frames(artifact: Artifact, out: Path) -> None:
    sizes: dict[int, int] = {}

    def tick(count: int) -> None:
        if count >= WARM_UP and count % 500 == 0:
            resident = resident_bytes()
            assert resident is not None
            sizes[count] = resident

    exported = export_onnx(artifact, ExportConfig(SIZE.width, SIZE.height), out)
    with open_runner(exported, "onnxruntime") as runner:
        restorer = Restorer(runner, RestoreConfig(10**9, None))
        assert restore_raw(Endless(FRAMES), Nowhere(), SIZE, restorer, tick) == FRAMES  # type: ignore[arg-type]

    slope = float(np.polyfit(list(sizes), list(sizes.values()), 1)[0])
    print(f"{slope:.0f} bytes per frame over {FRAMES - WARM_UP} frames, {max(sizes.values()) / 1e6:.0f} MB")
    assert slope <= 1024
