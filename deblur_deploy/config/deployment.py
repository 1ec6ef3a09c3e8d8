"""Settings of deployment: ONNX graphs, their precision, and engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deblur_deploy.config.check import require


@dataclass(frozen=True)
class ExportConfig:
    """The ONNX graph (see ``export/to_onnx.py``).

    Args:
        width: Width of the input in pixels.
        height: Height of the input in pixels.
        evaluate: Measure the quality of the file that was written, in onnxruntime.
        evaluation: Folder of pairs or photographs to measure it on; None takes the shipped evaluation split.
    """

    width: int = 640
    height: int = 360
    evaluate: bool = False
    evaluation: str | None = None

    def __post_init__(self) -> None:
        require(self.width >= 1 and self.height >= 1, f"size is {self.width}x{self.height}", "try 640x360")


@dataclass(frozen=True)
class PrecisionConfig:
    """Typed float16 (see ``export/precision.py``).

    Args:
        keep_fp32: Names of ONNX nodes that stay float32; ``*`` stands for any text, as in ``/head/*``.
        evaluate: As in :class:`ExportConfig`.
        evaluation: As in :class:`ExportConfig`.
    """

    keep_fp32: tuple[str, ...] = ()
    evaluate: bool = False
    evaluation: str | None = None


@dataclass(frozen=True)
class EngineConfig:
    """An engine (see ``engine/build.py``).

    Args:
        target: Card (``2080ti``), capability (``sm75``), ``portable`` or ``current``.
        flavour: The TensorRT that builds; ``auto`` takes TensorRT-RTX where it is installed.
        precision: What nine tenths of the arithmetic must be proven to run in. The types come from the ONNX file.
        workspace_bytes: Scratch memory that the engine may use, or None for the builder's default.
        optimization_level: How long the builder may search, 0 to 5, or None for its default.
    """

    target: str = "RTX 2080 Ti"
    flavour: Literal["auto", "rtx", "tensorrt"] = "auto"
    precision: Literal["fp16", "fp32"] = "fp16"
    workspace_bytes: int | None = None
    optimization_level: int | None = None

    def __post_init__(self) -> None:
        require(
            self.flavour in ("auto", "rtx", "tensorrt"), f"flavour is {self.flavour!r}", "give auto, rtx or tensorrt"
        )
        require(self.precision in ("fp16", "fp32"), f"precision is {self.precision!r}", "give fp16 or fp32")
        workspace, level = self.workspace_bytes, self.optimization_level
        require(workspace is None or workspace > 0, f"workspace_bytes is {workspace}", "give bytes, such as 1073741824")
        require(level is None or 0 <= level <= 5, f"optimization_level is {level}", "give 0 (fast) to 5 (thorough)")
