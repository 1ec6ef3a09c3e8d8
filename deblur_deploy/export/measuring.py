"""What an exported file restores, measured before it is put in place, so that its manifest can say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deblur_deploy.config import ExportConfig, PrecisionConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.data.pairs import PairsOnDisk
from deblur_deploy.quality.evaluate import artifact_quality
from deblur_deploy.quality.gain import gain_of


def measuring(config: ExportConfig | PrecisionConfig) -> Callable[[Artifact], dict[str, Any]] | None:
    """The measurement that an export's settings ask for, as ``Draft.measure`` takes it, or None.

    A file that cannot be evaluated here is still a file: the figures then have ``quality_skipped`` with the reason,
    such as photographs that are smaller than the graph.

    Args:
        config: Its ``evaluation`` names the pairs.
    """
    if not config.evaluate:
        return None
    folder = Path(config.evaluation) if config.evaluation else None

    def measure(artifact: Artifact) -> dict[str, Any]:
        try:
            quality = artifact_quality(artifact, PairsOnDisk(folder, "evaluation"), "onnxruntime")
        except DeblurDeployError as err:
            return {"quality_skipped": err.message}
        return quality | gain_of(artifact.history, quality)

    return measure
