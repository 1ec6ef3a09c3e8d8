"""Training on footage that has no sharp twin: a second generator blurs, and each has to undo what the other did.

Two discriminators see whether restored footage looks like the sharp photographs, and blurred photographs like the
footage. The second generator starts from random weights, so it first learns alone, from what the generator, which must
already deblur, makes of the footage.

Source: Zhu et al., *Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks*, ICCV 2017,
equations 1 to 3 in the form of its section 4, and the identity loss of its section 5.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from deblur_deploy.config import FitConfig, LossConfig, ShakeConfig, TrainConfig, UnpairedConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ConfigError, require
from deblur_deploy.data.cache import open_photos
from deblur_deploy.data.footage import UnpairedCrops, check_apart, footage_files, open_footage
from deblur_deploy.data.pairs import Pair
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.quality.evaluate import evaluate_network
from deblur_deploy.training.discriminator import MultiScaleDiscriminator
from deblur_deploy.training.guard import Guard
from deblur_deploy.training.loop import uses_bfloat16
from deblur_deploy.training.losses import Objective, multi_scale

_BLUR_DEPTHS = (1, 1, 1)
"""Residual blocks of the second generator: blurring is easier than deblurring."""


class Critics(nn.Module):
    """The two discriminators: one knows sharp photographs, the other the blurred footage."""

    def __init__(self) -> None:
        super().__init__()
        self.sharp = MultiScaleDiscriminator()
        self.blurred = MultiScaleDiscriminator()


class UnpairedObjective(Objective):
    """Cycle, identity and adversarial losses of two generators.

    Args:
        fit: Weight of the coarser scales.
        config: Weights of the losses and rates of the networks.
        net: The generator.
        blurrer: The second generator.
        critics: The discriminators; without them there is no adversarial loss.
    """

    def __init__(
        self, fit: FitConfig, config: UnpairedConfig, net: nn.Module, blurrer: nn.Module, critics: Critics | None
    ) -> None:
        super().__init__(fit, LossConfig(discriminator_lr=config.discriminator_lr))
        self.config = config
        self.net = net
        self.partner = blurrer
        self.partner_lr = config.blur_lr
        self.frozen_steps = int(config.blur_share * fit.steps)
        self.critic = self.critics = critics
        self._made_blurred: Tensor | None = None

    def terms(self, estimates: list[Tensor], blurred: Tensor, sharp: Tensor) -> dict[str, Tensor]:
        """Every loss that is switched on, already weighted.

        Where the estimates carry no gradient, the generator stands still, and what only it would learn from is left
        out.

        Args:
            estimates: The generator's of the footage, coarse to fine, the last (N, 3, H, W).
            blurred: (N, 3, H, W) RGB in [0, 1], crops of the footage.
            sharp: Same shape, crops of sharp photographs of something else.
        """
        assert self.partner is not None
        restored = estimates[-1].float()
        learns = restored.requires_grad
        made_blurred = self._scales(self.partner, sharp)[-1]
        cycle = self._distance(self._scales(self.partner, restored), blurred)
        if learns:
            cycle = cycle + self._distance(self._scales(self.net, made_blurred), sharp)
        terms = {"cycle": self.config.cycle * cycle}
        if self.config.identity:
            identity = self._distance(self._scales(self.partner, blurred), blurred)
            if learns:
                identity = identity + self._distance(self._scales(self.net, sharp), sharp)
            terms["identity"] = self.config.identity * identity
        if self.critics is not None:
            fooling = self.critics.blurred.fooling_loss(made_blurred)
            if learns:
                fooling = fooling + self.critics.sharp.fooling_loss(restored)
            terms["adversarial"] = self.config.adversarial * fooling
        self._made_blurred = made_blurred.detach()
        return terms

    def telling_loss(self, restored: Tensor, blurred: Tensor, sharp: Tensor) -> Tensor:
        """The sum of both discriminators' losses, without gradient penalty, after :meth:`terms` of the same crops."""
        assert self.critics is not None
        assert self._made_blurred is not None
        of_sharp = self.critics.sharp.telling_loss(restored, sharp, 0.0)
        return of_sharp + self.critics.blurred.telling_loss(self._made_blurred, blurred, 0.0)

    def _scales(self, net: nn.Module, image: Tensor) -> list[Tensor]:
        """All estimates of a network, in float32."""
        device = image.device
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(self.fit, device)):
            estimates: list[Tensor] = net.forward_scales(image)  # type: ignore[operator]
        return [estimate.float() for estimate in estimates]

    def _distance(self, estimates: list[Tensor], target: Tensor) -> Tensor:
        return multi_scale(estimates, target, self.fit.coarse_weight)


