"""What training minimises: a weighted sum of losses on the estimates of every scale, and feature distillation.

Feature distillation compares where a student and its teacher look, without any weights of its own. A pruned student has
fewer channels than its teacher, so it compares attention maps rather than features: the sum of squares over channels,
scaled to unit length. A network names the layers to compare in a ``feature_layers`` attribute.

Source: Zagoruyko and Komodakis, *Paying More Attention to Attention*, ICLR 2017, equations 1 and 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.config import FitConfig, LossConfig
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.network.weights_file import read_state_dict
from deblur_deploy.training.discriminator import MultiScaleDiscriminator

_VGG_CONVOLUTIONS = (
    *((0, 3, 64), (2, 64, 64)),
    *((5, 64, 128), (7, 128, 128)),
    *((10, 128, 256), (12, 256, 256), (14, 256, 256)),
)
"""Index, inputs and outputs of VGG19's convolutions up to conv3_3, as torchvision numbers its ``features``."""

_VGG_POOLS = (4, 9)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGG19Features(nn.Module):
    """VGG19 (Simonyan and Zisserman, 2015) up to conv3_3, with torchvision's key names ``features.N.weight``.

    conv3_3 before its ReLU is the layer of DeblurGAN (Kupyn et al., CVPR 2018). Weights never train.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: dict[int, nn.Module] = {
            index: nn.Conv2d(inputs, outputs, 3, padding=1) for index, inputs, outputs in _VGG_CONVOLUTIONS
        }
        layers |= {index: nn.MaxPool2d(2) for index in _VGG_POOLS}
        last = _VGG_CONVOLUTIONS[-1][0]
        self.features = nn.Sequential(*(layers.get(index, nn.ReLU()) for index in range(last + 1)))
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Features (N, 256, H/4, W/4) of RGB (N, 3, H, W) in [0, 1]."""
        return self.features((image - self.mean) / self.std)  # type: ignore[operator, no-any-return]


def load_vgg19(path: Path | None) -> VGG19Features:
    """VGG19's features from a file of torchvision's weights.

    Args:
        path: ``.pth``, ``.pt`` or ``.safetensors`` with ``features.N.weight`` and ``features.N.bias``; layers behind
            conv3_3 and the classifier are left out.

    Raises:
        ConfigError: No path was given.
        ArtifactError: The file is missing or damaged, or lacks layers.
    """
    if path is None:
        raise ConfigError(
            "the perceptual loss needs VGG19 weights, and no file was named",
            hint="give --vgg-weights PATH (torchvision's vgg19 state_dict), or set perceptual = 0 under [loss]",
        )
    net = VGG19Features()
    wanted, found = net.state_dict(), read_state_dict(path)
    for name, tensor in wanted.items():
        if name not in found or found[name].shape != tensor.shape:
            has = f"{tuple(found[name].shape)}" if name in found else "nothing"
            raise ArtifactError(
                f"{path} has {has} for {name}, which in VGG19 has the shape {tuple(tensor.shape)}",
                hint="give the state_dict of torchvision's vgg19, without batch normalisation",
            )
    net.load_state_dict({name: found[name] for name in wanted})
    return net


def perceptual_loss(features: VGG19Features, estimate: Tensor, sharp: Tensor) -> Tensor:
    """Mean squared distance of features (Johnson et al., ECCV 2016, equation 2).

    Args:
        features: The feature network.
        estimate: (N, 3, H, W) RGB around [0, 1].
        sharp: Same shape.
    """
    with torch.no_grad():
        wanted = features(sharp)
    return F.mse_loss(features(estimate), wanted)


def frequency_loss(estimate: Tensor, sharp: Tensor) -> Tensor:
    """Mean absolute difference of real and imaginary parts of the 2-D Fourier transforms.

    The multi-scale frequency reconstruction loss of MIMO-UNet (Cho et al., ICCV 2021, equation 6), with the unscaled
    transform as in its code.

    Args:
        estimate: (N, 3, H, W).
        sharp: Same shape.
    """
    difference = torch.fft.rfft2(estimate.float() - sharp.float())
    return torch.view_as_real(difference).abs().mean()


