"""What is left of a shipped generator's gain where its channels go in one way or another, before any fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from measurement import Measurement

from deblur_deploy.config import PruneConfig
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.sources import shipped

_HEADINGS = ("generator", "multiply-accumulates", "channels chosen by", "parameters", "GMACs", "dB", "gain kept")

OURS = "a scan of deviations, and Taylor importance"
_WAYS = {
    "the same share of every group, and magnitude": PruneConfig(importance="l2"),
    "the same share of every group, and Taylor importance": PruneConfig(),
    OURS: PruneConfig(allocation="sensitivity"),
}


@dataclass(frozen=True)
class WaysToPrune:
    """Generators pruned to shares of their multiply-accumulates, and not fine-tuned.

    Args:
        models: Names of shipped generators.
        shares: Of the multiply-accumulates; the figure is the least of all generators at the first.
    """

    models: tuple[str, ...]
    shares: tuple[float, ...]

    def measure(self) -> Measurement:
        """Share of the gain that is kept by choosing channels with a scan."""
        rows = [row for model in self.models for row in self._rows(model)]
        figure = min(row["gain_kept"] for row in rows if row["way"] == OURS and row["macs"] == self.shares[0])
        rivals = [row["gain_kept"] for row in rows if row["way"] != OURS and row["macs"] == self.shares[0]]
        table = {"headings": _HEADINGS, "rows": [_cells(row) for row in rows]}
        note = f"the best of the other ways keeps {max(rivals):.0%}"
        return Measurement(figure, "of the gain", {}, note, {"outcomes": rows, "table": table}, True)

    def _rows(self, model: str) -> list[dict[str, Any]]:
        from deblur_deploy.compress.finetune import evaluation_pairs
        from deblur_deploy.compress.prune import ChannelSurvey, load_float
        from deblur_deploy.network.cost import measure_cost
        from deblur_deploy.quality.evaluate import evaluate_network, pairs_psnr_db

        net = load_float(load_artifact(shipped("models") / model))
        pairs = evaluation_pairs(PruneConfig().tuning)
        blurred, whole = pairs_psnr_db(pairs), evaluate_network(net, pairs)
        rows = []
        for way, config in _WAYS.items():
            survey = ChannelSurvey.of(net, config)
            for share in self.shares:
                small = survey.analysis.carry_out(net, survey.plan(replace(config, macs=share)))
                restored = evaluate_network(small, pairs)
                quality = {"psnr_db": restored, "gain_kept": (restored - blurred) / (whole - blurred)}
                rows.append({"model": model, "macs": share, "way": way, **measure_cost(small), **quality})
        return rows


def _cells(row: dict[str, Any]) -> list[str]:
    cost = [f"{int(row['params']):,}", f"{row['gmacs']:.1f}"]
    return [row["model"], f"{row['macs']:.0%}", row["way"], *cost, f"{row['psnr_db']:.2f}", f"{row['gain_kept']:.0%}"]
