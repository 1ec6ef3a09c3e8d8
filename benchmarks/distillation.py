"""What following a teacher's features adds to following its picture, at equal fine-tuning."""

from __future__ import annotations

import copy
import statistics
from dataclasses import dataclass, replace
from typing import Any

from measurement import Measurement

from deblur_deploy.config import PruneConfig, TuningConfig
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.sources import shipped
from deblur_deploy.quality.gain import format_share, gain_kept

_HEADINGS = ("weight of the features", "dB", "apart", "gain kept")


@dataclass(frozen=True)
class Distillation:
    """A shipped generator, pruned once and fine-tuned with several weights of the distance to its features.

    Args:
        model: Its name.
        macs: Share of the multiply-accumulates to keep.
        feature_weights: Weights of the distance; the first is 0, which is the fine-tuning without.
        seeds: Each weight is tuned once with the crops of each of these seeds.
        tuning: The fine-tuning.
    """

    model: str
    macs: float
    feature_weights: tuple[float, ...]
    seeds: tuple[int, ...]
    tuning: TuningConfig

    def measure(self) -> Measurement:
        """What the best weight gains over none, in dB; where seeds are further apart than that, it is unstable."""
        from deblur_deploy.compress.finetune import evaluation_pairs, finetune
        from deblur_deploy.compress.prune import ChannelSurvey, load_float, rebuilt
        from deblur_deploy.quality.evaluate import evaluate_network, pairs_psnr_db

        config = PruneConfig(macs=self.macs, allocation="sensitivity", tuning=self.tuning)
        teacher = load_float(load_artifact(shipped("models") / self.model))
        survey = ChannelSurvey.of(teacher, config)
        small = rebuilt(survey.analysis.carry_out(teacher, survey.plan(config)))
        pairs = evaluation_pairs(self.tuning)
        blurred, whole = pairs_psnr_db(pairs), evaluate_network(teacher, pairs)

        def tuned_db(weight: float, seed: int) -> float:
            net, fit = copy.deepcopy(small), replace(self.tuning.fit, feature_weight=weight, seed=seed)
            finetune(net, teacher, replace(self.tuning, fit=fit), None)
            return evaluate_network(net, pairs)

        rows = [_row(weight, [tuned_db(weight, seed) for seed in self.seeds]) for weight in self.feature_weights]
        without, best = rows[0], max(rows[1:], key=lambda row: row["mean_db"])
        lead = best["mean_db"] - without["mean_db"]
        apart = max(without["apart_db"], best["apart_db"])
        note = f"the best weight is {best['weight']:g}; seeds are up to {apart:.3f} dB apart"
        for row in rows:
            row["gain_kept"] = gain_kept(row["mean_db"], whole, blurred)
        table = {"headings": _HEADINGS, "rows": [_cells(row) for row in rows]}
        untuned = {"untuned_db": evaluate_network(small, pairs), "psnr_db": whole, "psnr_blurred_db": blurred}
        return Measurement(lead, "dB", {}, note, {**untuned, "outcomes": rows, "table": table}, apart <= abs(lead))


def _row(weight: float, restored: list[float]) -> dict[str, Any]:
    apart = max(restored) - min(restored)
    return {"weight": weight, "psnr_db": restored, "mean_db": statistics.fmean(restored), "apart_db": apart}


def _cells(row: dict[str, Any]) -> list[str]:
    return [f"{row['weight']:g}", f"{row['mean_db']:.3f}", f"{row['apart_db']:.3f}", format_share(row["gain_kept"])]