def multi_scale(estimates: list[Tensor], sharp: Tensor, coarse_weight: float, frequency: bool = False) -> Tensor:
    """One loss on the full-size estimate, plus ``coarse_weight`` times the same on each coarser one.

    Args:
        estimates: Coarse to fine, the last (N, 3, H, W); several may be of one size.
        sharp: (N, 3, H, W); coarser targets are its means over the pixels that one of theirs stands for.
        coarse_weight: Weight of the coarser scales.
        frequency: Compare Fourier transforms instead of pixels.
    """
    compare = frequency_loss if frequency else F.l1_loss
    loss = compare(estimates[-1], sharp)
    target = sharp
    for estimate in reversed(estimates[:-1]):
        if estimate.shape != target.shape:
            target = _shrunk(target, estimate)
        loss = loss + coarse_weight * compare(estimate, target)
    return loss


def _shrunk(target: Tensor, like: Tensor) -> Tensor:
    """A target of another's size: its 2x2 means where that is half, else means over areas."""
    halved = [side // 2 for side in target.shape[-2:]]
    if list(like.shape[-2:]) == halved:
        return F.avg_pool2d(target, 2)
    height, width = like.shape[-2:]
    return F.adaptive_avg_pool2d(target, (height, width))


class ForwardScales(nn.Module):
    """A generator whose plain call gives all scales: what is wrapped for several processes must be called plainly.

    Args:
        net: The generator.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, blurred: Tensor) -> list[Tensor]:
        """The estimates of ``forward_scales``."""
        return self.net.forward_scales(blurred)  # type: ignore[no-any-return, operator]


class Objective:
    """The weighted sum of losses that a run minimises.

    ``match``, where it is set, makes the student follow the teacher's features too.

    Args:
        fit: Weights of the coarser scales and of the teacher.
        loss: Weights of the losses.
        teacher: Network whose full-size picture the student also follows.
        features: VGG19, where ``loss.perceptual`` is above 0.
        discriminator: Where ``loss.adversarial`` is above 0.

    Raises:
        ConfigError: A loss has a weight and lacks its network.
    """

    def __init__(
        self,
        fit: FitConfig,
        loss: LossConfig | None = None,
        teacher: nn.Module | None = None,
        features: VGG19Features | None = None,
        discriminator: MultiScaleDiscriminator | None = None,
    ) -> None:
        self.fit = fit
        self.loss = loss or LossConfig()
        self.teacher = teacher
        self.features = features if self.loss.perceptual else None
        self.discriminator = discriminator if self.loss.adversarial else None
        self.match: FeatureMatch | None = None
        self.critic: nn.Module | None = self.discriminator
        """What learns against the generator; an optimizer of its own trains it."""
        self.partner: nn.Module | None = None
        """Another network that the same loss trains, and the generator's optimizer."""
        self.partner_lr = fit.lr
        self.frozen_steps = 0
        """Steps at the beginning in which the generator itself stands still."""
        if self.loss.perceptual and features is None:
            raise ConfigError("the perceptual loss has no VGG19", hint="give --vgg-weights, or set perceptual = 0")
        if self.loss.adversarial and discriminator is None:
            raise ConfigError("the adversarial loss has no discriminator", hint="set adversarial = 0")

    def to(self, device: torch.device) -> None:
        """Move teacher, VGG19 and what else is trained to a device."""
        for part in (self.teacher, self.features, self.critic, self.partner):
            if part is not None:
                part.to(device)

    def scales_of(self, net: nn.Module) -> nn.Module:
        """What gives the estimates that are compared, from the first tensor of a batch."""
        return ForwardScales(net)

    def terms(self, estimates: list[Tensor], blurred: Tensor, sharp: Tensor) -> dict[str, Tensor]:
        """Every loss that is switched on, already weighted.

        Args:
            estimates: Of all scales, coarse to fine, the last (N, 3, H, W).
            blurred: (N, 3, H, W) RGB in [0, 1]; what a teacher sees.
            sharp: Same shape.
        """
        estimates = [estimate.float() for estimate in estimates]
        finest, terms = estimates[-1], {}
        if self.loss.content:
            terms["content"] = self.loss.content * multi_scale(estimates, sharp, self.fit.coarse_weight)
        if self.loss.frequency:
            terms["frequency"] = self.loss.frequency * multi_scale(estimates, sharp, self.fit.coarse_weight, True)
        if self.features is not None:
            terms["perceptual"] = self.loss.perceptual * perceptual_loss(self.features, finest, sharp)
        if self.discriminator is not None:
            terms["adversarial"] = self.loss.adversarial * self.discriminator.fooling_loss(finest)
        if self.teacher is not None:
            with torch.no_grad():
                wanted = self.teacher(blurred)
            terms["distillation"] = self.fit.distill_weight * F.l1_loss(finest, wanted)
            if self.match is not None:
                terms["features"] = self.fit.feature_weight * self.match.loss()
        return terms

    def telling_loss(self, restored: Tensor, blurred: Tensor, sharp: Tensor) -> Tensor:
        """What :attr:`critic` minimises, after :meth:`terms` of the same pictures; no gradient reaches the generator.

        Args:
            restored: (N, 3, H, W), the generator's.
            blurred: Same shape.
            sharp: Same shape.
        """
        assert self.discriminator is not None
        return self.discriminator.telling_loss(restored, sharp, self.loss.gradient_penalty)


class FeatureTap:
    """Keeps what some layers of a network put out, in the order in which they ran.

    Args:
        net: The network.
        layers: Names of the layers; each puts out one tensor (N, C, H, W).
    """

    def __init__(self, net: nn.Module, layers: tuple[str, ...]) -> None:
        self._seen: list[Tensor] = []
        self._handles = [net.get_submodule(name).register_forward_hook(self._keep) for name in layers]

    def _keep(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self._seen.append(output)

    def take(self) -> list[Tensor]:
        """What was kept since the last call."""
        seen, self._seen = self._seen, []
        return seen

    def remove(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()


class FeatureMatch:
    """The distance between what a student and its teacher look at; a context manager that watches both.

    Args:
        student: The network that trains.
        teacher: The network that it is to follow.

    Raises:
        ConfigError: One of them does not say where its features are, or they say different things.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        names = [tuple(getattr(net, "feature_layers", ())) for net in (student, teacher)]
        if not names[0] or names[0] != names[1]:
            raise ConfigError(
                f"student and teacher have the feature layers {names[0]} and {names[1]}",
                hint="both need the same `feature_layers`; feature_weight = 0 does without",
            )
        self._student, self._teacher = FeatureTap(student, names[0]), FeatureTap(teacher, names[1])

    def __enter__(self) -> FeatureMatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._student.remove()
        self._teacher.remove()

    def loss(self) -> Tensor:
        """Distance for the pass that each network has made since the last call."""
        ours, theirs = self._student.take(), self._teacher.take()
        return torch.stack([attention_distance(one, other) for one, other in zip(ours, theirs, strict=True)]).mean()


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance between two attention maps, mean over the batch: 0 where they agree, at most 2.

    Args:
        student: (N, C, H, W).
        teacher: (N, any number of channels, H, W); no gradient goes into it.
    """
    return (_attention(student) - _attention(teacher.detach())).square().sum(1).mean()


def _attention(features: Tensor) -> Tensor:
    """The map as one vector of unit length per picture: (N, C, H, W) to (N, H * W)."""
    return F.normalize(features.float().square().sum(1).flatten(1), dim=1)
