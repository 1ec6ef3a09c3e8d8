"""Settings of training on footage that has no sharp twin."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deblur_deploy.core.errors import require


@dataclass(frozen=True)
class UnpairedConfig:
    """Training on blurred footage beside sharp photographs of something else (see ``training/cycle.py``).

    Args:
        blurred: Folder of blurred pictures and films, or one film; ``--unpaired`` names it.
        film_frames: How many frames of each film are kept, evenly spread over it.
        cycle: Weight of the L1 between a picture and what comes back from both generators.
        identity: Weight of the L1 between a picture and what a generator makes of one that it should leave alone; 0
            saves a third of the time.
        adversarial: Weight of the least-squares GAN; 0 does without discriminators.
        discriminator_lr: Learning rate of the two discriminators.
        blur_base: Width of the finest level of the second generator, which blurs.
        blur_lr: Its peak learning rate.
        blur_share: Share of the steps, at the beginning, in which the generator stands still and the second one learns
            to blur like the footage.
        guard_db: How far PSNR on the shipped pairs may fall below that of the start. Where it falls further, the run
            ends and its best state is taken.
        check_every: Steps between two of these measurements.
    """

    blurred: str | None = None
    film_frames: int = 100
    cycle: float = 10.0
    identity: float = 5.0
    adversarial: float = 1.0
    discriminator_lr: float = 1e-4
    blur_base: int = 16
    blur_lr: float = 1e-3
    blur_share: float = 0.5
    guard_db: float = 0.3
    check_every: int = 100

    def __post_init__(self) -> None:
        require(self.film_frames >= 1, f"film_frames is {self.film_frames}", "give 1 or more, such as 100")
        require(0 < self.cycle < math.inf, f"cycle is {self.cycle}", "give more than 0, such as 10.0")
        for name in ("identity", "adversarial", "guard_db"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"{name} is {value}", "give 0 or more")
        for name in ("discriminator_lr", "blur_lr"):
            rate = getattr(self, name)
            require(0 < rate < math.inf, f"{name} is {rate}", "give a learning rate, such as 1e-4")
        require(self.blur_base >= 1, f"blur_base is {self.blur_base}", "give 1 or more, such as 16")
        require(0 <= self.blur_share < 1, f"blur_share is {self.blur_share}", "give 0 to below 1, such as 0.5")
        require(self.check_every >= 1, f"check_every is {self.check_every}", "give 1 or more steps")
