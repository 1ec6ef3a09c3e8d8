"""The shipped generator made smaller for timing only: latency does not depend on the values of the weights."""

from __future__ import annotations

from pathlib import Path

from deblur_deploy.config import ExportConfig, FitConfig, PruneConfig, QatConfig, TuningConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.sources import shipped_generator

ORIGINAL, PRUNED, INT8 = "original", "pruned", "pruned INT8"


class UntunedNetworks:
    """The shipped generator, the same pruned, and that in INT8, both without fine-tuning.

    Attributes:
        checkpoints: By name: ``original``, ``pruned`` and ``pruned INT8``.
        how: How the smaller ones were made, for records.

    Args:
        keep: Share of the channels to keep.
        folder: Where to write.
    """

    def __init__(self, keep: float, folder: Path) -> None:
        from deblur_deploy.compress.prune import prune
        from deblur_deploy.compress.quantize import qat

        untuned = TuningConfig(fit=FitConfig(steps=0, crop=128))
        original = shipped_generator()
        pruned = prune(original, PruneConfig(keep=keep, tuning=untuned, importance="l2"), folder / "prune")
        quantized = qat(pruned, QatConfig(tuning=untuned), folder / "qat")
        self.checkpoints = {ORIGINAL: original, PRUNED: pruned, INT8: quantized}
        self.how = f"made for this run: prune --keep {keep:g} and qat, both without fine-tuning"
        self._folder = folder

    @property
    def original(self) -> Artifact:
        """The generator that is shipped."""
        return self.checkpoints[ORIGINAL]

    def export(self, name: str, size: Resolution) -> Artifact:
        """The ONNX file of one of them, for one size."""
        from deblur_deploy.export.to_onnx import export_onnx

        config = ExportConfig(size.width, size.height)
        return export_onnx(self.checkpoints[name], config, self._folder / f"onnx-{name}")