def check_unpaired(source: Artifact | None, config: TrainConfig) -> None:
    """Refuse what does not go with footage, before anything is read.

    Args:
        source: What the run starts from.
        config: Any recipe; one without ``unpaired`` is not looked at.

    Raises:
        ConfigError: There is nothing to start from or no footage, or the recipe has settings of other training.
    """
    if config.unpaired is None:
        return
    require(
        config.unpaired.blurred is not None,
        "the recipe has [unpaired], and no footage is named",
        "give --unpaired with a folder of blurred pictures or films, or `blurred` under [unpaired]",
    )
    if source is None:
        raise ConfigError(
            "training on footage has nothing to start from",
            hint="give --init with a generator that already deblurs, such as one that `train` made without --unpaired",
        )
    usual, fit = FitConfig(), config.fit
    of_others = {
        "[camera]": config.camera is not None,
        "[shake]": config.shake != ShakeConfig(),
        "[loss]": config.loss != LossConfig(),
        "augment.linear_share": config.augment.linear_share > 0,
        "fit.distill_weight": fit.distill_weight != usual.distill_weight,
        "fit.feature_weight": fit.feature_weight != usual.feature_weight,
    }
    if given := [name for name, is_given in of_others.items() if is_given]:
        raise ConfigError(
            f"the recipe has {', '.join(given)}, which training on footage does not use",
            hint="leave it out: the footage brings its own blur, there is no teacher, and weights stand in [unpaired]",
        )


def unpaired_crops(config: TrainConfig, fit: FitConfig, photos: Sequence[Path], cache: Path | None) -> UnpairedCrops:
    """The crops of a run on footage.

    Args:
        config: A recipe with ``unpaired``.
        fit: Its schedule, with the number of steps settled.
        photos: The sharp photographs.
        cache: Folder for decoded pictures.

    Raises:
        ArtifactError: There is no footage, or a file cannot be read.
        ConfigError: Footage and photographs are the same ones, or too small for the crops.
    """
    assert config.unpaired is not None
    assert config.unpaired.blurred is not None
    place = Path(config.unpaired.blurred)
    if config.photos is not None:
        check_apart(place, Path(config.photos))
    footage, names = open_footage(footage_files(place), config.unpaired.film_frames, cache)
    names += [str(path) for path in photos]
    return UnpairedCrops(footage, open_photos(photos, cache), fit, config.augment, names)


def unpaired_objective(config: TrainConfig, fit: FitConfig, net: SRN) -> UnpairedObjective:
    """The losses of a run on footage, with a second generator and discriminators of random weights."""
    assert config.unpaired is not None
    blurrer = SRN(SRNConfig.from_base(config.unpaired.blur_base, _BLUR_DEPTHS, net.config.stem))
    critics = Critics() if config.unpaired.adversarial else None
    return UnpairedObjective(fit, config.unpaired, net, blurrer, critics)


def guard_of(config: UnpairedConfig, pairs: list[Pair]) -> Guard:
    """What watches a run on footage: PSNR on pairs that have nothing to do with it."""
    return Guard(lambda net: evaluate_network(_FromHost(net), pairs), config.guard_db, config.check_every)


class _FromHost(nn.Module):
    """A network on any device, for evaluation, which has its pictures in the memory of the processor."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        device = next(self.net.parameters()).device
        return self.net(image.to(device)).cpu()  # type: ignore[no-any-return]
