"""Settings of deployment: ONNX graphs, their precision, and engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from deblur_deploy.config.precisions import DEFAULT_PRECISION, PRECISIONS, listed_precisions
from deblur_deploy.core.errors import require

HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]
Precision = str
"""A label of :data:`~deblur_deploy.config.precisions.PRECISIONS`."""

Io = Literal["float", "uint8"]
DeformOp = Literal["plugin", "standard", "native"]

PLUGIN_WORDS = ("auto", "aot", "none")
"""Settings of :class:`EngineConfig`'s plugin that are no file."""


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
        deform_op: How the deformable convolution is written (see ``graph/deform_op.py``).
        compare: Hold the file against the network in the runtimes at hand (see ``export/fidelity.py``).
        temporal: Write a temporal network with the frame before as further inputs (see ``network/temporal.py``).
    """

    width: int = 640
    height: int = 360
    evaluate: bool = False
    evaluation: str | None = None
    dynamic: bool = False
    io: Io = "float"
    deform_op: DeformOp = "plugin"
    compare: bool = True
    temporal: bool = False

    def __post_init__(self) -> None:
        if self.temporal:
            require(not self.dynamic, "a temporal file has one size", "leave out --dynamic, and give the size by --res")
            require(self.io == "float", "a temporal file takes floats", "leave out --io uint8")
        require(self.width >= 1 and self.height >= 1, f"size is {self.width}x{self.height}", "try 640x360")
        require(self.io in get_args(Io), f"io is {self.io!r}", "give float or uint8")
        forms = get_args(DeformOp)
        require(self.deform_op in forms, f"deform_op is {self.deform_op!r}", f"give {', '.join(forms)}")


@dataclass(frozen=True)
class PrecisionConfig:
    """The types of an engine, written into an ONNX file (see ``export/precision.py``).

    Args:
        keep_fp32: Names of ONNX nodes that stay float32; ``*`` stands for any text, as in ``/head/*``.
        evaluate: As in :class:`ExportConfig`.
        evaluation: As in :class:`ExportConfig`.
        check_overflow: Run calibration photographs and hard pictures through both networks; what the type does not
            serve stays float32.
        calibration: Folder of these photographs; None takes the shipped calibration split.
        precision: A label of the table of precisions.
    """

    keep_fp32: tuple[str, ...] = ()
    evaluate: bool = False
    evaluation: str | None = None
    check_overflow: bool = False
    calibration: str | None = None
    precision: Precision = DEFAULT_PRECISION

    def __post_init__(self) -> None:
        require(self.precision in PRECISIONS, f"precision is {self.precision!r}", f"give {listed_precisions()}")


@dataclass(frozen=True)
class ShapeConfig:
    """Sizes that an engine takes, where its network leaves them free (see ``engine/build_settings.py``).

    Args:
        res: Sizes as ``WIDTHxHEIGHT``. The engine takes these and no others; each is tuned for by itself.
        min_res: Smallest size of a range that the engine takes instead.
        opt_res: The size of that range that it is tuned for; None takes the largest.
        max_res: Largest size of the range.
        batch: Fewest and most pictures at a time; it is tuned for the most.
    """

    res: tuple[str, ...] = ()
    min_res: str | None = None
    opt_res: str | None = None
    max_res: str | None = None
    batch: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        ends = (self.min_res, self.max_res)
        is_range = ends != (None, None) or self.opt_res is not None
        require(not (is_range and self.res), "res and a range of sizes were given", "give either --res or --max-res")
        both = not is_range or None not in ends
        require(both, f"min_res is {self.min_res} and max_res {self.max_res}", "a range has both ends")
        low, high = self.batch
        require(1 <= low <= high, f"batch is {low} to {high}", "give one number, or the smaller one first")

    @property
    def is_one_picture(self) -> bool:
        """Whether an ONNX file for one size serves: no range, no second size, one picture at a time."""
        return len(self.res) <= 1 and self.max_res is None and self.batch == (1, 1)


@dataclass(frozen=True)
class PlanConfig:
    """What an engine's file can do besides running (see ``engine/build_settings.py``); names are those of trtexec.

    Args:
        timing_cache: File of kernel timings to start from and to add to. The full TensorRT only.
        strip_weights: Leave the weights out; they are put in when the engine is loaded, from the ONNX file that it was
            built from. TensorRT-RTX needs a GPU to build it.
        refit: Other weights can be put in without building again, by programs with TensorRT's Refitter. TensorRT-RTX
            needs a GPU to build it.
        version_compatible: Later releases of the same major version load it too. The full TensorRT only.
        hardware_compatibility: Other cards that run it. The full TensorRT only.
    """

    timing_cache: str | None = None
    strip_weights: bool = False
    refit: bool = False
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"

    def __post_init__(self) -> None:
        levels = get_args(HardwareCompatibility)
        level = self.hardware_compatibility
        require(level in levels, f"hardware_compatibility is {level!r}", f"give {', '.join(levels)}")


@dataclass(frozen=True)
class EngineConfig:
    """An engine (see ``engine/build.py``).

    Args:
        target: Card (``2080ti``), capability (``sm75``), ``portable`` or ``current``.
        flavour: The TensorRT that builds; ``auto`` takes TensorRT-RTX where it is installed.
        precision: What nine tenths of the arithmetic must be proven to run in; for ``int8`` and ``fp8``, nine tenths of
            that of the convolutions. The types come from the ONNX file.
        workspace_bytes: Scratch memory that the engine may use, or None for the builder's default.
        optimization_level: How long the builder may search, 0 to 5, or None for its default.
        shapes: Sizes that it takes.
        plan: What its file can do.
        plugin: The deformable convolution's plugin in the full TensorRT: ``auto`` and ``aot`` put its kernel into the
            engine, ``none`` takes standard operators instead, anything else is the file that
            ``deblur-deploy build-plugin`` wrote. TensorRT-RTX has no plugins.
    """

    target: str = "RTX 2080 Ti"
    flavour: Literal["auto", "rtx", "tensorrt"] = "auto"
    precision: Precision = DEFAULT_PRECISION
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    shapes: ShapeConfig = ShapeConfig()
    plan: PlanConfig = PlanConfig()
    plugin: str = "auto"

    def __post_init__(self) -> None:
        require(
            self.flavour in ("auto", "rtx", "tensorrt"), f"flavour is {self.flavour!r}", "give auto, rtx or tensorrt"
        )
        require(self.precision in PRECISIONS, f"precision is {self.precision!r}", f"give {listed_precisions()}")
        workspace, level = self.workspace_bytes, self.optimization_level
        require(workspace is None or workspace > 0, f"workspace_bytes is {workspace}", "give bytes, such as 1073741824")
        require(level is None or 0 <= level <= 5, f"optimization_level is {level}", "give 0 (fast) to 5 (thorough)")
