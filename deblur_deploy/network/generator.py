"""The interface of every generator for the stages that work on it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol, Self, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.network.scales import Scales


class Generator(nn.Module, ABC):
    """A restoration network: blurred RGB in [0, 1] to restored RGB, any size from 1x1.

    Attributes:
        arch: Its name in the table of architectures.
        config: A frozen dataclass of plain data from which it can be built again.
        multiple_of: Divisor of height and width inside the network.
        smallest_side: Least height and width inside the network.
    """

    arch: str
    config: Any
    multiple_of: int = 1
    smallest_side: int = 1

    def forward(self, blurred: Tensor) -> Tensor:
        """Restore a photograph.

        Args:
            blurred: (N, 3, H, W), floating point, RGB in [0, 1], any H and W from 1.

        Returns:
            (N, 3, H, W), RGB, close to [0, 1] but not necessarily clamped.
        """
        height, width = blurred.shape[-2:]
        estimates = self.forward_scales(pad_to_multiple(blurred, self.multiple_of, self.smallest_side))
        return estimates[-1][..., :height, :width]

    @classmethod
    def example(cls) -> Self:
        """Some network of this kind, whose arrays have the usual names."""
        return cls()

    @classmethod
    def read_config(cls, shapes: Mapping[str, Sequence[int]]) -> Any:
        """The config of the network whose arrays have these shapes; networks that are known by name bring their own.

        Raises:
            KeyError: An array that every such network has is missing; the exception names it.
        """
        raise NotImplementedError(f"{cls.__name__} cannot be recognised by its arrays alone")

    @classmethod
    def from_published(
        cls,
        weights: Mapping[str, Tensor],
        norm: Literal["image", "folded"] | None = None,
    ) -> Mapping[str, Tensor]:
        """A published checkpoint's weights by the names of this network; unchanged by default.

        Args:
            weights: The checkpoint's.
            norm: How a network is to be normalised that can be in two ways (see ``conv_norm.py``).
        """
        return weights

    @abstractmethod
    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        """The estimates of all scales, coarse to fine, the last (N, 3, H, W); nothing is padded.

        A network that works at one scale gives one estimate.

        Args:
            blurred: (N, 3, H, W) with H and W from :attr:`smallest_side` and divisible by :attr:`multiple_of`.
        """

    def block_chains(self) -> tuple[tuple[str, ...], ...]:
        """Residual blocks that the network can do without, by the row of blocks that they stand in.

        Of each row the last blocks can go, so that those before them stay what they are. A network that offers none
        cannot lose depth.
        """
        return ()

    def without_blocks(self, blocks: Collection[str]) -> Generator:
        """A network of the same weights without some blocks at the ends of its rows; this one is left as it is.

        Args:
            blocks: Names out of :meth:`block_chains`.
        """
        if not blocks:
            return copy.deepcopy(self)
        gone = tuple(f"{block}." for block in blocks)
        left = {name: value for name, value in self.state_dict().items() if not name.startswith(gone)}
        net = type(self)(self.read_config({name: value.shape for name, value in left.items()}))
        net.load_state_dict(left)
        return net.train(self.training)

    def forward_once(self, image: Tensor) -> Tensor:
        """A pass in which every layer runs exactly once, for tools that trace which channels depend on which.

        Estimates of coarser scales are enlarged and added, so that no layer is without a part in the result. Networks
        that run a layer several times in ``forward_scales`` bring their own.
        """
        *coarser, restored = self.forward_scales(image)
        size = [int(side) for side in restored.shape[-2:]]
        for estimate in coarser:
            restored = restored + F.interpolate(estimate, size, mode="nearest")
        return restored

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that the network works at for a picture of this size."""
        return padded_side(height, self.multiple_of, self.smallest_side), padded_side(
            width, self.multiple_of, self.smallest_side
        )


@runtime_checkable
class ScaleRecurrent(Protocol):
    """A generator whose scales can be run one by one, coarse to fine."""

    @property
    def scales(self) -> Scales:
        """How its scales fit together."""

    def run_scale(self, image: Tensor, coarser: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Run one scale.

        Args:
            image: Blurred picture of this scale, (N, 3, h, w), h and w divisible by twice the state's stride, or by the
                stride on the coarsest scale.
            coarser: What this method gave on the coarser scale: estimate (N, 3, h/2, w/2) and state; None on the
                coarsest.

        Returns:
            The estimate (N, 3, h, w) and the state (N, R, h/stride, w/stride).
        """


def padded_side(side: int, multiple: int, smallest: int = 1) -> int:
    """The least length from ``side`` and ``smallest`` up that divides by ``multiple``."""
    side = max(side, smallest)
    return side + -side % multiple


def pad_to_multiple(image: Tensor, multiple: int, smallest: int = 1) -> Tensor:
    """Repeat the last row and column until height and width divide by ``multiple`` and are at least ``smallest``."""
    height, width = image.shape[-2:]
    bottom = padded_side(height, multiple, smallest) - height
    right = padded_side(width, multiple, smallest) - width
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image
