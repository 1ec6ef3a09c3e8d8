"""Channel pruning of an artifact: the plan, the scan, and the stage that prunes and fine-tunes.

How it goes: ``groups`` finds the channels that belong together, ``importance`` ranks them, ``allocation`` divides a
budget up among the groups, by a scan of ``sensitivity`` if asked to, and ``removal`` takes the channels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from deblur_deploy.compress.allocation import Curve
from deblur_deploy.compress.finetune import OnStep, evaluation_pairs, finetune, fitting_crops, tuning_photos
from deblur_deploy.compress.plan import Analysis, PrunedGroup, PrunePlan
from deblur_deploy.compress.sensitivity import OnScan, ScanReport, scan_network, scan_pairs
from deblur_deploy.compress.teacher import measure_teacher
from deblur_deploy.config import PruneConfig
from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.data.crops import crop_batches
from deblur_deploy.data.pairs import Pair
from deblur_deploy.network.checkpoint import build_network, load_network, save_network, spec_of
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.generator import Generator
from deblur_deploy.quality.evaluate import evaluate_network, network_quality

_TAYLOR_BATCHES = 8


@dataclass(frozen=True)
class Round:
    """One round of removing channels and fine-tuning.

    Args:
        share: What the budget was in this round.
        params: Parameters left.
        gmacs: Multiply-accumulates left for one frame of 640x360, in 10**9.
        steps: Fine-tuning steps.
        psnr_untuned_db: Mean PSNR after removing the channels.
        psnr_db: Mean PSNR after the fine-tuning, infinite where every picture is equal to the sharp one.
        seconds: Wall time of the fine-tuning.
        loss: Mean loss of its last tenth, or None where there were no steps.
    """

    share: float
    params: int
    gmacs: float
    steps: int
    psnr_untuned_db: float
    psnr_db: float
    seconds: float
    loss: float | None


@dataclass(frozen=True)
class ChannelSurvey:
    """What is known about a network before its channels are chosen.

    Args:
        analysis: Its groups and their strengths.
        scanned: What their channels are worth, where the allocation goes by a scan.
    """

    analysis: Analysis
    scanned: ScanReport | None = None

    @classmethod
    def of(cls, net: Generator, config: PruneConfig, on_scan: OnScan | None = None) -> ChannelSurvey:
        """Look at a float network, which is left as it is.

        Args:
            net: The network.
            config: Importance, allocation and rounding, and what to look at it with.
            on_scan: Called after each evaluation of the scan.

        Raises:
            ConfigError: Nothing of it can be removed.
            DeblurDeployError: It gives NaN.
        """
        analysis = analyse(net, config)
        is_scanned = config.allocation == "sensitivity"
        return cls(analysis, scan_groups(net, analysis, config, on_scan) if is_scanned else None)

    @property
    def curves(self) -> dict[int, Curve] | None:
        """Deviations by group and width, where there was a scan."""
        return self.scanned.curves() if self.scanned else None

    def plan(self, config: PruneConfig) -> PrunePlan:
        """Decide which channels go, as :meth:`Analysis.plan` does.

        Raises:
            ConfigError: The budget cannot be met.
        """
        return self.analysis.plan(config, self.curves)


def prune(
    source: Artifact, config: PruneConfig, out: Path, on_step: OnStep | None = None, on_scan: OnScan | None = None
) -> Artifact:
    """Prune a float checkpoint and fine-tune it with the unpruned network as teacher.

    Args:
        source: A float checkpoint.
        config: How many channels to keep, and the fine-tuning.
        out: The artifact's directory.
        on_step: Called after each fine-tuning step with the step, their number, and the loss.
        on_scan: Called after each evaluation of the scan, where the allocation needs one.

    Raises:
        ArtifactError: ``source`` is not a float checkpoint, or ``out`` cannot be written.
        ConfigError: The budget cannot be met.
        DeblurDeployError: The network gives NaN, or the fine-tuning does.
    """
    net = teacher = load_float(source)
    survey = ChannelSurvey.of(teacher, config, on_scan)
    first = analysis = survey.analysis
    survey.plan(config)  # a budget that is out of reach is refused before any fine-tuning
    pairs = evaluation_pairs(config.tuning)
    judged = measure_teacher(source, teacher, pairs)
    rounds: list[Round] = []
    left: Analysis | None = None
    for number in range(config.rounds):
        part = _of_round(config, number)
        if left is not None:
            analysis = analyse(net, part, left)
        plan = analysis.plan(part, survey.curves)
        left = analysis.after(plan)
        net = rebuilt(analysis.carry_out(net, plan))
        done, quality = tune(net, teacher, part, pairs, _counting_on(on_step, config, number))
        rounds.append(done)
    figures: dict[str, Any] = {
        **{name: getattr(rounds[-1], name) for name in ("params", "gmacs")},
        "groups": [vars(group) for group in _kept(first, plan)],
        "frozen": [vars(part) for part in first.channels.frozen],
        **quality,
        **judged.figures(quality),
        **{name: getattr(rounds[-1], name) for name in ("psnr_untuned_db", "loss")},
        "seconds": sum(done.seconds for done in rounds),
        "rounds": [vars(done) for done in rounds],
    }
    if survey.scanned:
        figures["scan"] = survey.scanned.as_json()
    return save_network(out, net, spec_of(net), new_step("prune", config, source, figures), source.history)


def plan_pruning(source: Artifact, config: PruneConfig, on_scan: OnScan | None = None) -> PrunePlan:
    """What :func:`prune` would remove from a float checkpoint in one round; nothing is written.

    Args:
        source: A float checkpoint.
        config: How many channels to keep.
        on_scan: Called after each evaluation of the scan, where the allocation needs one.

    Raises:
        ArtifactError: ``source`` is not a float checkpoint.
        ConfigError: The budget cannot be met.
        DeblurDeployError: The network gives NaN.
    """
    return ChannelSurvey.of(load_float(source), config, on_scan).plan(config)


def scan(source: Artifact, config: PruneConfig, on_scan: OnScan | None = None) -> ScanReport:
    """What the channels of every group of a float checkpoint are worth in dB; nothing is written.

    Args:
        source: A float checkpoint.
        config: Importance, rounding, and what to evaluate on.
        on_scan: Called after each evaluation.

    Raises:
        ArtifactError: ``source`` is not a float checkpoint.
        DeblurDeployError: The network gives NaN.
    """
    net = load_float(source)
    return scan_groups(net, analyse(net, config), config, on_scan)


def load_float(source: Artifact) -> Generator:
    """The network of a float checkpoint.

    Raises:
        ArtifactError: The checkpoint is quantized.
    """
    if source.network.quantization is not None:
        raise ArtifactError(f"{source.path} is quantized", hint="prune first, quantize after: `prune`, then `qat`")
    return load_network(source)


def analyse(net: Generator, config: PruneConfig, before: Analysis | None = None) -> Analysis:
    """The network's groups and their strengths, on crops of the tuning set where these are needed."""
    batches = taylor_crops(net, config) if config.importance == "taylor" else ()
    return Analysis.of(net, config, batches, before)


