"""The discriminator of the adversarial loss: patches on several scales, least squares, gradient penalty."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchDiscriminator(nn.Module):
    """A PatchGAN discriminator (Isola et al., CVPR 2017) of four strided convolutions.

    Without normalisation, because the gradient penalty is taken for each image on its own.

    Args:
        base: Channels of the first layer; each layer doubles them.
    """

    def __init__(self, base: int) -> None:
        super().__init__()
        widths = (3, base, 2 * base, 4 * base)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """Scores (N, 1, H/8, W/8) on RGB (N, 3, H, W): towards 1 for sharp photographs, 0 for restored ones."""
        return self.layers(image)  # type: ignore[no-any-return]


class MultiScaleDiscriminator(nn.Module):
    """Discriminators of one form on the picture and on its 2x2 means (pix2pixHD, Wang et al., CVPR 2018, section 3.2).

    Args:
        base: Channels of the first layer.
        scales: How many discriminators.
    """

    def __init__(self, base: int = 32, scales: int = 2) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(base) for _ in range(scales))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Scores of each scale, fine to coarse, on RGB (N, 3, H, W)."""
        verdicts = []
        for discriminator in self.scales:
            verdicts.append(discriminator(image))
            image = F.avg_pool2d(image, 2)
        return verdicts

    def fooling_loss(self, restored: Tensor) -> Tensor:
        """The generator's loss (least-squares GAN, Mao et al., ICCV 2017, equation 9), mean over scales.

        The discriminator's own weights get no gradient from it.

        Args:
            restored: (N, 3, H, W).
        """
        self.requires_grad_(False)
        try:
            verdicts = self(restored)
        finally:
            self.requires_grad_(True)
        return _mean_over_scales([0.5 * (verdict - 1).square().mean() for verdict in verdicts])

    def telling_loss(self, restored: Tensor, sharp: Tensor, penalty: float) -> Tensor:
        """The discriminator's loss (the same equation 9), plus ``penalty`` times the gradient penalty.

        Args:
            restored: (N, 3, H, W), no gradient flows into it.
            sharp: Same shape.
            penalty: 0 switches the gradient penalty off.
        """
        restored = restored.detach()
        pairs = zip(self(sharp), self(restored), strict=True)
        loss = _mean_over_scales([0.5 * ((real - 1).square().mean() + fake.square().mean()) for real, fake in pairs])
        return loss + penalty * self.gradient_penalty(restored, sharp) if penalty else loss

    def gradient_penalty(self, restored: Tensor, sharp: Tensor) -> Tensor:
        """``E (|grad D(x)| - 1)^2`` for x between restored and sharp (Gulrajani et al., NeurIPS 2017, equation 3).

        D is the sum of each image's mean scores; the point in between is drawn from torch's global generator.

        Args:
            restored: (N, 3, H, W).
            sharp: Same shape.
        """
        # Drawn on the CPU, so that one saved state repeats the run on every device.
        share = torch.rand(len(sharp), 1, 1, 1).to(sharp)
        between = torch.lerp(restored.detach(), sharp, share).requires_grad_()
        verdict = torch.stack([v.mean(dim=(1, 2, 3)).sum() for v in self(between)]).sum()
        (gradient,) = torch.autograd.grad(verdict, between, create_graph=True)
        norms: Tensor = gradient.flatten(1).norm(dim=1)
        return (norms - 1).square().mean()


def _mean_over_scales(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean()
