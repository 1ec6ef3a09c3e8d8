"""What a measurement has a row for: an artifact on a runtime, with or without the copies of its pictures.

Beside artifacts, ONNX files from elsewhere and factories of PyTorch networks can be measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from deblur_deploy.core.artifact import Artifact, NetworkSpec, Step, hash_file, load_artifact, new_step
from deblur_deploy.core.errors import ArtifactError, ConfigError, DeblurDeployError
from deblur_deploy.core.external_data import refuse_external_data
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.runtime.nvidia import count_nvidia_gpus
from deblur_deploy.runtime.runner import measurable_runtimes, runtimes_for, takes_film
from deblur_deploy.runtime.runtimes import RUNTIMES

EXTERNAL_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a network's code that the user brings may raise; ours raises :class:`DeblurDeployError`."""

INT8_IN_ONNXRUNTIME = (
    "onnxruntime has an integer convolution only where its output is quantized right after it; a ReLU before a signed "
    "quantizer, a residual sum and a float bias keep most of them in float32: INT8 on a processor is for openvino"
)


def load_contender(source: str, workspace: Path) -> tuple[Artifact, str | None]:
    """What the user has named, as something that runtimes take.

    Args:
        source: An artifact's directory, an ``.onnx`` file, or ``package.module:factory``.
        workspace: Folder for what has to be written to be run; it is needed for as long as the artifact is.

    Returns:
        The artifact, and the name of its rows where that is not its directory.

    Raises:
        ArtifactError: There is nothing there, or it is damaged.
        ConfigError: The network does not take and give pictures.
    """
    path = Path(source)
    if ":" in source and not path.exists():
        return _from_factory(source, workspace), source
    if path.suffix == ".onnx" and path.is_file() and not (path.parent / "manifest.json").is_file():
        return read_onnx_file(path), source
    return load_artifact(path), None


def read_onnx_file(path: Path) -> Artifact:
    """An ONNX file that is not an artifact, as runtimes take it.

    Raises:
        ArtifactError: It is not an ONNX file, or keeps weights in other files.
        ConfigError: It takes something other than one (N, 3, H, W) float32 tensor.
    """
    import onnx
    from google.protobuf.message import DecodeError

    refuse_external_data(path)
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (DecodeError, OSError) as err:
        raise ArtifactError(f"{path} is not an ONNX file: {err}", hint="export it again") from err
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    kinds = [value.type.tensor_type for value in inputs]
    sizes = [[dim.dim_value for dim in kind.shape.dim] for kind in kinds]
    if len(inputs) != 1 or len(sizes[0]) != 4 or sizes[0][1] != 3 or kinds[0].elem_type != onnx.TensorProto.FLOAT:
        found = ", ".join(f"{value.name} {size}" for value, size in zip(inputs, sizes, strict=True))
        raise ConfigError(
            f"{path} takes {found or 'nothing'}, not one float32 picture of (N, 3, H, W)",
            hint="export it with one float32 input of three channels; casts may be inside",
        )
    _, _, height, width = sizes[0]
    image = ImageSpec(height=height or None, width=width or None)
    history = (Step("onnx-file", {}, {}, None, "", {}),)
    return Artifact("onnx", path, hash_file(path), NetworkSpec("onnx-file", {}), image, history)


def _from_factory(factory: str, workspace: Path) -> Artifact:
    """The network that a factory makes, with the weights that the factory gives it."""
    import torch

    from deblur_deploy.network.checkpoint import build_network, save_network

    torch.manual_seed(0)
    spec = NetworkSpec(factory, {})
    net = build_network(spec).eval()
    out = workspace / factory.replace(":", ".")
    return save_network(out, net, spec, new_step("factory", {"factory": factory}, None, {}))