def taylor_crops(net: nn.Module, config: PruneConfig) -> list[tuple[Tensor, Tensor]]:
    """Blurred and sharp crops of the tuning set, each (N, 3, H, W), for the importance ``taylor``."""
    fit = fitting_crops(replace(config.tuning.fit, steps=_TAYLOR_BATCHES), net)
    return list(crop_batches(tuning_photos(config.tuning), fit, config.tuning.blur, workers=0))


def scan_groups(net: Generator, analysis: Analysis, config: PruneConfig, on_scan: OnScan | None) -> ScanReport:
    """What the channels of every group of a network are worth in dB (see ``sensitivity.py``)."""
    pairs = scan_pairs(evaluation_pairs(config.tuning), config.scan_images, config.scan_size)
    return scan_network(net, analysis.channels.groups, analysis.state, pairs, on_scan)


def rebuilt(shrunk: Generator) -> Generator:
    """The network as its manifest will describe it: made from the widths that are left."""
    net = build_network(spec_of(shrunk))
    net.load_state_dict(shrunk.state_dict())
    return net.eval()


def _of_round(config: PruneConfig, number: int) -> PruneConfig:
    """The config of one round: its part of the way to the budget, its part of the steps, and crops of its own."""
    kind, share = config.budget
    fit = config.tuning.fit
    done, after = (fit.steps * n // config.rounds for n in (number, number + 1))
    fit = replace(fit, steps=after - done, seed=fit.seed + number)
    part = 1 - (1 - share) * (number + 1) / config.rounds if number + 1 < config.rounds else share
    keep, macs, params = (part if kind == name else None for name in ("keep", "macs", "params"))
    return replace(config, keep=keep, macs=macs, params=params, tuning=replace(config.tuning, fit=fit))


def _counting_on(on_step: OnStep | None, config: PruneConfig, number: int) -> OnStep | None:
    """The callback for one round, its steps counted over all rounds."""
    if on_step is None:
        return None
    total = config.tuning.fit.steps
    before = total * number // config.rounds
    return lambda step, _, loss: on_step(before + step, total, loss)


def tune(
    net: Generator, teacher: Generator, config: PruneConfig, pairs: Sequence[Pair], on_step: OnStep | None
) -> tuple[Round, dict[str, Any]]:
    """Fine-tune what a round left, and measure it before and after: the round, and its quality as manifests keep it."""
    untuned_db = evaluate_network(net, pairs)
    report = finetune(net, teacher, config.tuning, on_step)
    cost, quality = measure_cost(net), network_quality(net, pairs)
    done = Round(
        config.budget[1],
        int(cost["params"]),
        cost["gmacs"],
        report.steps,
        untuned_db,
        quality["psnr_db"],
        report.seconds,
        report.loss,
    )
    return done, quality


def _kept(first: Analysis, last: PrunePlan) -> list[PrunedGroup]:
    """Every group of the unpruned network, and what is left of it after the last round."""
    return [
        PrunedGroup(group.layers, group.channels, left.after, round(left.after / group.channels, 4))
        for group, left in zip(first.channels.groups, last.groups, strict=True)
    ]
