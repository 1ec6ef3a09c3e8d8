"""The sizes that a user's own network works at, found by trying."""

from __future__ import annotations

import torch

from deblur_deploy.core.errors import ConfigError, first_line
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.users_code import CODE_ERRORS

_LEAST_SIDE = 33
"""Pixels of the smaller side that is tried."""

_MULTIPLES = (2, 4, 8, 16, 32, 64, 128)


def require_sizes(net: Generator) -> None:
    """Try a network at sizes that are odd multiples of what it says it needs.

    Args:
        net: Pictures are padded to its ``multiple_of`` before it sees them.

    Raises:
        ConfigError: It does not work there; the hint has the multiple that it works with.
    """
    if (failure := _failure(net, net.multiple_of)) is None:
        return
    works = next((m for m in _MULTIPLES if m % net.multiple_of == 0 and _failure(net, m) is None), None)
    if works is None:
        return  # not a matter of sizes: the next thing that runs it reports what is wrong
    height, width = _size(net.multiple_of)
    raise ConfigError(
        f"{net.arch} does not work at every size: at {width}x{height}, {failure}",
        hint=f"import it with --multiple-of {works}, with which it was tried: pictures are then padded",
    )


def full_size_estimates(net: Generator) -> int:
    """How many pictures of full size a network gives, of which the last is taken; 0 where it takes no small picture."""
    device = next((tensor.device for tensor in net.parameters()), None)
    picture = torch.zeros(1, 3, *net.padded_size(_LEAST_SIDE, _LEAST_SIDE), device=device)
    try:
        with torch.no_grad():
            estimates = net.eval().forward_scales(picture)
    except (ConfigError, *CODE_ERRORS):
        return 0
    return sum(estimate.shape == picture.shape for estimate in estimates)


def _size(multiple: int) -> tuple[int, int]:
    """Two sides that divide by a multiple and not by twice that."""
    times = -(-_LEAST_SIDE // multiple) | 1
    return multiple * times, multiple * (times + 2)


def _failure(net: Generator, multiple: int) -> str | None:
    """What goes wrong at an odd multiple, or None."""
    device = next((tensor.device for tensor in net.parameters()), None)
    try:
        with torch.no_grad():
            net.eval().forward_scales(torch.zeros(1, 3, *_size(multiple), device=device))
    except ConfigError as err:
        return err.message
    except CODE_ERRORS as err:
        return first_line(err)
    return None