@dataclass(frozen=True)
class BenchEntry:
    """One row to measure: an artifact on a runtime.

    Args:
        artifact: What to run.
        runtime: What to run it on.
        label: What the row is called, where that is not the artifact's directory.
        unavailable: Why it cannot be run, where that is known beforehand.
        transfers: Whether pictures come from host memory and go back to it; else they stay on the GPU, as with
            ``trtexec --noDataTransfers``.

    Raises:
        ConfigError: Pictures cannot stay where the runtime runs.
    """

    artifact: Artifact
    runtime: str
    label: str | None = None
    unavailable: str | None = None
    transfers: bool = True

    def __post_init__(self) -> None:
        if not self.transfers and not (self.runtime in RUNTIMES and RUNTIMES[self.runtime].can_keep_pictures):
            raise ConfigError(
                f"{self.runtime} cannot run a network on pictures that stay on the GPU",
                hint="engines can, and PyTorch on a GPU",
            )

    @property
    def name(self) -> str:
        """What the row is called."""
        return self.label or str(self.artifact.directory)

    @property
    def cautions(self) -> tuple[str, ...]:
        """What to know about an INT8 file on the processor before its time is taken for that of INT8."""
        quantization = self.artifact.network.quantization or {}
        if quantization.get("format") != "int8" or self.artifact.kind != "onnx":
            return ()
        if self.runtime == "onnxruntime":
            return (INT8_IN_ONNXRUNTIME,)
        reduced = quantization.get("reduce_range")
        if self.runtime.startswith("openvino") and not reduced and not _multiplies_int8_exactly():
            return ("this processor has no VNNI, so what is quantized over the full range is computed in float32",)
        return ()

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What ends this row and not the whole measurement."""
        own_network = ":" in self.artifact.network.arch
        return (DeblurDeployError, *(EXTERNAL_FAILURES if own_network else ()))


@dataclass(frozen=True)
class Selection:
    """Which rows of an artifact to measure.

    Args:
        runtimes: Only those of these that are for it; empty for those that are measured by default.
        transfers: Rows with copies of the pictures are always there. False adds one without them for every runtime that
            can do so; None only for engines, and only where there is an NVIDIA driver.
    """

    runtimes: Collection[str] = ()
    transfers: bool | None = True

    def adds_without_transfers(self, artifact: Artifact, runtime: str) -> bool:
        """Whether there is a second row, without copies; films are moved along on the host, so theirs have none."""
        if takes_film(artifact):
            return False
        if self.transfers is None:
            return artifact.kind == "engine" and count_nvidia_gpus() is not None
        return not self.transfers and RUNTIMES[runtime].can_keep_pictures


def all_entries(artifacts: Iterable[Artifact]) -> list[BenchEntry]:
    """Every artifact on the runtimes to measure it on, installed or not: what is missing becomes a row that says so."""
    return [entry for artifact in artifacts for entry in entries_of(artifact)]


def entries_of(artifact: Artifact, label: str | None = None, selection: Selection | None = None) -> list[BenchEntry]:
    """Rows of one artifact.

    Args:
        artifact: What to run.
        label: What the rows are called, where that is not its directory.
        selection: Which; by default those with transfers on the runtimes that are measured by default.
    """
    selection = selection or Selection()
    chosen = selection.runtimes
    names = [name for name in runtimes_for(artifact) if name in chosen] if chosen else measurable_runtimes(artifact)
    entries = []
    for name in names:
        entry = BenchEntry(artifact, name, label)
        entries.append(entry)
        if selection.adds_without_transfers(artifact, name):
            entries.append(dataclasses.replace(entry, transfers=False))
    return entries


def is_same_network(artifact: Artifact, original: Artifact) -> bool:
    """Whether an artifact is the other one, or the ONNX file exported from it unchanged."""
    if artifact.sha256 == original.sha256:
        return True
    return artifact.stage == "export-onnx" and artifact.history[-1].parent == original.sha256


def _multiplies_int8_exactly() -> bool:
    from deblur_deploy.runtime.ov import multiplies_int8_exactly  # it loads OpenVINO

    return multiplies_int8_exactly()


def failure_text(err: Exception) -> str:
    """Why a row could not be measured, by one of :attr:`BenchEntry.failures`."""
    if isinstance(err, DeblurDeployError):
        return f"{err.message}; {err.hint}"
    return f"its code raised {type(err).__name__}: {err}"
