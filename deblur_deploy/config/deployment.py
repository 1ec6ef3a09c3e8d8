"""Settings of deployment: ONNX graphs, their precision, and engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from deblur_deploy.config.check import require

Io = Literal["float", "uint8"]
DeformOp = Literal["plugin", "standard", "native"]


@dataclass(frozen=True)
class ExportConfig:
    """The ONNX graph (see ``export/to_onnx.py``).

    Args:
        width: Width of the input in pixels; where sizes are free, of the picture that figures are given for.
        height: Height of the input in pixels, likewise.
        evaluate: Measure the quality of the file that was written, in onnxruntime.
        evaluation: Folder of pairs or photographs to measure it on; None takes the shipped evaluation split.
        dynamic: Leave batch, height and width free, so that one file takes them all.
        io: ``float`` takes (N, 3, H, W) in [0, 1], ``uint8`` camera frames, (N, H, W, 3).
        deform_op: How the deformable convolution is written (see ``export/deform_op.py``).
    """

    width: int = 640
    height: int = 360
    evaluate: bool = False
    evaluation: str | None = None
    dynamic: bool = False
    io: Io = "float"
    deform_op: DeformOp = "plugin"

    def __post_init__(self) -> None:
        require(self.width >= 1 and self.height >= 1, f"size is {self.width}x{self.height}", "try 640x360")
        require(self.io in get_args(Io), f"io is {self.io!r}", "give float or uint8")
        forms = get_args(DeformOp)
        require(self.deform_op in forms, f"deform_op is {self.deform_op!r}", f"give {', '.join(forms)}")


@dataclass(frozen=True)
class PrecisionConfig:
    """Typed float16 (see ``export/precision.py``).

    Args:
        keep_fp32: Names of ONNX nodes that stay float32; ``*`` stands for any text, as in ``/head/*``.
        evaluate: As in :class:`ExportConfig`.
        evaluation: As in :class:`ExportConfig`.
        check_overflow: Run calibration photographs through the network; refuse activations that float16 cannot hold.
        calibration: Folder of these photographs; None takes the shipped calibration split.
    """

    keep_fp32: tuple[str, ...] = ()
    evaluate: bool = False
    evaluation: str | None = None
    check_overflow: bool = False
    calibration: str | None = None


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
