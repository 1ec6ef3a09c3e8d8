"""What a measurement has a row for: an artifact on a runtime, with or without the copies of its pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from deblur_deploy.bench.rivals import RIVAL_FAILURES
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError, DeblurDeployError
from deblur_deploy.runtime.nvidia import count_nvidia_gpus
from deblur_deploy.runtime.runner import measurable_runtimes, runtimes_for
from deblur_deploy.runtime.runtimes import RUNTIMES

INT8_IN_ONNXRUNTIME = (
    "onnxruntime has an integer convolution only where its output is quantized at once; a ReLU before a signed "
    "quantizer, a residual sum and a float bias keep most of them in float32: INT8 on a processor is for openvino"
)


@dataclass(frozen=True)
class BenchEntry:
    """One row to measure: an artifact on a runtime.

    Args:
        artifact: What to run.
        runtime: What to run it on.
        label: What the row is called, where that is not the artifact's directory.
        obstacle: Why it cannot be run, where that is known beforehand.
        transfers: Whether pictures come from host memory and go back to it; else they stay on the GPU, as with
            ``trtexec --noDataTransfers``.

    Raises:
        ConfigError: Pictures cannot stay where the runtime runs.
    """

    artifact: Artifact
    runtime: str
    label: str | None = None
    obstacle: str | None = None
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
        """What to know of a row of an INT8 file on the processor before its time is taken for that of INT8."""
        if (self.artifact.network.quantization or {}).get("format") != "int8" or self.artifact.kind != "onnx":
            return ()
        if self.runtime == "onnxruntime":
            return (INT8_IN_ONNXRUNTIME,)
        if self.runtime.startswith("openvino") and not _multiplies_int8_exactly():
            return ("this processor has no VNNI, so what is quantized is computed in float32",)
        return ()

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What ends this row and not the whole measurement."""
        own_network = ":" in self.artifact.network.arch
        return (DeblurDeployError, *(RIVAL_FAILURES if own_network else ()))


@dataclass(frozen=True)
class Selection:
    """Which rows of an artifact to measure.

    Args:
        runtimes: Only those of these that are for it; empty for those that are measured unasked.
        transfers: Rows with copies of the pictures are always there. False adds one without them for every runtime that
            can do so; None only for engines, and only where there is an NVIDIA driver.
    """

    runtimes: Collection[str] = ()
    transfers: bool | None = True

    def adds_without_transfers(self, artifact: Artifact, runtime: str) -> bool:
        """Whether there is a second row, without copies."""
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
        selection: Which; by default those with transfers on the runtimes that are measured unasked.
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
    """Whether an artifact is another, or the ONNX file that was exported from it as it is."""
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
