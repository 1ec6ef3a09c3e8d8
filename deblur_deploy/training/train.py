"""Training a generator from photographs: the stage behind ``deblur-deploy train``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deblur_deploy.config import ClipConfig, FitConfig, RunConfig, TrainConfig
from deblur_deploy.core.artifact import Artifact, hash_file, load_artifact, new_step
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import to_batch
from deblur_deploy.core.tables import from_table, load_settings
from deblur_deploy.data.cache import open_pairs, open_photos
from deblur_deploy.data.crops import BlurredCrops, Crops, PairedCrops, Share, batches_of, blur_function, steps_of
from deblur_deploy.data.footage import UnpairedCrops
from deblur_deploy.data.layouts import PairFiles, films_of
from deblur_deploy.data.pairs import load_pairs, pair_files, sharp_files
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.generator import padded_side
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.network.temporal import make_temporal
from deblur_deploy.network.widen import widen
from deblur_deploy.quality.evaluate import network_quality
from deblur_deploy.training.cycle import (
    check_unpaired,
    guard_of,
    unpaired_crops,
    unpaired_objective,
)
from deblur_deploy.training.devices import Devices, open_devices
from deblur_deploy.training.discriminator import MultiScaleDiscriminator
from deblur_deploy.training.guard import Guard
from deblur_deploy.training.loop import FitReport, Trainer
from deblur_deploy.training.losses import Objective, load_vgg19
from deblur_deploy.training.monitor import Monitor
from deblur_deploy.training.state import StateKeeper

if TYPE_CHECKING:
    from deblur_deploy.data.clips import Clips, SequenceClips

OnStep = Callable[[int, int, float], None]

_DEFAULT_BASE, _DEFAULT_DEPTHS = 24, (2, 2, 1)


def train(
    source: Artifact | None,
    config: TrainConfig,
    out: Path,
    on_step: OnStep | None = None,
    run: RunConfig | None = None,
) -> Artifact:
    """Train a generator, from scratch or starting from another.

    While it runs, its state lies in :func:`state_folder`; the artifact is written at the end. Launched in several
    processes, all of them train one network and the first writes it.

    Args:
        source: Float checkpoint to go on from, widened where the recipe wants a wider or deeper network (see
            :func:`planned_network`); None starts from random weights.
        config: Photographs, widths, shake, losses and schedule.
        out: The artifact's directory.
        on_step: Called after each step with the step, their number, and the loss.
        run: How to carry it out.

    Raises:
        ArtifactError: The photographs, the source or the saved state cannot be used, or ``out`` cannot be written.
        ConfigError: The run's settings do not fit together, or its network is narrower than the source.
        DeblurDeployError: The loss is no longer a number.
        KeyboardInterrupt: Ctrl-C, after the state was saved; SystemExit likewise.
    """
    check_unpaired(source, config)
    run, devices = run or RunConfig(), open_devices(config.fit.batch)
    _check_fresh(state_folder(out), run)
    torch.manual_seed(config.fit.seed)
    net = _start(source, config)
    crops, photos = _crops(config, run)
    keeper = StateKeeper(state_folder(out), run.save_minutes, _recipe(source, config, run) | _used(crops, photos))
    guard = guard_of(config.unpaired, load_pairs(None, "evaluation")) if config.unpaired is not None else None
    trainer = Trainer(net, crops.fit, _objective(config, run, crops.fit, net), devices, guard)
    done = _restore(trainer, keeper) if run.resume else 0
    workers = run.workers if done < crops.fit.last_step else 0
    batches = batches_of(crops, workers, Share(done, devices.rank, devices.world))
    with _monitor(run, keeper, devices, done) as monitor:
        tell = _teller(on_step, crops.fit.last_step)
        report = trainer.run(batches, tell, keeper if devices.is_main else None, monitor)
    net.cpu()
    if devices.is_main:
        figures = {**measure_cost(net), "photos": photos, **_figures(net, report), "processes": devices.world}
        figures |= _widening(source, config) | _footage_figures(crops, guard)
        step = new_step("train", config, source, figures)
        save_network(out, net, spec_of(net), step, source.history if source else ())
        keeper.clear()
    devices.wait()
    return load_artifact(out)


def state_folder(out: Path) -> Path:
    """Where a run that makes the artifact ``out`` keeps its state: beside it, since it is not part of it."""
    return out.with_name(f"{out.name}.training")


def load_recipe(path: Path) -> TrainConfig:
    """Read a training recipe.

    Args:
        path: TOML with the fields of :class:`TrainConfig`.

    Raises:
        ConfigError: The file is missing, not TOML, or has fields that cannot be used.
    """
    return load_settings(TrainConfig, path)


def planned_network(source: Artifact | None, config: TrainConfig) -> SRNConfig:
    """Widths and depths of the network that a run trains.

    Args:
        source: What it starts from.
        config: A base makes every width one of the unpruned family; without it the source's widths are kept, and
            further blocks are as wide as their level. Depths that are left out are the source's.

    Raises:
        ArtifactError: The source is not an SRN.
        ConfigError: The source's widths make no sense.
    """
    temporal = config.clip is not None
    if source is None:
        new = SRNConfig.from_base(config.base or _DEFAULT_BASE, config.depths or _DEFAULT_DEPTHS, config.stem or 1)
        return dataclasses.replace(new, temporal=temporal)
    have = _config_of(source)
    temporal = temporal or have.temporal
    stem = config.stem or have.stem
    if stem != have.stem and have.stem != 1:
        raise ConfigError(
            f"the recipe has a stem of {stem} and the network to start from one of {have.stem}",
            hint="leave stem out to keep the network's, start from a network with a stem of 1, or from random weights",
        )
    depths = config.depths or tuple(len(blocks) for blocks in have.block_channels)
    if config.base is not None:
        return dataclasses.replace(SRNConfig.from_base(config.base, depths, stem), temporal=temporal)
    one, two, three = (
        (*blocks[:depth], *(width,) * (depth - len(blocks)))
        for blocks, depth, width in zip(have.block_channels, depths, have.level_channels, strict=True)
    )
    return dataclasses.replace(have, block_channels=(one, two, three), stem=stem, temporal=temporal)


def _config_of(source: Artifact) -> SRNConfig:
    if source.network.arch != "srn":
        raise ArtifactError(
            f"{source.path} is a network of {source.network.arch}, and recipes are for srn",
            hint="`prune` and `qat` fine-tune every network; train this one where it comes from",
        )
    return from_table(SRNConfig, source.network.config, "network.config")


def widened_from(source: Artifact | None, config: TrainConfig) -> SRNConfig | None:
    """Widths and depths of the source of a run that widens it; None where it is not widened."""
    if source is None:
        return None
    have = _config_of(source)
    planned = planned_network(source, config)
    return None if dataclasses.replace(have, temporal=planned.temporal) == planned else have


def _widening(source: Artifact | None, config: TrainConfig) -> dict[str, Any]:
    """What the manifest says of a run that widened its source."""
    narrow = widened_from(source, config)
    return {} if narrow is None else {"widened_from": dataclasses.asdict(narrow)}


def _restore(trainer: Trainer, keeper: StateKeeper) -> int:
    """Go on from the newest state; returns the steps that are done."""
    saved = keeper.load()
    trainer.restore(saved)
    return saved.step


def _recipe(source: Artifact | None, config: TrainConfig, run: RunConfig) -> dict[str, Any]:
    """Everything that decides what a run computes, as plain data."""
    vgg = Path(run.vgg_weights) if run.vgg_weights and config.loss.perceptual else None
    return {
        **dataclasses.asdict(config),
        "init": source.sha256 if source else None,
        "vgg_weights": hash_file(vgg) if vgg and vgg.is_file() else None,
    }


def _used(crops: Crops | Clips, photos: int) -> dict[str, int]:
    """How many pictures a run has, which is part of what it is."""
    footage = {"footage used": len(crops.footage)} if isinstance(crops, UnpairedCrops) else {}
    return {"photos used": photos, **footage}


def _footage_figures(crops: Crops | Clips, guard: Guard | None) -> dict[str, Any]:
    """What the manifest says of a run on footage."""
    if guard is None or not isinstance(crops, UnpairedCrops):
        return {}
    return {"unpaired": {"footage": len(crops.footage), **guard.figures()}}


def _check_fresh(folder: Path, run: RunConfig) -> None:
    """Refuse to overwrite the state of an interrupted run with that of a new one."""
    if not run.resume and any(folder.glob("state-*")):
        raise ArtifactError(
            f"{folder} holds the state of an interrupted run",
            hint="go on with --resume, or name another --out, or remove that folder",
        )


def _check_crop(fit: FitConfig, net: SRN) -> None:
    """Training pads nothing, so a crop has to be of a size that the network takes."""
    if fit.crop % net.multiple_of:
        raise ConfigError(
            f"crops of {fit.crop} px do not divide by {net.multiple_of}, as this network needs",
            hint=f"set crop = {padded_side(fit.crop, net.multiple_of)} under [fit]",
        )


def _objective(config: TrainConfig, run: RunConfig, fit: FitConfig, net: SRN) -> Objective:
    if config.clip is not None:
        from deblur_deploy.training.clip_loss import ClipObjective  # clips need OpenCV, and other training does not

        return ClipObjective(config.fit, config.loss, config.clip)
    if config.unpaired is not None:
        return unpaired_objective(config, fit, net)
    vgg = load_vgg19(Path(run.vgg_weights) if run.vgg_weights else None) if config.loss.perceptual else None
    critic = MultiScaleDiscriminator() if config.loss.adversarial else None
    return Objective(config.fit, config.loss, features=vgg, discriminator=critic)


def _crops(config: TrainConfig, run: RunConfig) -> tuple[Crops | Clips, int]:
    """The crops or clips of the whole run, the number of steps settled, and from how many photographs they come."""
    folder = Path(config.photos) if config.photos else None
    cache = Path(run.cache) if run.cache else None
    pairs = pair_files(folder, "calibration")
    if pairs and config.unpaired is not None:
        raise ConfigError(
            f"{folder} holds blurred and sharp pairs", hint="train on them without --unpaired, or name its sharp folder"
        )
    paths = [pair.sharp for pair in pairs] or sharp_files(folder, "calibration")
    fit = config.fit
    if config.epochs is not None:
        fit = dataclasses.replace(fit, steps=steps_of(config.epochs, len(paths), fit.batch))
    if config.unpaired is not None:
        return unpaired_crops(config, fit, paths, cache), len(paths)
    names = [str(path) for path in paths]
    if config.clip:
        assert config.camera is not None
        blur_function(config.camera)  # it says so where OpenCV is missing, before anything else needs it
        if pairs:
            return _clips_of(pairs, fit, config.clip, cache), len(paths)
        from deblur_deploy.data.clips import FilmedClips

        return FilmedClips(open_photos(paths, cache), fit, config.clip, config.camera, names), len(paths)
    if pairs:
        return PairedCrops(open_pairs(pairs, cache), fit, config.augment, names), len(paths)
    return BlurredCrops(open_photos(paths, cache), fit, config.blur, config.augment, names), len(paths)


def _clips_of(pairs: Sequence[PairFiles], fit: FitConfig, clip: ClipConfig, cache: Path | None) -> SequenceClips:
    """Clips of films: pairs are consecutive frames."""
    from deblur_deploy.data.clips import SequenceClips

    films = films_of(pairs)
    return SequenceClips([open_pairs(frames, cache) for frames in films.values()], fit, clip, list(films))


def _teller(on_step: OnStep | None, steps: int) -> Callable[[int, float], None] | None:
    return (lambda step, loss: on_step(step, steps, loss)) if on_step else None


@contextmanager
def _monitor(run: RunConfig, keeper: StateKeeper, devices: Devices, done: int) -> Iterator[Monitor | None]:
    """TensorBoard's files beside the state, in the process that writes files, if they are wanted."""
    if not (run.tensorboard and devices.is_main):
        yield None
        return
    pair = load_pairs(None, "evaluation")[0]
    sample = torch.from_numpy(to_batch(pair.blurred)), torch.from_numpy(to_batch(pair.sharp))
    monitor = Monitor(keeper.folder / "tensorboard", done, sample)
    try:
        yield monitor
    finally:
        monitor.close()


def _figures(net: SRN, report: FitReport) -> dict[str, Any]:
    return {
        **network_quality(net, load_pairs(None, "evaluation")),
        "seconds": round(report.seconds, 1),
        "data_seconds": round(report.data_seconds, 1),
        "loss": report.loss,
    }


def _start(source: Artifact | None, config: TrainConfig) -> SRN:
    """The network to train, which takes the crops: the source's, widened where that is wanted, or a new one."""
    planned = planned_network(source, config)
    if source is not None and source.network.quantization is not None:
        raise ArtifactError(f"{source.path} is quantized", hint="go on from the float checkpoint before it")
    net = SRN(planned) if source is None else load_network(source)
    assert isinstance(net, SRN)
    if planned.temporal and not net.config.temporal:
        net = make_temporal(net)
    net = net if net.config == planned else widen(net, planned, config.fit.seed)
    _check_crop(config.fit, net)
    return net
