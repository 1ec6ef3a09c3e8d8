"""A wider or deeper SRN that computes what a trained one computes, to go on training from (Net2Net).

Chen, Goodfellow and Shlens (*Net2Net: Accelerating Learning via Knowledge Transfer*, ICLR 2016): a group of channels
grows by repeating channels, and the weights that read a repeated channel are shared out among its copies (their
equation 2). Further residual blocks start as the identity. Here every single weight is shared out in proportions of
its own: copies that were read alike would get the same gradient but for its scale, which Adam ignores, and would stay
copies for ever.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.network.srn import SRN, SRNConfig

_LEAST_SHARE = 0.25
"""Random numbers of 0 to 1 are raised by this before they become shares, so that none is next to nothing."""


def widen(net: SRN, config: SRNConfig, seed: int = 0) -> SRN:
    """Grow a network without changing what it computes.

    A larger stem is the exception, since every level then works at a smaller size: the result restores what the source
    restores of the picture at that size. A motion of some length is half as long there, so this is most of what a
    source is worth on long blur, at a quarter of its cost.

    Args:
        net: A float network, trained or not; it is left as it is.
        config: Widths and depths of the result: in no group below those of ``net``. Its stem may only be larger than
            1 where that of ``net`` is 1, or the same.
        seed: Seed of the shares and of the new blocks; torch's global generator is neither read nor moved.

    Returns:
        A network of ``config`` on the processor, in the mode of ``net``; its output differs by rounding alone.

    Raises:
        ConfigError: Some group would shrink; it is named.
    """
    if shrinking := _shrinking(net.config, config):
        raise ConfigError(
            f"the recipe is narrower than the network to start from: {', '.join(shrinking)}",
            hint="leave base and depths out to keep its widths, or raise them; only prune makes a network narrower",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wide = SRN(config)
        for name, layer in wide.named_modules():
            if name.endswith("conv2") and isinstance(layer, nn.Conv2d):
                _zero(layer)  # the identity, where the source has no such block to copy
        source, target = _coarsened(net.state_dict(), config.stem // net.config.stem), wide.state_dict()
        grown = {name: _grown(name, tensor.cpu(), target[name].shape) for name, tensor in source.items()}
    wide.load_state_dict(target | grown)
    return wide.train(net.training)


def _coarsened(weights: dict[str, Tensor], factor: int) -> dict[str, Tensor]:
    """Weights that see the mean of each block of pixels, and give every pixel of a block the same residual."""
    pixels = factor**2
    enter, head = "levels.0.enter.weight", ("head.weight", "head.bias")
    coarse = {name: weights[name].repeat_interleave(pixels, dim=0) for name in head}
    # pixel_unshuffle puts the pixels of a block behind each other, channel by channel, and pixel_shuffle likewise.
    return weights | coarse | {enter: (weights[enter] / pixels).repeat_interleave(pixels, dim=1)}


def _shrinking(before: SRNConfig, after: SRNConfig) -> list[str]:
    """Groups that would lose channels, and levels that would lose blocks, with both sizes."""
    wanted = _sizes(after)
    return [
        f"{name} from {size} to {wanted.get(name, 0)}"
        for name, size in _sizes(before).items()
        if wanted.get(name, 0) < size
    ]


def _sizes(config: SRNConfig) -> dict[str, int]:
    """Size of every group of channels by its name."""
    sizes = {"recurrent_channels": config.recurrent_channels, "stem": config.stem}
    for field in ("level_channels", "pyramid_channels", "smooth_channels"):
        sizes |= {f"{field}[{index}]": size for index, size in enumerate(getattr(config, field))}
    for level, blocks in enumerate(config.block_channels):
        sizes |= {f"block_channels[{level}][{index}]": size for index, size in enumerate(blocks)}
    return sizes


def _zero(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def _grown(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """A weight or bias brought to the shape that it has in the wider network."""
    if tensor.ndim == 1:
        return _repeated(tensor, 0, shape[0])
    # A transposed convolution has its inputs first.
    inputs, outputs = (0, 1) if name.startswith("pyramid.up") else (1, 0)
    parts = 2 if name == "recurrent.gate.weight" else 1  # the gate reads candidate and state, one after the other
    wide = _repeated(tensor, outputs, shape[outputs]).double()
    pieces = wide.chunk(parts, dim=inputs)
    size = shape[inputs] // parts
    return torch.cat([_shared_out(piece, inputs, size) for piece in pieces], dim=inputs).to(tensor.dtype)


def _repeated(tensor: Tensor, axis: int, size: int) -> Tensor:
    """Channels along an axis, from the first again until there are ``size``."""
    return tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])


def _shared_out(weight: Tensor, axis: int, size: int) -> Tensor:
    """Input channels repeated like :func:`_repeated`, each weight divided among the copies of its channel."""
    have = weight.shape[axis]
    if size == have:
        return weight
    copies = _repeated(weight, axis, size)
    portions = torch.rand(copies.shape, dtype=copies.dtype) + _LEAST_SHARE
    totals = torch.zeros_like(weight).index_add_(axis, torch.arange(size) % have, portions)
    return copies * portions / _repeated(totals, axis, size)
